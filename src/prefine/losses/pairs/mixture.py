"""A weighted sum of losses is a loss."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat

from prefine.losses.facts import differences_of
from prefine.losses.protocol import Loss, LossInputs, PerItem, declare


def _check_counts(*, losses: tuple[Loss, ...], weights: tuple[float, ...]) -> None:
    if len(losses) != len(weights):
        raise ValueError(
            f"losses has {len(losses)} parts, weights has {len(weights)}; give each loss one weight"
        )
    differences_of(*losses)


@declare(family="composite", reads="any", check=_check_counts)
def mixture(
    logps: LossInputs,
    *,
    losses: Annotated[tuple[Loss, ...], Field(min_length=1)],
    weights: tuple[NonNegativeFloat, ...],
) -> PerItem:
    """Sum of weight * loss.

    MPO, for example, is dpo, bco and nll (reduction "token_mean") with weights .8, .2 and 1. Kind,
    needs and the items that are read are those of the parts together.

    Args:
        logps: What the parts need.
        losses: The parts, each with its own hyper-parameters.
        weights: One per part.
    Returns: Loss per item [B].
    Source: arXiv:2411.10442 (MPO).
    """
    values = [weight * loss(logps) for loss, weight in zip(losses, weights, strict=True)]
    return sum(values[1:], start=values[0])
