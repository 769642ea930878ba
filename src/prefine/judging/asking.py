"""Ask calls in batches through the call engine, the same way for every judge."""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Generic

from prefine.calls.protocol import A, Asker, Backend, Batch, Call, Failure, P

_BATCH_S = 0.02


class Paced(Generic[P, A]):
    """A blocking function that answers calls, and how many of them are one batch.

    A batch is journaled when it is done, so it should take no longer than `_BATCH_S`: the answers
    of a fast function go together, those of one that waits for something go one by one.

    Args:
        answer: Answers a batch, by key.
        largest: The most calls of a batch.
    """

    def __init__(
        self, answer: Callable[[Sequence[Call[P]]], Mapping[str, A | Failure]], *, largest: int
    ) -> None:
        self._answer = answer
        self._largest = largest
        self.size = 1

    def __call__(self, calls: Sequence[Call[P]]) -> Mapping[str, A | Failure]:
        """Answer a batch, and choose the size of the next one."""
        began = time.perf_counter()
        answers = self._answer(calls)
        each = (time.perf_counter() - began) / len(calls)
        self.size = max(1, min(self._largest, int(_BATCH_S / max(each, 1e-9))))
        return answers


async def ask_in_batches(
    asker: Asker,
    calls: Sequence[Call[P]],
    kind: type[A],
    answer: Callable[
        [Sequence[Call[P]]], Mapping[str, A | Failure] | Awaitable[Mapping[str, A | Failure]]
    ],
    *,
    size: int = 1,
    batches_matter: bool,
    backend: Backend,
) -> dict[str, A | Failure]:
    """Return the answers by key.

    Args:
        asker: The engine.
        calls: The calls; equal keys are asked once.
        kind: The record that an answer is.
        answer: Answers one batch, by key; blocks unless it is a coroutine function.
        size: Calls per batch, where `answer` is not `Paced`.
        batches_matter: An answer may depend on the rest of its batch.
        backend: Who answers.
    """

    def batches(open_calls: list[Call[P]]) -> Iterator[Batch[A]]:
        still_open = {call.key for call in open_calls}
        # Where batches matter they are cut from all calls and answered whole, also if only some of
        # them are open: a resumed run must give the bytes of a fresh one.
        asked = list({call.key: call for call in calls}.values()) if batches_matter else open_calls
        start = 0
        while start < len(asked):
            step = answer.size if isinstance(answer, Paced) else size
            batch = asked[start : start + step]
            start += step
            if keys := [call.key for call in batch if call.key in still_open]:
                yield Batch(keys, partial(answer, batch))

    return await asker.ask(calls, kind, batches, backend=backend)
