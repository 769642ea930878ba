"""Out of memory: recognise the errors that mean it, and retry the same work in smaller batches."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch

from prefine.errors import LimitError
from prefine.training.batches.packing import PackedBatch
from prefine.training.distributed.processes import agree, exchanging_weights
from prefine.training.forward.passes import Forward
from prefine.training.items import TokenizedItem

Result = TypeVar("Result")

# torch raises these as a plain RuntimeError: from the CPU's allocator, from CUDA outside torch's
# own allocator, and from the matrix library.
_MESSAGES = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def free_bytes(device: str) -> int | None:
    """Return the free memory of a device, such as "cuda:0"; None if the system does not say."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(device)[0])
    found = Path("/proc/meminfo")
    if device != "cpu" or not found.is_file():
        return None
    sizes = dict(line.split(":", 1) for line in found.read_text().splitlines())
    return int(sizes["MemAvailable"].split()[0]) * 1024


class OutOfMemory(LimitError):
    """This process or another one had no memory for a batch."""


@contextmanager
def synchronized_oom(*, in_step: bool = False) -> Iterator[None]:
    """Run passes; if one process has no memory for one, raise OutOfMemory in all of them.

    Args:
        in_step: Layers are divided, so each pass needs all processes: one that fails in a pass
            cannot tell the others, and all end.

    Raises:
        OutOfMemory: In all processes, where one of them ran out of memory.
        LimitError: This process ran out of memory, in step.
        BackendError: Another process has ended, in step.
    """
    reason: str | None = None
    with exchanging_weights() if in_step else nullcontext():
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(
                message in str(error) for message in _MESSAGES
            ):
                raise
            reason = str(error).strip().partition("\n")[0]
            if in_step:
                raise LimitError(
                    f"there is no memory for a row ({reason}); lower train.micro_batch_tokens, "
                    "which divided layers leave to you, or set train.gradient_checkpointing: true"
                ) from error
    if not in_step and agree(reason is not None):
        raise OutOfMemory(reason or "another process ran out of memory")


def retry_smaller_batches(
    attempt: Callable[[], Result],
    forward: Forward,
    cut: Callable[[], list[PackedBatch]],
    examples: Sequence[TokenizedItem],
    *,
    on_retry: Callable[[], None] = lambda: None,
) -> Result:
    """Return the result of `attempt`; while it runs out of memory, halve `forward.tokens` for good.

    Args:
        attempt: Makes its passes within `synchronized_oom`; may be called again.
        forward: The passes through a model.
        cut: Returns the batches of all processes together, under the current limit.
        examples: The items that `PackedBatch.items` numbers.
        on_retry: Called after each halving.

    Raises:
        LimitError: There is no memory for the largest item alone.
    """
    while True:
        try:
            return attempt()
        except OutOfMemory as error:
            reason = str(error)
        # Only after the block is the error gone, and with it the tensors of the frames that it
        # passed through.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _halve(forward, cut, examples, reason)
        on_retry()


def _halve(
    forward: Forward,
    cut: Callable[[], list[PackedBatch]],
    examples: Sequence[TokenizedItem],
    reason: str,
) -> None:
    """Halve the limit until the largest batch is smaller."""
    largest = max(cut(), key=lambda batch: batch.positions)
    while forward.tokens > 1:
        forward.tokens //= 2
        if all(batch.positions < largest.positions for batch in cut()):
            return
    item = examples[int(largest.items[0])]
    raise LimitError(
        f"there is no memory for {item.word} {item.id} alone, {largest.positions} tokens "
        f"({reason}). Set train.gradient_checkpointing: true, lower train.max_prompt_tokens or "
        "train.max_completion_tokens, or train an adapter (train.adapter)"
    )
