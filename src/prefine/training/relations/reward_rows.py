"""The rows that training a reward model logs, and their figures."""

from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from prefine.losses.rewards.protocol import AnswerRewards
from prefine.metrics.judges.calibration import expected_calibration_error
from prefine.records import Record
from prefine.training.logging.figures import (
    Described,
    FinalRow,
    LoggedStep,
    mean,
    standard_errors,
)

Items = Literal["pairs", "lists"]
_SAMPLES = 200
"""Bootstrap samples of a standard error in the logs."""


class RewardFigures(Record):
    """The figures of a reward model on some items, means over them.

    An item's figures are means over its pairs of a better and a worse answer: `accuracy` is the
    share whose better answer has the higher reward, equal ones half; `margin` is the better one's
    reward minus the other's; `brier` is the square of 1 - sigmoid(margin), .25 where nothing is
    known. `reward` and `reward_sd` are mean and spread over all answers.
    """

    accuracy: float
    margin: float
    brier: float
    reward: float
    reward_sd: float


class RewardStep(RewardFigures, LoggedStep):
    """One optimizer step of a reward model, before its update; `tokens` counts rewards."""

    @property
    def headline(self) -> str:
        """The row in a few words."""
        return f"accuracy {self.accuracy:.0%}, margin {self.margin:.2f}"


class RewardPairStep(RewardStep):
    """A step on pairs."""

    pairs: int


class RewardListStep(RewardStep):
    """A step on lists."""

    lists: int


_FIGURES = (
    ("accuracy (share of comparisons won by the better answer)", "accuracy", ""),
    ("margin of the better answer's reward", "margin", ""),
    ("Brier score of sigmoid(margin)", "brier", ""),
    ("expected calibration error of sigmoid(margin)", "calibration_error", ""),
    ("mean reward", "reward", ""),
)


class RewardFinal(FinalRow, RewardFigures):
    """All training items under the trained reward model; standard errors are over prompts.

    `calibration_error` is the expected calibration error of max(p, 1 - p), p = sigmoid(margin), as
    the probability of being right, in ten bins.
    """

    accuracy_se: float | None
    margin_se: float | None
    brier_se: float | None
    calibration_error: float
    calibration_error_se: float | None

    @property
    def headline(self) -> str:
        """The figures in a few words."""
        return f"accuracy {self.accuracy:.0%}, margin {self.margin:.2f}"


class RewardPairFinal(RewardFinal):
    """Pairs."""

    described: ClassVar[Described] = Described("pairs", "preference pairs", _FIGURES)
    pairs: int


class RewardListFinal(RewardFinal):
    """Lists."""

    described: ClassVar[Described] = Described("lists", "lists of answers", _FIGURES)
    lists: int


class RewardEvaluation(RewardFinal):
    """Held-out items after `step` updates; `loss` is weighted as in training."""

    step: int
    loss: float
    loss_se: float | None
    regularizer: float
    objective: float

    @property
    def headline(self) -> str:
        """The row in a few words."""
        return (
            f"loss {self.loss:.3f}, accuracy {self.accuracy:.0%}, calibration error "
            f"{self.calibration_error:.2f}"
        )


class RewardPairEvaluation(RewardEvaluation):
    """Held-out pairs."""

    pairs: int


class RewardListEvaluation(RewardEvaluation):
    """Held-out lists."""

    lists: int


class RewardRows(NamedTuple):
    """The classes of the rows of one kind of items."""

    step: type[RewardStep]
    final: type[RewardFinal]
    evaluation: type[RewardEvaluation]


ROWS: dict[Items, RewardRows] = {
    "pairs": RewardRows(RewardPairStep, RewardPairFinal, RewardPairEvaluation),
    "lists": RewardRows(RewardListStep, RewardListFinal, RewardListEvaluation),
}


def figures(rewards: AnswerRewards) -> dict[str, float]:
    """The figures that every kind of row has."""
    found = rewards.reward[rewards.present].double()
    return {
        **{name: mean(values) for name, values in _columns(rewards).items()},
        "reward": mean(found),
        "reward_sd": float(found.std(correction=0)),
    }


def errors(rewards: AnswerRewards, prompts: Int[Tensor, " B"]) -> dict[str, float | None]:
    """Standard errors over prompts, and the calibration error with its own."""
    better = rewards.better
    margin = rewards.margin[better].double()
    right = (torch.sign(margin) + 1) / 2
    confidence = torch.sigmoid(margin.abs())
    of_pair = prompts.repeat_interleave(better.sum((1, 2)))
    found = expected_calibration_error(
        confidence.numpy(force=True),
        right.numpy(force=True),
        samples=_SAMPLES,
        prompt_ids=of_pair.numpy(force=True),
    )
    error = found.standard_error
    several = len(torch.unique(prompts)) > 1
    return {
        **standard_errors(_columns(rewards), prompts),
        "calibration_error": found.value / 100,
        "calibration_error_se": error / 100 if several and error is not None else None,
    }


def _columns(rewards: AnswerRewards) -> dict[str, Any]:
    """The values per item whose mean has a standard error."""
    margin = rewards.margin.double()
    return {
        "accuracy": rewards.mean_over_pairs((torch.sign(margin) + 1) / 2),
        "margin": rewards.mean_over_pairs(margin),
        "brier": rewards.mean_over_pairs(torch.sigmoid(-margin).square()),
    }
