"""Several processes that share a training: each computes some pairs of a step, all end with the same gradient.

They do the same things in the same order. Every exchange begins with a word of each that it is
well: a process that cannot go on says so in its next exchange, whatever the others are about to
exchange, so nobody waits for it in vain.
"""

import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from prefine.errors import BackendError, ConfigError, EndedElsewhere, NumericsError
from prefine.training.batches.packing import groups_of
from prefine.training.items import TokenizedPair

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others, such as for the one that writes a checkpoint."""

_BUCKET = 2**23  # numbers that are added up at a time
_BROKEN = (
    "gloo",
    "NCCL",
    "Connection",
)  # what torch says of a peer that has gone, in the midst of other errors
_disconnected = False
_sharding: "Sharding | None" = None


class Sharding(NamedTuple):
    """That layers are divided among the processes, and whether one is given back after its forward pass."""

    reshard: bool


def join(sharding: "Sharding | None" = None) -> None:
    """Join the processes that a launcher has started, as `torchrun` says in the environment.

    Args:
        sharding: How they divide the layers of the model that they train, if they do.

    Raises:
        ConfigError: They cannot be reached.
    """
    divide_layers(sharding)
    # Words and flags are exchanged on the CPU whatever the gradients need.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the processes of this training cannot meet: {error}") from error


def divide_layers(sharding: "Sharding | None") -> None:
    """Let trainings from now on divide the layers of their model, or not."""
    global _sharding
    _sharding = sharding


def sharding() -> "Sharding | None":
    """How the processes divide the layers of the model that they train, if they do."""
    return _sharding if together() else None


def take_device(local_rank: int) -> None:
    """Let this process compute on the GPU of its number, if there are GPUs.

    Raises:
        ConfigError: There are fewer.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count and local_rank >= count:
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU of its own: it has {count}; start "
            "at most so many "
            "processes, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    if count:
        torch.cuda.set_device(local_rank)


def together() -> bool:
    """Whether there is more than this process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return not together() or dist.get_rank() == 0


def agree(flag: bool) -> bool:
    """Whether any process says yes."""
    return any(_exchange("agree", int(flag))) if together() else flag


def from_main(value: T) -> T:
    """What the main process gives here; the others' values are not looked at."""
    if not together():
        return value
    _exchange("from_main")
    given = [value]
    with peer_errors():
        dist.broadcast_object_list(given, src=0, device=torch.device("cpu"))
    return given[0]


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes [n, …], in the order of their ranks; each process may have another number, or none."""
    if not together():
        return rows
    counts = _exchange("gather", len(rows))
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.zeros_like(padded) for _ in counts]
    with peer_errors():
        dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def all_max(number: int) -> int:
    """The largest of the processes' numbers."""
    return max(_exchange("all_max", number)) if together() else number


def add_up(value: Tensor) -> Tensor:
    """The sum of the processes' values."""
    return gather(value[None]).sum(dim=0)


def add_up_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each trained parameter's `.grad` by its sum over all processes; that of a share is a sum already.

    One that no process has a gradient for keeps none, since an optimizer moves even what has a
    gradient of 0.
    """
    if not together():
        return
    trained = [
        parameter for parameter in parameters if parameter.requires_grad and not is_share(parameter)
    ]
    _exchange("gradients", len(trained))
    reached = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.uint8)
    with peer_errors():
        dist.all_reduce(reached, op=dist.ReduceOp.MAX)
        found: list[Tensor] = []
        for parameter, any_has in zip(trained, reached.tolist(), strict=True):
            if any_has:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                found.append(parameter.grad)
        for bucket in _buckets(found):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, part in zip(
                bucket, torch.split(flat, [gradient.numel() for gradient in bucket]), strict=True
            ):
                gradient.copy_(part.view_as(gradient))


def own_pairs(examples: Sequence[TokenizedPair], pairs: Sequence[int]) -> list[int]:
    """Those of the pairs that this process computes: whole prompts, as they share their computation; perhaps none.

    The result depends on the arguments alone, not on how a process cuts its pairs into rows.
    """
    if not together():
        return list(pairs)
    groups = groups_of(examples, pairs, sys.maxsize)
    dealt = deal([group.tokens for group in groups], dist.get_world_size())
    mine = (group for group, rank in zip(groups, dealt, strict=True) if rank == dist.get_rank())
    return [index for group in mine for index in group.pairs]


def deal(tokens: Sequence[int], processes: int) -> list[int]:
    """Which process each item goes to: the longest first, to the one that has the fewest tokens so far."""
    loads = [0] * processes
    dealt = [0] * len(tokens)
    for index in sorted(range(len(tokens)), key=lambda index: -tokens[index]):
        dealt[index] = loads.index(min(loads))
        loads[dealt[index]] += tokens[index]
    return dealt


def check_same_weights(parameters: Iterable[torch.nn.Parameter], *, step: int) -> None:
    """Check that all processes have the same weights, to the bit, as far as each has a whole copy.

    Args:
        parameters: What is trained.
        step: Updates made so far, for the message.

    Raises:
        NumericsError: They differ.
    """
    if not together():
        return
    whole = (parameter.detach() for parameter in parameters if not is_share(parameter))
    sums = [_bits(values).sum(dtype=torch.int64) for values in whole]
    word = zlib.crc32(torch.stack(sums).cpu().numpy().tobytes()) if sums else 0
    if len(set(_exchange("weights", word))) > 1:
        raise NumericsError(
            f"the processes have different weights after step {step}; every process must read the "
            "same policy and the "
            "same run folder, and compute on the same kind of device"
        )


def report_exit(code: int) -> bool:
    """Say to the others that this process ends with this exit code, and whether it is the one to say why.

    With 0 it waits for the others to say the same. One that is not to say why returns when the one
    that is has gone.

    Raises:
        EndedElsewhere: This one is well, and another is not.
    """
    if not together() or _disconnected:
        return True
    try:
        _exchange("end", code=code)
    except EndedElsewhere as error:
        if code == 0:
            raise
        if error.rank != dist.get_rank():
            wait_until_gone()
            return False
    except BackendError:
        # It had something to say before the others went.
        return True
    return True


def abandon_group() -> None:
    """End without a word to the others, who wait for this process where no word can be given."""
    global _disconnected
    _disconnected = True


@contextmanager
def exchanging_weights() -> Iterator[None]:
    """Passes through divided layers: a process that fails in them has no word to say so, and the others lose it.

    Raises:
        BackendError: Another process has failed.
    """
    try:
        yield
    except BaseException as error:
        abandon_group()
        if isinstance(error, RuntimeError) and any(word in str(error) for word in _BROKEN):
            raise _gone(error) from error
        raise


def is_share(parameter: Tensor) -> "TypeGuard[DTensor]":
    """Whether this process has a share of the parameter only."""
    return hasattr(parameter, "placements")


def wait_until_gone() -> None:
    """Return when another process has gone, or joins in: a launcher ends all as soon as the first has ended."""
    with suppress(BackendError, EndedElsewhere):
        _exchange("gone")


def _exchange(kind: str, word: int = 0, *, code: int = 0) -> list[int]:
    """Everybody's word, in the order of their ranks.

    Raises:
        EndedElsewhere: Somebody, perhaps this one, has given an exit code.
        BackendError: Somebody has gone without a word.
    """
    own = torch.tensor([code, zlib.crc32(kind.encode()), word])
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    with peer_errors():
        dist.all_gather(rows, own)
    codes, kinds, words = torch.stack(rows).T.tolist()
    if any(codes):
        rank = next(rank for rank, given in enumerate(codes) if given)
        raise EndedElsewhere(rank, codes[rank])
    assert len(set(kinds)) == 1, f"the processes are not at the same place; this one is at {kind!r}"
    found: list[int] = words
    return found


@contextmanager
def peer_errors() -> Iterator[None]:
    """Say that another process has gone where torch reports a broken connection."""
    global _disconnected
    try:
        yield
    except RuntimeError as error:
        _disconnected = True
        raise _gone(error) from error


def _gone(error: RuntimeError) -> BackendError:
    return BackendError(
        "another process of this training has ended without a word "
        f"({str(error).splitlines()[0]}); "
        "the same command resumes from the newest checkpoint"
    )


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of the same kind, at most `_BUCKET` numbers together; a larger one alone."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        size = sum(one.numel() for one in bucket) + gradient.numel()
        if bucket and (
            size > _BUCKET
            or (bucket[0].dtype, bucket[0].device) != (gradient.dtype, gradient.device)
        ):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _bits(values: Tensor) -> Tensor:
    """The bit patterns of numbers, as integers of the same width."""
    widths = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.contiguous().view(widths[values.element_size()])
