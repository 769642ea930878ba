"""NDCG of a differentiable sorting: OPO."""

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from prefine.losses.lists.pairs_within import both_present
from prefine.losses.lists.relevance import Labels, discounts, gains, ndcg, relevance
from prefine.losses.protocol import ListLogps, PerCompletion, PerItem, declare

SWEEPS = 50
_SMALLEST = 1e-10


@declare(family="lists", needs={"reference"}, reads="lists")
def neural_ndcg(
    logps: ListLogps,
    *,
    beta: PositiveFloat = 0.1,
    tau: PositiveFloat = 1.0,
    labels: Labels = "scores",
    scale: PositiveFloat = 1.0,
) -> PerItem:
    """-sum over places i of (P g)_i / log2(1 + i) / IDCG, g = 2^label - 1.

    P is the answers' order by the reward beta * log-ratio, as a matrix in which every place is
    shared among the answers with similar rewards (NeuralSort, made doubly stochastic). A list of
    two is a bounded sigmoid of the margin, whose gradient vanishes at both ends.

    Args:
        logps: Lists [B, K], nats; the reference values are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: paper.
        tau: Smoothness of the sorting; towards 0 it is the true order. Default: paper.
        labels: "scores" as they are stated, or "ranks": the number of ranks below an answer's.
            Default: paper.
        scale: The labels are multiplied by it: 2^label of labels that hardly differ teaches
            nothing. Default: paper.
    Returns: Loss per list [B], from -1 (the best order) to 0; 0 for lists whose answers gain
        nothing.
    Source: arXiv:2410.04346; the matrix is that of arXiv:1903.08850 (NeuralSort).
    Deviation: always 50 sweeps per list, where the published code stops early for a whole batch.
    """
    gain = gains(relevance(logps, labels, scale))
    order = _sorting(beta * logps.logratio, logps, tau)
    dcg = ((order @ gain[:, :, None]).squeeze(2) * discounts(gain)).sum(1)
    return -ndcg(dcg, gain, logps)


def _sorting(reward: PerCompletion, logps: ListLogps, tau: float) -> Float[Tensor, "B K K"]:
    """Share of each answer (columns) in each place (rows), best first; 0 behind a list's end."""
    count = logps.present.sum(1, keepdim=True)
    place = torch.arange(1, reward.shape[1] + 1, device=reward.device)
    both = both_present(logps)
    # How far an answer's reward is from all others', which keeps middle ones in middle places.
    apart = ((reward[:, :, None] - reward[:, None, :]).abs() * both).sum(2)
    logits = (count + 1 - 2 * place)[:, :, None] * reward[:, None, :] - apart[:, None, :]
    shares = (logits / tau).masked_fill(~logps.present[:, None, :], -torch.inf).softmax(2) * both
    # Sinkhorn: NeuralSort's rows sum to one, its columns not; NDCG counts each answer once.
    # What is behind a list's end is divided by 1: by _SMALLEST, its gradient would grow for ever.
    absent = ~logps.present
    for _ in range(SWEEPS):
        for dim in (1, 2):
            total = shares.sum(dim).clamp(min=_SMALLEST).masked_fill(absent, 1)
            shares = shares / total.unsqueeze(dim)
    return shares
