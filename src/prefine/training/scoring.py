"""Values of many pairs without gradients."""

from collections.abc import Callable, Sequence

import torch

from prefine.errors import Interrupted
from prefine.training.examples import Example
from prefine.training.forward import Forward
from prefine.training.memory import shared_fate
from prefine.training.pair_tokens import PairTokens, SideLogps, joined, places


def score_tokens(
    forward: Forward, examples: Sequence[Example], *, should_stop: Callable[[], bool] | None = None
) -> PairTokens:
    """Log-probabilities of all scored tokens, in the order of the examples.

    Raises:
        Interrupted: `should_stop` became true.
        OutOfMemory: There is no room for a row.
    """
    forward.model.eval()  # type: ignore[no-untyped-call]
    pairs, parts = [], []
    with shared_fate():
        for rows in forward.cut(examples, range(len(examples))):
            if should_stop is not None and should_stop():
                raise Interrupted("stopped while scoring the pairs; the same command resumes")
            pairs.append(rows.pairs)
            parts.append(places(rows, rows.whole).of(forward.values(rows).logps))
    # The inverse of a permutation is its argsort.
    return joined(parts).rows(torch.cat(pairs).argsort())


def score_sides(
    forward: Forward, examples: Sequence[Example], *, should_stop: Callable[[], bool] | None = None
) -> SideLogps:
    """Summed completion log-probabilities of all examples, as `score_tokens`."""
    return score_tokens(forward, examples, should_stop=should_stop).sides()
