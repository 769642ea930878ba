"""The options of a budget whose weight is set during training, and what that weight pulls at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxtyping import Float
from pydantic import Field, Strict
from torch import Tensor

from prefine.config.checking import or_schedule
from prefine.errors import ConfigError
from prefine.losses.protocol import ListLogps, LossFunction, LossInputs, declare
from prefine.schedules import Schedule

AnchorName = Literal["chosen", "unused", "better"]
Share = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class AutomaticBudget:
    """A budget on held-out answers: a controller sets the weight, see `WeightController`.

    Its error is (fall - delta) / max(|delta|, standard error of the fall), with the fall of the
    probe, which is half of the held-out items. Its weight counts in units of the loss's own slope
    at the first step, so the same gains serve every loss.

    Args:
        delta: How far the answers that training should keep likely may fall [nats per answer, or
            per token]; null never binds. "auto", which is experimental, lets it rise from `start`
            while the reward accuracy of the probe does, and keeps the best weights of `looks`.
        per: "sequence" budgets the summed log-probability, "token" its mean over the answer's
            tokens.
        of: The figure of the probe's falls that is held at delta.
        quantile: The quantile that `of: quantile` holds.
        anchor: The answers whose negative log-probability the weight multiplies: "chosen" those of
            the step's items; "unused" answers of the initial policy to training prompts that are in
            no item; "better" those of them in the upper half of their ranking. A mapping mixes them
            by weights. "auto" is half chosen and half better, or chosen where there is no better
            one; a configuration that ranks completions has it unless it states another.
        anchors: File of prompts with completions to take "unused" from, for imported items.
        every: Steps between two measurements of the probe.
        gain: Of the weight, per measurement.
        proportional: Factor of the change of the error.
        integral: Factor of the error.
        smoothing: Share of the old error in the smoothed one.
        largest_weight: In units of the loss's slope.
        infeasible: The reaction when more weight no longer lowers the fall.
        start: Where `delta: auto` begins.
        step: What it rises by at first; it is halved whenever training goes back.
        looks: How often it measures the reward accuracy.
    """

    delta: (
        Annotated[
            float | Schedule | Literal["auto"], or_schedule(Annotated[float, Strict()], word="auto")
        ]
        | None
    ) = 5.0
    per: Literal["sequence", "token"] = "sequence"
    of: Literal["mean", "quantile"] = "mean"
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.9
    anchor: AnchorName | Literal["auto"] | dict[AnchorName, Share] = "chosen"
    anchors: Path | None = None
    every: Annotated[int, Field(gt=0)] = 3
    gain: Annotated[float, Field(gt=0)] = 0.5
    proportional: Annotated[float, Field(ge=0)] = 3.0
    integral: Annotated[float, Field(gt=0)] = 1.0
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    largest_weight: Annotated[float, Field(gt=0)] = 20.0
    infeasible: Literal["warn", "stop", "lower_learning_rate"] = "warn"
    start: Annotated[float, Field(gt=0)] = 1.0
    step: Annotated[float, Field(gt=0)] = 1.0
    looks: Annotated[int, Field(ge=2)] = 8

    @property
    def shares(self) -> Mapping[AnchorName, float]:
        """The share of each kind of anchor in the pull; they add up to 1."""
        if self.anchor == "auto":
            return {"chosen": 0.5, "better": 0.5}
        if isinstance(self.anchor, str):
            return {self.anchor: 1.0}
        total = sum(self.anchor.values())
        return {name: weight / total for name, weight in self.anchor.items()}

    @property
    def regularizer(self) -> LossFunction:
        """What the weight multiplies on the items of a step."""
        # Where delta climbs, no figure of the logs has a fixed one to compare with.
        delta = None if self.delta == "auto" else self.delta
        return partial(chosen_nll, delta=delta, per=self.per)

    def settled(self, found: Mapping[AnchorName, Sequence[Any]]) -> "AutomaticBudget":
        """The budget with what `anchor: auto` stands for, given the anchors that there are."""
        if self.anchor != "auto":
            return self
        return replace(self, anchor=dict(self.shares) if found.get("better") else "chosen")

    def check(self) -> None:
        """Check what the options cannot say one by one.

        Raises:
            ConfigError: A mixture is empty, a file is named for anchors that read none, or a
                training that keeps its best weights is to stop by itself.
        """
        if self.delta == "auto" and self.infeasible == "stop":
            raise ConfigError(
                "train.regularizer.infeasible: stop does not go together with delta: auto, which "
                "keeps the best weights of the whole training; use warn or lower_learning_rate"
            )
        if not self.shares:
            raise ConfigError("train.regularizer.anchor: the mixture is empty; name an anchor")
        if self.anchors is not None and not self.shares.keys() & {"unused", "better"}:
            raise ConfigError(
                f"train.regularizer.anchors: {self.anchors} is not read with anchor: chosen; take "
                "it out, or use anchor: unused"
            )


@declare(family="regularizer")
def chosen_nll(
    logps: LossInputs,
    *,
    delta: float | Schedule | None = None,
    per: Literal["sequence", "token"] = "sequence",
) -> Float[Tensor, " B"]:
    """-log-probability of the answer of each item that training should keep likely.

    Args:
        logps: Of the items. Of a list, the best answer counts; a bad labelled answer has 0.
        delta: The budget, for figures; it changes no value.
        per: "token" divides by the answer's tokens.
    Returns: [B], nats (per token with "token").
    """
    values = -logps.policy_chosen
    if per == "token":
        values = values / logps.chosen_tokens
    # Of equally good best answers the first, which is the one that the probe measures.
    return values[:, 0] if isinstance(logps, ListLogps) else logps.of_chosen(values)
