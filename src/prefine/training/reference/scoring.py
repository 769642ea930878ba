"""Values of many pairs without gradients."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from prefine.errors import Interrupted
from prefine.training.distributed.processes import gather, own_pairs
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import PairTokens, SideLogps, concat_pairs, places
from prefine.training.items import TokenizedPair
from prefine.training.memory import retry_smaller_batches, synchronized_oom


def score_tokens(
    forward: Forward,
    examples: Sequence[TokenizedPair],
    *,
    should_stop: Callable[[], bool] | None = None,
) -> PairTokens:
    """Log-probabilities of all scored tokens, in the order of the examples.

    Several processes share the work, and all have all values. Where memory is short, `forward`
    keeps the smaller rows.

    Raises:
        Interrupted: `should_stop` became true.
        LimitError: There is no room for a pair alone.
    """
    every = range(len(examples))
    own = own_pairs(examples, every)

    def attempt() -> _Scored:
        with synchronized_oom(in_step=forward.in_step):
            return _score(forward, examples, own, should_stop)

    found = retry_smaller_batches(attempt, forward, lambda: forward.cut(examples, every), examples)
    values, lengths, pairs = (
        found.tokens.values,
        found.tokens.lengths.to(forward.device),
        found.pairs,
    )
    # The inverse of a permutation is its argsort.
    return PairTokens(gather(values), gather(lengths).cpu()).rows(gather(pairs).argsort().cpu())


def score_tokens_here(forward: Forward, examples: Sequence[TokenizedPair]) -> PairTokens:
    """The same, all in this process; what it raises the others need not know."""
    found = _score(forward, examples, range(len(examples)), None)
    return found.tokens.rows(found.pairs.argsort().cpu())


class _Scored(NamedTuple):
    """Values of some pairs, and which they are."""

    pairs: Int[Tensor, " b"]
    tokens: PairTokens


def _score(
    forward: Forward,
    examples: Sequence[TokenizedPair],
    wanted: Sequence[int],
    should_stop: Callable[[], bool] | None,
) -> _Scored:
    forward.model.eval()  # type: ignore[no-untyped-call]
    # A process without pairs has no value that would say the dtype.
    dtype = torch.promote_types(next(forward.model.parameters()).dtype, torch.float32)
    none = torch.empty(0, dtype=dtype, device=forward.device)
    texts = 4 if forward.score_prompts else 2
    pairs, parts = [none.long()], [PairTokens(none, torch.empty(0, texts, dtype=torch.long))]
    for rows in forward.passes(forward.cut(examples, wanted)):
        if should_stop is not None and should_stop():
            raise Interrupted("stopped while scoring the pairs; the same command resumes")
        pairs.append(rows.pairs.to(forward.device))
        parts.append(places(rows, rows.whole).of(forward.values(rows).logps))
    return _Scored(torch.cat(pairs), concat_pairs(parts))


def score_sides(
    forward: Forward,
    examples: Sequence[TokenizedPair],
    *,
    should_stop: Callable[[], bool] | None = None,
) -> SideLogps:
    """Summed completion log-probabilities of all examples, as `score_tokens`."""
    return score_tokens(forward, examples, should_stop=should_stop).sides()
