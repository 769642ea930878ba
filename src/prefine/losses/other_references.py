"""Values of pairs under further references, and the one reference that several make."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Mode = Literal["harmonic", "geometric", "arithmetic"]
"""The weighted mean of probabilities that several references make."""
Clip = Literal["adaptive", "fixed", "none"]
"""The room that further references have around the first."""

Weights = Literal["stated", "held_out", "example", "example_swapped"]
"""The weights that the references get."""


@dataclass(frozen=True)
class OtherReferences:
    """Summed log-probabilities [B, K - 1] of B pairs under all references but the first, in nats.

    Those under the first of K references are `ref_chosen` and `ref_rejected` of the pairs.
    `weights` are the stated ones of all K, the first one's first; they sum to 1.
    `held_out_weights` are their shares of |log-probability of chosen minus that of rejected|, in
    the mean over held-out pairs; None without such pairs.
    """

    chosen: Float[Tensor, "B others"]
    rejected: Float[Tensor, "B others"]
    weights: tuple[float, ...]
    held_out_weights: tuple[float, ...] | None = None


class Sides(NamedTuple):
    """Log-probabilities [B, K] of chosen and of rejected answers, nats, or shares of both."""

    chosen: Float[Tensor, "B K"]
    rejected: Float[Tensor, "B K"]


def confidence_shares(refs: Sides) -> Float[Tensor, "B K"]:
    """Each reference's share of |log-probability of chosen minus rejected|; 1 / K where all are 0.

    Source: arXiv:2405.16388 (adaptive reference weighting).
    """
    confidence = (refs.chosen - refs.rejected).abs()
    total = confidence.sum(1, keepdim=True)
    even = torch.full_like(confidence, 1 / confidence.shape[1])
    return torch.where(total > 0, confidence / total.where(total > 0, 1), even)


def shares_of(others: OtherReferences, refs: Sides, which: Weights) -> Float[Tensor, "B K"]:
    """The weights of the references, which sum to 1.

    Args:
        others: Has those that are stated and those of held-out pairs.
        refs: Log-probabilities under all references.
        which: Where they come from; "example_swapped" gives two references each other's.

    Raises:
        ValueError: There are no held-out pairs, or not two references to swap.
    """
    if which in ("example", "example_swapped"):
        shares = confidence_shares(refs)
        if which == "example":
            return shares
        if shares.shape[1] != 2:
            raise ValueError(
                f"weights example_swapped is for 2 references, not {shares.shape[1]}; take example"
            )
        return shares.flip(1)
    weights = others.held_out_weights if which == "held_out" else others.weights
    if weights is None:
        raise ValueError("weights held_out needs the references' confidence on held-out pairs")
    return refs.chosen.new_tensor(weights).expand_as(refs.chosen)


def clipped(refs: Sides, *, eta: float, clip: Clip) -> Sides:
    """The references within (1 - e) and (1 + e) times the first one's log-probability.

    e is eta for both sides, or eta divided between the two as the means of reference and first are
    large, which allows a long answer more. The first reference stays as it is.

    Source: arXiv:2405.16388 (clipped trust-region optimization).
    """
    if clip == "none":
        return refs
    shares = [torch.ones_like(side) for side in refs]
    if clip == "adaptive":
        sizes = [(side + side[:, :1]).abs() / 2 for side in refs]
        total = sizes[0] + sizes[1]
        first = torch.where(total > 0, sizes[0] / total.where(total > 0, 1), 0.5)
        shares = [first, 1 - first]

    def within(side: Tensor, share: Tensor) -> Tensor:
        base = side[:, :1]
        return side.clamp(min=(1 + eta * share) * base, max=(1 - eta * share) * base)

    return Sides(*map(within, refs, shares))


def combined(
    refs: Float[Tensor, "B K"], weights: Float[Tensor, "B K"], mode: Mode
) -> Float[Tensor, " B"]:
    """The logarithm of the weighted mean of probabilities, nats.

    Args:
        refs: Log-probabilities under the references.
        weights: Theirs, which sum to 1.
        mode: The mean.
    """
    if mode == "geometric":
        return (weights * refs).sum(1)
    sign = 1 if mode == "arithmetic" else -1
    return sign * torch.logsumexp(weights.log() + sign * refs, dim=1)
