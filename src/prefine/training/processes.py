"""Several processes that share a step: each has some of its micro-batches, all end with the same gradient."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch import distributed as dist


def together() -> bool:
    """Whether there is more than this process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes [n], in the order of their ranks; each process may have another number, or none."""
    if not together():
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    padded = rows.new_zeros(max(int(count) for count in counts))
    padded[: len(rows)] = rows.detach()
    parts = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def add_up_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each trained parameter's `.grad` by its sum over all processes."""
    if not together():
        return
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            # A process without pairs takes part all the same.
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)


def anywhere(here: bool) -> bool:
    """Whether something is so in any of the processes; all of them ask."""
    if not together():
        return here
    flag = torch.tensor([here], dtype=torch.int32, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)
