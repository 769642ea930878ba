"""First-order bounds on the rounding error of a loss, from its intermediate results.

Each intermediate result v of the computation is off by at most a few eps * |v|, which moves the
loss by |dloss/dv| times that. A sum or mean of n numbers is off by n * eps times that of their
sizes. Inputs are exact.
"""

from collections.abc import Callable
from typing import Any

import torch
from pair_values import pair_logps, tensors_of, with_tensors
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prefine.losses.facts import kind_of
from prefine.losses.protocol import LossFunction, PairLogps
from reference import Array, Columns

ULPS = 2
"""Of the elementary functions of torch and numpy together."""


class _Trace(TorchFunctionMode):
    """Keeps every intermediate result and its size; what is detached counts as well."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.detach:
            return args[0]
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and result.requires_grad:
            size = result.detach().abs()
            if function.__name__ in ("sum", "mean"):
                terms = args[0].detach().abs()
                size = size + function(terms, *args[1:], **(kwargs or {})) * (
                    terms.numel() / max(1, result.numel())
                )
            self.results.append((result, size))
        return result


def bound(function: LossFunction, columns: Columns, dtype: torch.dtype) -> Array:
    """The bound per pair; the largest one nearby, so that kinks and zeros of the slope count
    [B].
    """
    values, eps = pair_logps(columns), torch.finfo(dtype).eps
    sides = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected", "initial_chosen")
    step = 4 * eps * torch.stack([getattr(values, name).abs() for name in sides]).sum(dim=0)
    nearby = [values]
    for name in ("policy_chosen", "policy_rejected"):
        nearby += [
            with_tensors(values, {name: getattr(values, name) + sign * step}) for sign in (-1, 1)
        ]
    found = torch.stack([_at(function, point) for point in nearby]).max(dim=0).values
    array: Array = (ULPS * eps * found + torch.finfo(dtype).tiny).numpy()
    return array


def _at(function: LossFunction, values: PairLogps) -> Tensor:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors_of(values).items()}
    trace = _Trace()
    inputs = with_tensors(values, dict(leaves))
    with trace:
        total = function(inputs).sum()
    results = [result for result, _ in trace.results]
    slopes = torch.autograd.grad(total, results, allow_unused=True, materialize_grads=True)
    pairs = len(values.policy_chosen)
    per_pair = torch.zeros(pairs, dtype=torch.float64)
    for (_, size), slope in zip(trace.results, slopes, strict=True):
        # Behind a clamp the slope is 0, also where torch makes 0 times infinity of it.
        moved = (slope.abs() * size).nan_to_num(nan=0.0)
        by_pair = moved.ndim > 0 and moved.shape[0] == pairs and kind_of(function) == "local"
        per_pair += moved.reshape(pairs, -1).sum(dim=1) if by_pair else moved.sum()
    return per_pair
