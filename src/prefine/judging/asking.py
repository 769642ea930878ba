"""Ask calls in batches through the call engine, the same way for every judge."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from prefine.calls.protocol import A, Asker, Batch, Call, Failure, P

Answer = Callable[[Sequence[Call[P]]], Mapping[str, A | Failure]]


def ask_in_groups(
    asker: Asker,
    calls: Sequence[Call[P]],
    kind: type[A],
    answer: Answer[P, A],
    *,
    size: int,
    concurrency: int = 1,
) -> dict[str, A | Failure]:
    """Return the answers by key; a group of `size` calls is always answered whole.

    Args:
        asker: The engine.
        calls: What to ask; equal keys once.
        kind: The record that an answer is.
        answer: Answers one group, by key.
        size: Calls per group.
        concurrency: Groups in flight.
    """
    # The groups are cut from all calls, not from the open ones, because what a model computes may
    # depend on what else is in its batch, and a resumed run must give the bytes of a fresh one.
    unique = list({call.key: call for call in calls}.values())

    def wanted(group: Sequence[Call[P]], keys: Sequence[str]) -> dict[str, A | Failure]:
        answers = answer(group)
        return {key: answers[key] for key in keys}

    def batches(open_calls: list[Call[P]]) -> Iterator[Batch[A]]:
        still_open = {call.key for call in open_calls}
        for start in range(0, len(unique), size):
            group = unique[start : start + size]
            if keys := [call.key for call in group if call.key in still_open]:
                yield Batch(keys, partial(wanted, group, keys))

    return asker.ask(calls, kind, batches, concurrency=concurrency)


def ask_each(
    asker: Asker, calls: Sequence[Call[P]], kind: type[A], answer: Answer[P, A], *, size: int
) -> dict[str, A | Failure]:
    """Return the answers by key; only open calls are asked, because none depends on the others."""

    def batches(open_calls: list[Call[P]]) -> Iterator[Batch[A]]:
        for start in range(0, len(open_calls), size):
            group = open_calls[start : start + size]
            yield Batch([call.key for call in group], partial(answer, group))

    return asker.ask(calls, kind, batches)
