"""NDCG with soft ranks."""

from pydantic import PositiveFloat

from prefine.losses.lists.relevance import Labels, gains, ndcg, relevance
from prefine.losses.protocol import ListLogps, PerItem, declare


@declare(family="lists", needs={"reference"}, reads="lists")
def approx_ndcg(
    logps: ListLogps,
    *,
    beta: PositiveFloat = 0.1,
    alpha: PositiveFloat = 25.0,
    labels: Labels = "scores",
    scale: PositiveFloat = 1.0,
) -> PerItem:
    """-sum over answers i of g_i / log2(1 + place_i) / IDCG, g = 2^label - 1.

    An answer's place is 1 plus the sum over the others j of sigmoid(alpha * (r_j - r_i)), with
    r = beta * log-ratio: the number of answers above it, softly.

    Args:
        logps: Lists [B, K], nats; the reference values are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        alpha: Sharpness of the places; the larger, the nearer to the true order. Default: field.
        labels: "scores" as they are stated, or "ranks": the number of ranks below an answer's.
            Default: field.
        scale: The labels are multiplied by it. Default: field.
    Returns: Loss per list [B], from -1 to 0; 0 for lists whose answers gain nothing.
    Source: Qin et al. 2010 (ApproxNDCG); with these rewards arXiv:2410.04346.
    """
    gain, reward = gains(relevance(logps, labels, scale)), beta * logps.logratio
    above = (alpha * (reward[:, None, :] - reward[:, :, None])).sigmoid()
    # An answer is half above itself.
    place = 0.5 + (above * logps.present[:, None, :]).sum(2)
    dcg = (gain / (1 + place).log2()).sum(1)
    return -ndcg(dcg, gain, logps)
