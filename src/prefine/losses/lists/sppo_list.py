"""Self-play preference optimization on a whole list."""

from pydantic import PositiveFloat

from prefine.losses.lists.relevance import Labels, relevance
from prefine.losses.protocol import ListLogps, PerItem, declare


@declare(family="lists", needs={"reference"}, reads="lists")
def sppo_list(
    logps: ListLogps,
    *,
    beta: PositiveFloat = 0.001,
    labels: Labels = "scores",
    scale: PositiveFloat = 1.0,
) -> PerItem:
    """Mean over a list's answers of (log-ratio - (P - 1/2) / beta)^2.

    P is an answer's estimated probability of beating the list's others: the mean over them of
    sigmoid(label - their label). A list of two with p_chosen = P is sppo.

    Args:
        logps: Lists [B, K], nats; the reference values are required.
        beta: 1 / eta of the paper [1/nat]. Default: paper.
        labels: "scores" as they are stated (Bradley-Terry scores are in logits), or "ranks": the
            number of ranks below an answer's. Default: ours.
        scale: The labels are multiplied by it; a large one makes P the share of the others that
            are worse. Default: ours.
    Returns: Loss per list [B], nats squared.
    Source: arXiv:2405.00675, eq. 4.6.
    Deviation: the paper asks a preference model about all pairs; here P comes from the labels.
    """
    label = relevance(logps, labels, scale)
    count = logps.present.sum(1, keepdim=True)
    wins = (label[:, :, None] - label[:, None, :]).sigmoid() * logps.present[:, None, :]
    # An answer beats itself with probability one half, which is taken off.
    estimated = (wins.sum(2) - 0.5) / (count - 1)
    error = (logps.logratio - (estimated - 0.5) / beta).masked_fill(~logps.present, 0)
    return error.square().sum(1) / count.squeeze(1)
