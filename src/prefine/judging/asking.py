"""Ask calls in batches through the call engine, the same way for every judge."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial

from prefine.calls.protocol import A, Asker, Backend, Batch, Call, Failure, P


async def ask_in_batches(
    asker: Asker,
    calls: Sequence[Call[P]],
    kind: type[A],
    answer: Callable[
        [Sequence[Call[P]]], Mapping[str, A | Failure] | Awaitable[Mapping[str, A | Failure]]
    ],
    *,
    size: int,
    batches_matter: bool,
    backend: Backend,
) -> dict[str, A | Failure]:
    """Return the answers by key.

    Args:
        asker: The engine.
        calls: The calls; equal keys are asked once.
        kind: The record that an answer is.
        answer: Answers one batch, by key; blocks unless it is a coroutine function.
        size: Calls per batch.
        batches_matter: An answer may depend on the rest of its batch.
        backend: Who answers.
    """

    def batches(open_calls: list[Call[P]]) -> Iterator[Batch[A]]:
        still_open = {call.key for call in open_calls}
        # Where batches matter they are cut from all calls and answered whole, also if only some of
        # them are open: a resumed run must give the bytes of a fresh one.
        asked = list({call.key: call for call in calls}.values()) if batches_matter else open_calls
        for start in range(0, len(asked), size):
            batch = asked[start : start + size]
            if keys := [call.key for call in batch if call.key in still_open]:
                yield Batch(keys, partial(answer, batch))

    return await asker.ask(calls, kind, batches, backend=backend)
