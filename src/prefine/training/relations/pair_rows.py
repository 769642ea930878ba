"""The rows that training on pairs logs, and their figures."""

from typing import Any, ClassVar

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from prefine.losses.facts import option_of
from prefine.losses.protocol import LossFunction, PairLogps
from prefine.records import Record
from prefine.training.logging.figures import (
    Described,
    EvaluatedItems,
    FinalRow,
    mean,
    quantiles,
    standard_errors,
)


class StepRow(Record):
    """One optimizer step, before its update; the means are over the step's pairs, unweighted.

    `loss`, `regularizer` (before its weight) and `objective` are weighted as in training. `margin`
    is the difference of log-ratios, whatever score the loss optimises. `fall` is the initial minus
    the current log-probability of the chosen answer, `token_fall` the same per token, in nats;
    `beyond_budget` is the share of pairs whose fall, in the regularizer's own unit, exceeds its
    delta. `tokens` counts scored tokens. `hyper_parameters` has those that change during training,
    by their paths.
    """

    step: int
    epoch: int
    learning_rate: float
    loss: float
    regularizer: float
    objective: float
    chosen_logp: float
    rejected_logp: float
    chosen_change: float
    rejected_change: float
    margin: float
    accuracy: float
    fall: float
    fall_q10: float
    fall_q50: float
    fall_q90: float
    token_fall: float
    token_fall_q10: float
    token_fall_q50: float
    token_fall_q90: float
    beyond_budget: float | None
    grad_norm: float
    pairs: int
    tokens: int
    hyper_parameters: dict[str, float] = Field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The row in a few words."""
        return f"margin {self.margin:.2f}, chosen answers {-self.fall:+.2f} nats"


class FinalFigures(FinalRow):
    """All training pairs under the trained policy.

    Standard errors are over prompts, None for a single one.
    """

    described: ClassVar[Described] = Described(
        "pairs",
        "preference pairs",
        (
            ("margin", "margin", "nats"),
            ("accuracy (share of pairs whose margin is positive)", "accuracy", ""),
            ("fall of the chosen answer's log-probability", "fall", "nats"),
            ("the same per token", "token_fall", "nats"),
            ("change of the rejected answer's log-probability", "rejected_change", "nats"),
            ("share of pairs beyond the budget", "beyond_budget", ""),
        ),
    )

    pairs: int
    chosen_logp: float
    rejected_logp: float
    chosen_change: float
    rejected_change: float
    rejected_change_se: float | None = None
    margin: float
    margin_se: float | None
    accuracy: float
    accuracy_se: float | None
    fall: float
    fall_se: float | None
    fall_q10: float
    fall_q50: float
    fall_q90: float
    token_fall: float
    token_fall_se: float | None
    token_fall_q10: float
    token_fall_q50: float
    token_fall_q90: float
    beyond_budget: float | None

    @property
    def headline(self) -> str:
        """The figures in a few words."""
        return f"margin {self.margin:.2f}, chosen answers {-self.fall:+.2f} nats"


class EvaluationRow(EvaluatedItems, FinalFigures):
    """Held-out pairs; the indicators are means over the tokens of the chosen answers."""

    @property
    def headline(self) -> str:
        """The row in a few words."""
        return f"loss {self.loss:.3f}, margin {self.margin:.2f}, accuracy {self.accuracy:.0%}"


def figures(
    logps: PairLogps,
    initial_chosen: Float[Tensor, " B"],
    initial_rejected: Float[Tensor, " B"],
    regularizer: LossFunction | None,
) -> dict[str, Any]:
    """The figures that the rows of steps and the final ones share."""
    spread = _spread(logps, initial_rejected)
    means = {
        "chosen_logp": logps.policy_chosen,
        "rejected_logp": logps.policy_rejected,
        "chosen_change": logps.policy_chosen - initial_chosen,
        **spread,
    }
    beyond_budget = None
    if regularizer is not None and (delta := option_of(regularizer, "delta")) is not None:
        fall = spread["token_fall" if option_of(regularizer, "per") == "token" else "fall"]
        beyond_budget = mean(fall > delta)
    return {
        **{name: mean(values) for name, values in means.items()},
        **quantiles("fall", spread["fall"]),
        **quantiles("token_fall", spread["token_fall"]),
        "beyond_budget": beyond_budget,
    }


def errors(
    logps: PairLogps, initial_rejected: Float[Tensor, " B"], prompts: Int[Tensor, " B"]
) -> dict[str, float | None]:
    """Standard errors over prompts, None for a single one."""
    return standard_errors(_spread(logps, initial_rejected), prompts)


def _spread(
    logps: PairLogps, initial_rejected: Float[Tensor, " B"]
) -> dict[str, Float[Tensor, " B"]]:
    """The values per pair whose mean has a standard error; a margin of 0 is half accurate."""
    margin = logps.margin
    fall = logps.initial_chosen - logps.policy_chosen
    return {
        "rejected_change": logps.policy_rejected - initial_rejected,
        "margin": margin,
        "accuracy": (margin > 0).to(margin.dtype) + (margin == 0).to(margin.dtype) / 2,
        "fall": fall,
        "token_fall": fall / logps.chosen_tokens,
    }
