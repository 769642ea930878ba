"""The probe: held-out answers whose fall the controller measures, and the pairs it never sees."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.errors import DataError
from prefine.records import content_hash
from prefine.training.budget.settings import AutomaticBudget
from prefine.training.forward.passes import Forward
from prefine.training.items import PlainItem, TokenizedItem
from prefine.training.logging.figures import error_of
from prefine.training.objective.item_table import INITIAL
from prefine.training.reference.prepare import PreparedItems
from prefine.training.reference.scoring import score_completions

FEWEST = 64
"""Items that are held out for the probe, and for the untouched set, at least. Ours."""
_FEWEST_LEFT = 56
"""Those that have to be left of them: of exactly enough, which are ranked and paid for, some turn
out to be too long to be read, or to be alike in tokens. Ours."""


class HeldOutHalves(NamedTuple):
    """Held-out items: those that the controller measures, and those that nothing reads."""

    probe: Sequence[TokenizedItem]
    untouched: Sequence[TokenizedItem]


def halves(held_out: Sequence[TokenizedItem]) -> HeldOutHalves:
    """Cut held-out items in two by a hash of their prompts; items of a prompt stay together.

    Each has half of the prompts; where one has too few items so, as near to half of the items as
    prompts allow.

    Raises:
        DataError: One of the two has fewer than 56 items.
    """
    number = Counter(item.texts[0].prompt for item in held_out)
    ordered = sorted(number, key=lambda ids: content_hash("probe", list(ids)))
    before = [0, *accumulate(number[prompt] for prompt in ordered)]

    def smaller(cut: int) -> int:
        return min(before[cut], len(held_out) - before[cut])

    cut = len(ordered) // 2
    if smaller(cut) < FEWEST:
        cut = max(range(len(before)), key=smaller)
    in_probe = frozenset(ordered[:cut])
    probe = [item for item in held_out if item.texts[0].prompt in in_probe]
    untouched = [item for item in held_out if item.texts[0].prompt not in in_probe]
    if min(len(probe), len(untouched)) < _FEWEST_LEFT:
        words = f"{held_out[0].word}s" if held_out else "items"
        raise DataError(
            f"train.regularizer_weight: auto measures the budget on held-out {words}, half of them "
            f"by the controller and half untouched, and needs {FEWEST} in each; there are "
            f"{len(probe)} and {len(untouched)}, and {_FEWEST_LEFT} would do where some cannot be "
            f"read. Hold out more (pair.held_out_prompts: {2 * FEWEST} or more), or set a fixed "
            "regularizer_weight"
        )
    return HeldOutHalves(probe, untouched)


class Fall(NamedTuple):
    """The fall of the probe in the budget's unit, with its standard error."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Probe:
    """Answers that training should keep likely, with their values under the initial policy.

    Args:
        items: Each is one answer.
        initial: Their log-probabilities under the initial policy.
        tokens: Their lengths.
        prompts: The number of the prompt of each.
        forward: The passes through the policy.
    """

    items: Sequence[PlainItem]
    initial: Float[Tensor, " n"]
    tokens: Float[Tensor, " n"]
    prompts: Int[Tensor, " n"]
    forward: Forward

    @classmethod
    def of(cls, prepared: PreparedItems) -> "Probe":
        """The answers of some items that training should keep likely."""
        table = prepared.table
        wanted = table.relation.wanted(table)
        texts = [(item.id, text) for item in prepared.examples for text in item.texts]
        items = [PlainItem(id_, (text,)) for id_, text in (texts[i] for i in wanted.tolist())]
        return cls(
            items,
            table.references[INITIAL][wanted],
            table.tokens[wanted],
            table.prompts_of_completions[wanted],
            prepared.forward,
        )

    def fall(self, budget: AutomaticBudget) -> Fall:
        """Measure the fall; all processes get the same value."""
        falls = self.initial - score_completions(self.forward, self.items)
        if budget.per == "token":
            falls = falls / self.tokens
        return fall_of(falls.double(), self.prompts, budget)


def fall_of(
    falls: Float[Tensor, " n"], prompts: Int[Tensor, " n"], budget: AutomaticBudget
) -> Fall:
    """The figure of single falls that the budget holds, with its standard error over prompts.

    The error of a quantile is half the distance of the quantiles one standard error of the share
    below and above it.

    Args:
        falls: In the budget's unit.
        prompts: The number of the prompt of each.
        budget: Says which figure.
    """
    if budget.of == "mean":
        return Fall(float(falls.mean()), error_of((falls, prompts)) or 0.0)
    share = budget.quantile
    reach = math.sqrt(share * (1 - share) / len(torch.unique(prompts)))
    wanted = torch.tensor([share - reach, share, share + reach], dtype=falls.dtype)
    low, value, high = falls.cpu().quantile(wanted.clamp(0, 1)).tolist()
    return Fall(value, (high - low) / 2)
