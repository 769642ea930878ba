"""Weighted preference optimization: pairs that the policy would sample itself count more."""

from torch import Tensor

from prefine.losses.facts import per_pair
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import Loss, PairLogps, PerPair, declare, require


def _check_loss(*, loss: Loss) -> None:
    if not per_pair(loss):
        raise ValueError(
            "this loss sorts the pairs of a step, so its values belong to no single pair and "
            "cannot be weighted"
        )


@declare(family="composite", needs={"tokens", "vocabulary"}, check=_check_loss)
def wpo(logps: PairLogps, *, loss: Loss = dpo) -> PerPair:
    """w(chosen) * w(rejected) * loss, w = exp(mean over tokens of (log p - log sum p^2)).

    No gradient flows through w. A policy that is uniform or certain at every token has w = 1.

    Args:
        logps: `tokens` with the vocabulary statistics is required, and what the loss needs.
        loss: The loss that is weighted. Default: paper.
    Returns: Loss per pair [B].
    Source: arXiv:2406.11827.
    """
    return pair_weight(logps) * loss(logps)


def pair_weight(logps: PairLogps) -> PerPair:
    """Return the weight of each pair [B] without gradient.

    It is the chance that the policy samples both answers, relative to its average choice.
    """
    tokens = logps.require_tokens()

    def mean(logp: Tensor, log_sum_p2: Tensor | None, count: Tensor) -> Tensor:
        return (logp.detach() - require(log_sum_p2, "vocabulary").detach()).sum(dim=1) / count

    chosen = mean(tokens.policy_chosen, tokens.chosen_log_sum_p2, logps.chosen_tokens)
    rejected = mean(tokens.policy_rejected, tokens.rejected_log_sum_p2, logps.rejected_tokens)
    return (chosen + rejected).exp()
