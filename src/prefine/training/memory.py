"""When memory is short: which errors say so, and the same work again in smaller rows."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from prefine.errors import LimitError
from prefine.training.batches.packing import PackedBatch
from prefine.training.distributed.processes import agree, exchanging_weights
from prefine.training.forward.passes import Forward
from prefine.training.items import TokenizedPair

Result = TypeVar("Result")

# What torch raises as a plain RuntimeError: the CPU's allocator, CUDA outside torch's own, the
# matrix library's.
_WORDS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(LimitError):
    """This process or another one had no room for a pass."""


@contextmanager
def synchronized_oom(*, in_step: bool = False) -> Iterator[None]:
    """Passes during which processes do not wait for each other; if one has no room, all leave the block alike.

    Args:
        in_step: They do wait: each pass needs all of them. One that has no room cannot tell them,
            and all end.

    Raises:
        OutOfMemory: In all processes, where one of them ran out of memory.
        LimitError: The same, in step.
        BackendError: Another process has ended, in step.
    """
    if in_step:
        with exchanging_weights(), _ending():
            yield
        return
    short: str | None = None
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_short(error):
            raise
        short = _reason(error)
    if agree(short is not None):
        raise OutOfMemory(short or "another process ran out of memory")


def retry_smaller_batches(
    attempt: Callable[[], Result],
    forward: Forward,
    cut: Callable[[], list[PackedBatch]],
    examples: Sequence[TokenizedPair],
    *,
    on_retry: Callable[[], None] = lambda: None,
) -> Result:
    """What `attempt` returns. While memory is too short for it, the row limit of `forward` is halved for good.

    Args:
        attempt: Makes its passes within `synchronized_oom`; may be called again.
        forward: The passes through a model.
        cut: The rows of these passes in all processes together, under the limit of the moment.
        examples: What `Rows.pairs` number.
        on_retry: Called after each halving.

    Raises:
        LimitError: There is no room for the largest pair alone.
    """
    while True:
        try:
            return attempt()
        except OutOfMemory as error:
            reason = str(error)
        # Only here is the error gone, and with it the tensors of the frames that it passed through.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _halve(forward, cut, examples, reason)
        on_retry()


@contextmanager
def _ending() -> Iterator[None]:
    """Say what helps where memory is short and nothing can be tried again."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_short(error):
            raise
        raise LimitError(
            f"there is no memory for a row ({_reason(error)}); lower train.micro_batch_tokens, "
            "which divided layers "
            "leave to you, or set train.gradient_checkpointing: true"
        ) from error


def _halve(
    forward: Forward,
    cut: Callable[[], list[PackedBatch]],
    examples: Sequence[TokenizedPair],
    reason: str,
) -> None:
    """Halve the limit until the largest row is smaller."""
    largest = max(cut(), key=_size)
    while forward.tokens > 1:
        forward.tokens //= 2
        if max(map(_size, cut())) < _size(largest):
            return
    pair = examples[int(largest.pairs[0])]
    raise LimitError(
        f"there is no memory for pair {pair.id} alone, {_size(largest)} tokens ({reason}). Set "
        "train.gradient_checkpointing: true, lower train.max_prompt_tokens or "
        "train.max_completion_tokens, "
        "or train an adapter (train.adapter)"
    )


def _size(rows: PackedBatch) -> int:
    return rows.positions


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _is_short(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in _WORDS
    )
