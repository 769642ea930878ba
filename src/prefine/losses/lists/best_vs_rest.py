"""A loss of pairs between the best answer of a list and each other one."""

from prefine.losses.lists.pairs_within import better, check_pair_loss, mean_over_pairs
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import ListLogps, Loss, PerItem, declare


@declare(family="lists", reads="lists", check=check_pair_loss)
def best_vs_rest(logps: ListLogps, *, loss: Loss = dpo) -> PerItem:
    """Mean of loss(chosen, rejected) over the pairs of a best answer and a worse one.

    Args:
        logps: Lists [B, K], nats; what the loss reads.
        loss: Any loss of pairs that reads each pair by itself. Default: field.
    Returns: Loss per list [B], in the unit of the loss.
    Source: the baseline of arXiv:2410.04346.
    """
    return mean_over_pairs(logps, loss, better(logps) & (logps.rank == 1)[:, :, None])
