"""Direct reward optimization on a prompt's answers."""

from pydantic import PositiveFloat

from prefine.losses.lists.relevance import Labels, relevance
from prefine.losses.protocol import ListLogps, PerItem, declare


@declare(family="lists", needs={"reference"}, reads="lists")
def dro(
    logps: ListLogps,
    *,
    tau: PositiveFloat = 1.0,
    labels: Labels = "scores",
    scale: PositiveFloat = 1.0,
) -> PerItem:
    """Mean over K answers of (r - V - tau * d)^2 / 2, V = mean of r - tau * d over the same K.

    r is an answer's label, its reward, and d its log-ratio: every answer is drawn to the likelihood
    that its reward earns, and V, the value of the prompt, is estimated from the prompt's own
    answers. No two answers are compared, and a constant added to a prompt's rewards changes
    nothing.

    Args:
        logps: Lists [B, K], nats; the reference values are required.
        tau: Reward that a nat of log-ratio costs; smaller trusts the reference less. Default: ours.
        labels: "scores" as they are stated, or "ranks": the number of ranks below an answer's.
            Default: paper.
        scale: The labels are multiplied by it. Default: ours.
    Returns: Loss per list [B].
    Source: arXiv:2405.19107.
    Deviation: V is the mean over K answers, where the paper, with one answer a prompt, learns a
        value network.
    """
    absent, count = ~logps.present, logps.present.sum(1)
    left = (relevance(logps, labels, scale) - tau * logps.logratio).masked_fill(absent, 0)
    value = left.sum(1, keepdim=True) / count[:, None]
    residual = (left - value.detach()).masked_fill(absent, 0)
    return residual.square().sum(1) / (2 * count)
