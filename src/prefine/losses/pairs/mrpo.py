"""Multi-reference preference optimization: several references are compared with as one."""

import torch
from pydantic import NonNegativeFloat

from prefine.losses.facts import check_reads_sums, needs_of
from prefine.losses.other_references import (
    Clip,
    Mode,
    Sides,
    Weights,
    clipped,
    combined,
    shares_of,
)
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import Loss, PairLogps, PerPair, declare


def _check_loss(*, loss: Loss) -> None:
    check_reads_sums(loss, beside={"mismatched", "prompt", "references"})
    if "reference" not in needs_of(loss):
        raise ValueError("loss compares with no reference; choose another one")


@declare(family="composite", needs={"reference", "references"}, check=_check_loss)
def mrpo(
    logps: PairLogps,
    *,
    loss: Loss = dpo,
    mode: Mode = "harmonic",
    weights: Weights = "stated",
    clip: Clip = "adaptive",
    eta: NonNegativeFloat = 0.1,
) -> PerPair:
    """Loss with -log(sum of weight / p) for the log-probability under the reference.

    The sum is over the references: 1 / sum is the weighted harmonic mean of their probabilities p,
    and other modes take another mean. With equal references, and with eta = 0, it is the loss with
    the first reference.

    Args:
        logps: `other_references` is required, and what the loss needs.
        loss: The loss that compares with the mean. Default: paper.
        mode: The mean of probabilities; the geometric one is the exact minimiser of the weighted
            divergences. Default: paper.
        weights: The "stated" ones, or shares of the references' confidence, |log p(chosen) - log
            p(rejected)|: in the mean over "held_out" pairs, or of each "example" by itself;
            "example_swapped" gives two references each other's, as the authors' code does.
            Default: ours.
        clip: Keep log p of the others near the first reference's, by a share eta of it that both
            sides divide by their sizes ("adaptive") or have each ("fixed"), or do not ("none").
            Default: paper.
        eta: Size of this trust region. Default: paper.
    Returns: Loss per pair [B].
    Source: arXiv:2405.16388.
    """
    others = logps.require_references()
    refs = Sides(
        torch.cat([logps.ref_chosen[:, None], others.chosen], dim=1),
        torch.cat([logps.ref_rejected[:, None], others.rejected], dim=1),
    )
    shares = shares_of(others, refs, weights)
    near = clipped(refs, eta=eta, clip=clip)
    return loss(
        logps.changed(
            ref_chosen=combined(near.chosen, shares, mode),
            ref_rejected=combined(near.rejected, shares, mode),
        )
    )
