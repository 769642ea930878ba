"""Log-probabilities of many pairs, without gradients."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from prefine.errors import Interrupted
from prefine.training.distributed.processes import gather, own_pairs
from prefine.training.forward.forward import Forward
from prefine.training.items import TokenizedPair
from prefine.training.memory import retry_smaller_batches, synchronized_oom
from prefine.training.objective.pair_tokens import PairTokens, SideLogps, joined, places


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
            return _score(forward, examples, local, should_stop)

    pairs, tokens = retry_smaller_batches(
        attempt, forward, lambda: forward.cut(examples, every), examples
    )
    lengths = gather(tokens.lengths.to(forward.device)).cpu()
    # The inverse of a permutation is its argsort.
    return PairTokens(gather(tokens.values), lengths).rows(gather(pairs).argsort().cpu())


def score_tokens_here(forward: Forward, examples: Sequence[TokenizedPair]) -> PairTokens:
    """As `score_tokens`, all in this process; the others need not know of its errors."""
    pairs, tokens = _score(forward, examples, range(len(examples)), None)
    return tokens.rows(pairs.argsort().cpu())


def score_sides(
    forward: Forward,
    examples: Sequence[TokenizedPair],
    *,
    should_stop: Callable[[], bool] | None = None,
) -> SideLogps:
    """Summed completion log-probabilities of all examples, as `score_tokens`."""
    return score_tokens(forward, examples, should_stop=should_stop).sides()


def _score(
    forward: Forward,
    examples: Sequence[TokenizedPair],
    wanted: Sequence[int],
    should_stop: Callable[[], bool] | None,
) -> tuple[Int[Tensor, " b"], PairTokens]:
    """The wanted pairs in the order of their batches, and the values of their tokens."""
    forward.model.eval()  # type: ignore[no-untyped-call]
    # A process without pairs has no value to take the dtype from.
    dtype = torch.promote_types(next(forward.model.parameters()).dtype, torch.float32)
    none = torch.empty(0, dtype=dtype, device=forward.device)
    texts = 4 if forward.score_prompts else 2
    pairs, tokens = [none.long()], [PairTokens(none, torch.empty(0, texts, dtype=torch.long))]
    for batch in forward.passes(forward.cut(examples, wanted)):
        if should_stop is not None and should_stop():
            raise Interrupted("stopped while scoring the pairs; the same command resumes")
        pairs.append(batch.pairs.to(forward.device))
        tokens.append(places(batch, batch.whole).of(forward.values(batch).logps))
    return torch.cat(pairs), joined(tokens)
