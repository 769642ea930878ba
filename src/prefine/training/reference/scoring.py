"""Log-probabilities of many items, without gradients."""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from prefine.training.distributed.processes import own_items
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import ItemTokens, gather_items
from prefine.training.items import TokenizedItem
from prefine.training.memory import retry_smaller_batches, synchronized_oom


def score_tokens(
    forward: Forward,
    examples: Sequence[TokenizedItem],
    *,
    should_stop: Callable[[], bool] | None = None,
) -> ItemTokens:
    """Log-probabilities of all scored tokens, in the order of the examples.

    Several processes share the work, and all get all values. If memory is short, `forward` keeps
    its smaller limit.

    Raises:
        Interrupted: `should_stop` became true.
        LimitError: There is no memory for an item alone.
    """
    every = range(len(examples))
    local = own_items(examples, every)

    def attempt() -> tuple[Int[Tensor, " b"], ItemTokens]:
        with synchronized_oom(in_step=forward.in_step):
            forward.model.eval()  # type: ignore[no-untyped-call]
            return forward.item_values(forward.cut(examples, local), should_stop=should_stop)

    scored = retry_smaller_batches(attempt, forward, lambda: forward.cut(examples, every), examples)
    return gather_items(*scored)[1]


def score_completions(
    forward: Forward,
    examples: Sequence[TokenizedItem],
    *,
    should_stop: Callable[[], bool] | None = None,
) -> Float[Tensor, " C"]:
    """Summed log-probabilities of all completions, as `score_tokens`."""
    return score_tokens(forward, examples, should_stop=should_stop).logps()
