"""Log-probabilities of many pairs, without gradients."""

from collections.abc import Callable, Sequence

from jaxtyping import Int
from torch import Tensor

from prefine.training.distributed.processes import own_pairs
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import PairTokens, SideLogps, gather_pairs
from prefine.training.items import TokenizedPair
from prefine.training.memory import retry_smaller_batches, synchronized_oom


def score_tokens(
    forward: Forward,
    examples: Sequence[TokenizedPair],
    *,
    should_stop: Callable[[], bool] | None = None,
) -> PairTokens:
    """Log-probabilities of all scored tokens, in the order of the examples.

    Several processes share the work, and all get all values. If memory is short, `forward` keeps
    its smaller limit.

    Raises:
        Interrupted: `should_stop` became true.
        LimitError: There is no memory for a pair alone.
    """
    every = range(len(examples))
    local = own_pairs(examples, every)

    def attempt() -> tuple[Int[Tensor, " b"], PairTokens]:
        with synchronized_oom(in_step=forward.in_step):
            forward.model.eval()  # type: ignore[no-untyped-call]
            return forward.pair_values(forward.cut(examples, local), should_stop=should_stop)

    scored = retry_smaller_batches(attempt, forward, lambda: forward.cut(examples, every), examples)
    return gather_pairs(*scored)[1]


def score_sides(
    forward: Forward,
    examples: Sequence[TokenizedPair],
    *,
    should_stop: Callable[[], bool] | None = None,
) -> SideLogps:
    """Summed completion log-probabilities of all examples, as `score_tokens`."""
    return score_tokens(forward, examples, should_stop=should_stop).sides()
