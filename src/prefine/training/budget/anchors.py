"""Anchors: answers outside the items of a step whose likelihood the weight of the budget holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor

from prefine.errors import DataError
from prefine.training.batches.packing import PackedBatch, Span
from prefine.training.budget.settings import AnchorName, AutomaticBudget
from prefine.training.distributed.processes import own_items
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import LOGPS_ONLY, TokenValues, on_tokens
from prefine.training.items import PlainItem
from prefine.training.memory import synchronized_oom
from prefine.training.step_sources.shuffled import StepSchedule

Anchors = Mapping[AnchorName, Sequence[PlainItem]]


@dataclass(frozen=True)
class AnchorPull:
    """The gradient of a step's anchors: the sum of coefficient * -log-probability.

    Args:
        items: All anchors.
        coefficients: Of the drawn ones, by index, per token.
    """

    items: Sequence[PlainItem]
    coefficients: Mapping[int, float]

    def __call__(self, forward: Forward) -> None:
        """Add the gradient of this process's share of the anchors to the parameters' `.grad`."""

        def coefficients(
            batch: PackedBatch, span: Span, values: TokenValues
        ) -> Float[Tensor, " n"]:
            drawn = [-self.coefficients[item] for item in batch.items[span.items].tolist()]
            # A completion's first text is itself, the other one its prompt.
            each = values.logps.new_zeros(batch.text_lengths[span.completions].shape)
            each[:, 0] = each.new_tensor(drawn)
            return on_tokens(batch, span, each)

        local = own_items(self.items, list(self.coefficients))
        with synchronized_oom(in_step=forward.in_step):
            for batch in forward.passes(forward.cut(self.items, local), backward=True):
                forward.push(batch, partial(coefficients, batch), LOGPS_ONLY)


@dataclass(frozen=True)
class AnchorSets:
    """Anchors by kind, and which of them each step draws: all of a kind before one comes again.

    Args:
        items: The anchors of all kinds.
        ranges: Where each kind lies among them.
        shares: The share of each kind in the pull.
        per_step: Anchors of a step.
        per_token: A coefficient is divided by the answer's tokens.
        seed: Of the order.
    """

    items: Sequence[PlainItem]
    ranges: Mapping[AnchorName, range]
    shares: Mapping[AnchorName, float]
    per_step: int
    per_token: bool
    seed: int

    @classmethod
    def of(
        cls,
        budget: AutomaticBudget,
        anchors: Mapping[AnchorName, Sequence[PlainItem]],
        *,
        per_step: int,
        seed: int,
    ) -> "AnchorSets":
        """Take the anchors that a budget asks for.

        Raises:
            DataError: There is none of a kind.
        """
        items: list[PlainItem] = []
        ranges: dict[AnchorName, range] = {}
        shares: dict[AnchorName, float] = {
            name: share for name, share in budget.shares.items() if name != "chosen"
        }
        for name in shares:
            found = anchors.get(name, ())
            if not found:
                raise DataError(
                    f"train.regularizer.anchor: there is no answer for {name!r}: every completion "
                    "of a training prompt is in an item, or the run starts with items. Name a "
                    "file of completions (train.regularizer.anchors), or use anchor: chosen"
                )
            ranges[name] = range(len(items), len(items) + len(found))
            items += found
        return cls(items, ranges, shares, per_step, budget.per == "token", seed)

    def pull(self, step: int, weight: float) -> AnchorPull | None:
        """The pull of a weight at update number `step`; None where there is none."""
        if not self.items or weight == 0:
            return None
        coefficients: dict[int, float] = {}
        for name, share in self.shares.items():
            number = max(1, round(share * self.per_step / sum(self.shares.values())))
            found = self.ranges[name]
            order = StepSchedule(len(found), number, epochs=1, seed=self.seed)
            drawn = [found[index] for index in order.items_of(step)]
            for index in drawn:
                size = len(self.items[index].texts[0].scored) if self.per_token else 1
                coefficients[index] = weight * share / len(drawn) / size
        return AnchorPull(self.items, coefficients)
