"""Several processes share a training: each computes some items of a step, all get its gradient.

They make the same exchanges in the same order (TORCH_DISTRIBUTED_DEBUG=DETAIL checks it). A
launcher such as torchrun kills the others when one process has ended, but by then these may have
waited for it in vain, or printed tracebacks of broken connections. So every exchange begins with
each rank's exit code, 0 while it is well: all ranks then end with the code of the one that failed,
and only that one says why.
"""

import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from prefine.errors import BackendError, ConfigError, EndedElsewhere, NumericsError
from prefine.training.batches.packing import groups_of
from prefine.training.items import TokenizedItem

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""The time a process waits for the others, such as for the one that writes a checkpoint."""

# In torch's messages, among other errors, these say that a peer has gone.
_BROKEN = ("gloo", "NCCL", "Connection")
_disconnected = False
_reshard: bool | None = None


def join(reshard: bool | None = None) -> None:
    """Join the processes that a launcher has started, as `torchrun` says in the environment.

    Args:
        reshard: See `divide_layers`.

    Raises:
        ConfigError: They cannot be reached.
    """
    divide_layers(reshard)
    # Exit codes and flags are exchanged on the CPU whatever the gradients need.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the processes of this training cannot meet: {error}") from error


def divide_layers(reshard: bool | None) -> None:
    """Let trainings from now on divide the layers of their model among the processes.

    Args:
        reshard: Whether a layer is freed after its forward pass; None divides nothing.
    """
    global _reshard
    _reshard = reshard


def resharding() -> bool | None:
    """Return the argument of `divide_layers`; None in a single process."""
    return _reshard if together() else None


def take_device(local_rank: int) -> None:
    """Let this process compute on the GPU of its number, if there are GPUs.

    Raises:
        ConfigError: There are fewer.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count and local_rank >= count:
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU of its own: it has {count}; start "
            "at most so many processes, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    if count:
        torch.cuda.set_device(local_rank)


def together() -> bool:
    """Return True if there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_main() -> bool:
    """Return True in the process that writes files and prints."""
    return not together() or dist.get_rank() == 0


def agree(flag: bool) -> bool:
    """Return True if any process says so."""
    return any(_exchange(int(flag))) if together() else flag


def from_main(value: T) -> T:
    """Return the value of the main process; those of the others are ignored."""
    if not together():
        return value
    _exchange()
    values = [value]
    with peer_errors():
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def gather(rows: Tensor) -> Tensor:
    """All-gather rows [n, …] in the order of the ranks; n may differ between them, or be 0."""
    if not together():
        return rows
    counts = _exchange(len(rows))
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.zeros_like(padded) for _ in counts]
    with peer_errors():
        dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def all_max(number: int) -> int:
    """The largest of the processes' numbers."""
    return max(_exchange(number)) if together() else number


def add_up_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each trained parameter's `.grad` by its sum over all processes.

    A parameter that has no gradient in any process keeps none, since an optimizer moves even one
    with a gradient of 0. The gradients of shares are sums already.
    """
    if not together():
        return
    trained = [
        parameter for parameter in parameters if parameter.requires_grad and not is_share(parameter)
    ]
    _exchange()
    reached = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.uint8)
    with peer_errors():
        dist.all_reduce(reached, op=dist.ReduceOp.MAX)
        sums = []
        for parameter, any_has in zip(trained, reached.tolist(), strict=True):
            if any_has:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                sums.append(dist.all_reduce(parameter.grad, async_op=True))
        for work in sums:
            work.wait()


def add_up(values: Tensor) -> Tensor:
    """The sum of the processes' values, in place."""
    if together():
        _exchange()
        with peer_errors():
            dist.all_reduce(values)
    return values


def own_items(items: Sequence[TokenizedItem], indices: Sequence[int]) -> list[int]:
    """The items that this process computes: whole prompts, as they share their computation.

    The result, perhaps empty, depends on the arguments alone, not on how a process cuts its items
    into batches.
    """
    if not together():
        return list(indices)
    groups = groups_of(items, indices, sys.maxsize)
    ranks = deal([group.tokens for group in groups], dist.get_world_size())
    local = (group for group, rank in zip(groups, ranks, strict=True) if rank == dist.get_rank())
    return [index for group in local for index in group.items]


def deal(tokens: Sequence[int], processes: int) -> list[int]:
    """Assign each item to a process: the longest first, to the one with the fewest tokens yet."""
    loads = [0] * processes
    ranks = [0] * len(tokens)
    for index in sorted(range(len(tokens)), key=lambda index: -tokens[index]):
        ranks[index] = loads.index(min(loads))
        loads[ranks[index]] += tokens[index]
    return ranks


def check_same_weights(parameters: Iterable[torch.nn.Parameter], *, step: int) -> None:
    """Check that all processes have the same weights, to the bit, as far as each has a whole copy.

    Args:
        parameters: The trained ones.
        step: Updates made so far, for the message.

    Raises:
        NumericsError: They differ.
    """
    if not together():
        return
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [
        whole.detach().contiguous().view(integers[whole.element_size()]).sum(dtype=torch.int64)
        for whole in parameters
        if not is_share(whole)
    ]
    checksum = zlib.crc32(torch.stack(sums).cpu().numpy().tobytes()) if sums else 0
    if len(set(_exchange(checksum))) > 1:
        raise NumericsError(
            f"the processes have different weights after step {step}; every process must read the "
            "same policy and the same run folder, and compute on the same kind of device"
        )


def report_exit(code: int) -> bool:
    """Tell the others this process's exit code; return True if this process has to say why.

    With 0 it waits until the others report 0 too. With another code, False is returned only when
    the process that says why has gone: a launcher kills all as soon as the first has ended.

    Raises:
        EndedElsewhere: The code is 0, and another process has failed.
    """
    if not together() or _disconnected:
        return True
    try:
        _exchange(code=code)
    except EndedElsewhere as error:
        if code == 0:
            raise
        if error.rank != dist.get_rank():
            wait_until_gone()
            return False
    except BackendError:
        # The others have gone, and this process still has something to say.
        return True
    return True


def wait_until_gone() -> None:
    """Return when another process has gone, or waits here too."""
    with suppress(BackendError, EndedElsewhere):
        _exchange()


@contextmanager
def exchanging_weights() -> Iterator[None]:
    """Passes through divided layers: a process that fails in one can tell the others nothing.

    Raises:
        BackendError: Another process has failed.
    """
    global _disconnected
    try:
        yield
    except BaseException as error:
        _disconnected = True
        if isinstance(error, RuntimeError) and any(word in str(error) for word in _BROKEN):
            raise _peer_gone(error) from error
        raise


@contextmanager
def peer_errors() -> Iterator[None]:
    """Raise BackendError where torch reports that the connection to another process is broken."""
    global _disconnected
    try:
        yield
    except RuntimeError as error:
        _disconnected = True
        raise _peer_gone(error) from error


def is_share(parameter: Tensor) -> "TypeGuard[DTensor]":
    """Return True if this process has only a share of the parameter."""
    return hasattr(parameter, "placements")


def _exchange(number: int = 0, *, code: int = 0) -> list[int]:
    """All-gather one integer per rank; raise if any rank has reported an exit code.

    Args:
        number: This process's integer.
        code: This process's exit code, 0 while it is well.

    Raises:
        EndedElsewhere: A rank, perhaps this one, has reported an exit code.
        BackendError: A rank has gone without one.
    """
    local = torch.tensor([code, number])
    ranks = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    with peer_errors():
        dist.all_gather(ranks, local)
    codes, numbers = torch.stack(ranks).T.tolist()
    for rank, reported in enumerate(codes):
        if reported:
            raise EndedElsewhere(rank, reported)
    found: list[int] = numbers
    return found


def _peer_gone(error: RuntimeError) -> BackendError:
    return BackendError(
        "another process of this training has ended without a word "
        f"({str(error).splitlines()[0]}); the same command resumes from the newest checkpoint"
    )
