"""A loss of pairs over all pairs of a list."""

from prefine.losses.lists.pairs_within import better, check_pair_loss, mean_over_pairs
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import ListLogps, Loss, PerItem, declare


@declare(family="lists", reads="lists", check=check_pair_loss)
def all_pairs(logps: ListLogps, *, loss: Loss = dpo) -> PerItem:
    """Mean of loss(chosen, rejected) over all pairs of answers of different rank.

    A list is computed once, where its pairs by themselves would repeat each answer.

    Args:
        logps: Lists [B, K], nats; what the loss reads.
        loss: Any loss of pairs that reads each pair by itself. Default: field.
    Returns: Loss per list [B], in the unit of the loss.
    Source: the baseline of arXiv:2410.04346.
    """
    return mean_over_pairs(logps, loss, better(logps))
