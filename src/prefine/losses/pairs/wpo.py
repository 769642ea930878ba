"""Weighted preference optimization: pairs that the policy would itself have sampled count more."""

from jaxtyping import Float
from torch import Tensor

from prefine.losses.facts import per_pair
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import Loss, PairLogps, declare, provided


def _weightable(*, loss: Loss) -> None:
    if not per_pair(loss):
        raise ValueError(
            "this loss sorts the pairs of a step, so its values belong to no pair that could be "
            "weighted"
        )


@declare(family="composite", needs=frozenset({"tokens", "vocabulary"}), check=_weightable)
def wpo(logps: PairLogps, *, loss: Loss = dpo) -> Float[Tensor, " B"]:
    """w(chosen) * w(rejected) * loss, w = exp(mean over tokens of (log p - log sum of p^2)), without gradient.

    A policy that is uniform or certain at every token has w = 1.

    Args:
        logps: `tokens` with the vocabulary statistics is required, and what the loss needs.
        loss: What is weighted. Default: paper.
    Returns: Loss per pair [B].
    Source: arXiv:2406.11827.
    """
    return pair_weight(logps) * loss(logps)


def pair_weight(logps: PairLogps) -> Float[Tensor, " B"]:
    """How likely the policy is to sample both answers, relative to its own choice [B]; no gradient."""
    tokens = logps.require_tokens()

    def mean(logp: Tensor, log_sum_p2: Tensor | None, count: Tensor) -> Tensor:
        return (logp.detach() - provided(log_sum_p2, "vocabulary").detach()).sum(dim=1) / count

    chosen = mean(tokens.policy_chosen, tokens.chosen_log_sum_p2, logps.chosen_tokens)
    rejected = mean(tokens.policy_rejected, tokens.rejected_log_sum_p2, logps.rejected_tokens)
    return (chosen + rejected).exp()
