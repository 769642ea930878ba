"""Items of several kinds in one step: pairs, lists and labelled answers, each under its own loss.

It stands in no table of losses: a configuration writes `train: {loss: {pairs: …, lists: …}}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prefine.losses.protocol import Loss, LossFunction, PerItem, declare

if TYPE_CHECKING:  # few trainings are of reward models
    from prefine.losses.rewards.protocol import ItemValues


@dataclass(frozen=True)
class MixedLogps:
    """The values of B items of several kinds.

    `parts` are those of each kind that is there, by its name; `places` says which of the B items
    they are. Totals of the step within a part are of its kind alone.
    """

    parts: "Mapping[str, ItemValues]"
    places: Mapping[str, Int[Tensor, " b"]]
    weight: PerItem

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """Values [b] of the items of each kind, in the order of all B items."""
        order = torch.cat([self.places[kind] for kind in values]).argsort()
        return torch.cat(list(values.values()))[order]

    def finite(self) -> Bool[Tensor, " B"]:
        """True for each item all of whose log-probabilities are finite."""
        return self.join({kind: part.finite() for kind, part in self.parts.items()})


StepLogps: TypeAlias = "ItemValues | MixedLogps"
"""The values of the items of a step, of one kind or of several."""


def of_each_kind(function: LossFunction, logps: StepLogps) -> PerItem:
    """The value [B] of a loss that reads any items, of each kind by itself."""
    if isinstance(logps, MixedLogps):
        return logps.join({kind: function(part) for kind, part in logps.parts.items()})
    return function(logps)


@declare(family="composite", reads="any")
def by_kind(
    logps: MixedLogps,
    *,
    pairs: Loss | None = None,
    lists: Loss | None = None,
    labels: Loss | None = None,
) -> PerItem:
    """The loss of each item's kind.

    Kind and needs are those of the parts together.

    Args:
        logps: Of items of several kinds.
        pairs: The loss of pairs.
        lists: The loss of lists.
        labels: The loss of labelled answers.
    Returns: Loss per item [B].

    Raises:
        ValueError: There are items of a kind that has no loss.
    """
    losses = {"pairs": pairs, "lists": lists, "labels": labels}
    values = {}
    for kind, part in logps.parts.items():
        loss = losses[kind]
        if loss is None:
            raise ValueError(f"there are {kind}, and no loss of {kind}")
        values[kind] = loss(part)
    return logps.join(values)
