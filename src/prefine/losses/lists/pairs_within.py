"""Losses of pairs on the pairs of a list."""

from jaxtyping import Bool
from torch import Tensor

from prefine.losses.facts import kind_of, needs_of, options_of, parts_of, reads_of
from prefine.losses.protocol import ListLogps, LossFunction, PairLogps, PerItem

_KNOWN = frozenset({"reference", "initial", "score_gap"})


def check_pair_loss(*, loss: LossFunction) -> None:
    """Raise ValueError if a loss reads what the pairs of a list do not have."""
    if reads_of(loss) != "pairs":
        raise ValueError(f"loss reads {reads_of(loss)}; give a loss of pairs")
    if kind_of(loss) == "coupled":
        raise ValueError("loss reads a whole step of pairs; give one that reads each by itself")
    if lacking := sorted(needs_of(loss) - _KNOWN):
        raise ValueError(f"loss needs {', '.join(lacking)}, which the pairs of a list do not have")
    if any("token_mean" in options_of(part).values() for _, part in parts_of(loss)):
        raise ValueError("loss has reduction token_mean, a mean over a step; choose sum or mean")


def both_present(logps: ListLogps) -> Bool[Tensor, "B K K"]:
    """True at [b, i, j] where list b has answers i and j."""
    return logps.present[:, :, None] & logps.present[:, None, :]


def better(logps: ListLogps) -> Bool[Tensor, "B K K"]:
    """True at [b, i, j] where answer i of list b is better than j."""
    return (logps.rank[:, :, None] < logps.rank[:, None, :]) & both_present(logps)


def mean_over_pairs(logps: ListLogps, loss: LossFunction, pairs: Bool[Tensor, "B K K"]) -> PerItem:
    """The mean over each list's pairs (i, j) of the loss with chosen i and rejected j."""
    of_list, chosen, rejected = pairs.nonzero(as_tuple=True)
    values = loss(
        PairLogps(
            policy_chosen=logps.policy[of_list, chosen],
            policy_rejected=logps.policy[of_list, rejected],
            ref_chosen=logps.ref[of_list, chosen],
            ref_rejected=logps.ref[of_list, rejected],
            initial_chosen=logps.initial[of_list, chosen],
            chosen_tokens=logps.tokens[of_list, chosen],
            rejected_tokens=logps.tokens[of_list, rejected],
            weight=logps.weight[of_list],
            score_gap=logps.score[of_list, chosen] - logps.score[of_list, rejected],
        )
    )
    # Written into place, not added up by index: sums by index have no fixed order on a GPU.
    table = values.new_zeros(pairs.shape)
    table[of_list, chosen, rejected] = values
    return table.sum((1, 2)) / pairs.sum((1, 2))
