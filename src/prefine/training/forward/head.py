"""The output head on scored positions only, chunk by chunk: no tensor of all tokens by the vocabulary is ever there.

A chunk holds whole groups of pairs, so that their loss, and with it the factor c of every token's
log-probability in the gradient, is known while the chunk's softmax P is still there. The gradient
of c * log P[target] in the logits is c * (one-hot - P); c multiplies rows of width d, never of
width V:

    d_hidden = c * ((one-hot - P) W),   d_W = (one-hot - P)^T (c * hidden)

Three matrix products, nothing kept. Where a group has more positions than the workspace, its logits
are computed twice.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prefine.training.batches.packing import Span, join_spans
from prefine.training.forward.layers import patched_forward, unwrapped
from prefine.training.forward.token_values import (
    LOGPS_ONLY,
    TokenValues,
    Wanted,
    concatenated,
    slices,
    statistics,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ComputeDtype = Literal["float32", "bfloat16"]

Coefficients = Callable[[Span, TokenValues], Float[Tensor, " n"]]
"""What the objective's derivative in each token's log-probability is, once those of a span are known."""

_WORKSPACE_BYTES = {"cpu": 2**26, "cuda": 2**30}
_LEAST_POSITIONS = 512
# A probability below this has lost digits or is 0; its logarithm is then computed from the logits.
_SMALL = 1e-30


class Chunked(Protocol):
    """A head that can be given a chunk of positions."""

    def positions(self) -> int:
        """About how many positions a chunk has."""
        ...

    def values(self, hidden: Tensor, targets: Tensor, wanted: Wanted) -> TokenValues:
        """What the head says of one chunk."""
        ...

    def push(
        self,
        hidden: Tensor,
        targets: Tensor,
        wanted: Wanted,
        coefficients: Callable[[TokenValues], Tensor],
    ) -> tuple[TokenValues, Tensor]:
        """The same, then the gradient: added to the head's `.grad`, and returned for `hidden`."""
        ...


@torch.no_grad()
def score(
    head: Chunked,
    hidden: Float[Tensor, "S d"],
    targets: Int[Tensor, " S"],
    wanted: Wanted = LOGPS_ONLY,
) -> TokenValues:
    """Values of all scored positions."""
    size = head.positions()
    hidden = hidden.detach()
    return concatenated(
        [head.values(hidden[at], targets[at], wanted) for at in slices(len(targets), size)], hidden
    )


@torch.no_grad()
def push(
    head: Chunked,
    hidden: Float[Tensor, "S d"],
    targets: Int[Tensor, " S"],
    spans: Sequence[Span],
    coefficients: Coefficients,
    wanted: Wanted = LOGPS_ONLY,
) -> tuple[TokenValues, Float[Tensor, "S d"]]:
    """Values of all scored positions, and the objective's gradient in `hidden`; the head's goes to its `.grad`.

    Args:
        head: The output head.
        hidden: What the head is given at the scored positions.
        targets: The tokens that were chosen there.
        spans: The groups; one is never cut before its coefficients are known.
        coefficients: Called once with each group or with several together.
        wanted: Which statistics the coefficients depend on.
    """
    hidden = hidden.detach()
    gradient = torch.empty_like(hidden)
    size = head.positions()
    parts = []
    for span in join_spans(spans, size):
        x, t = hidden[span.scored], targets[span.scored]
        if span.positions <= 2 * size:
            values, gradient[span.scored] = head.push(x, t, wanted, partial(coefficients, span))
        else:
            values = score(head, x, t, wanted)
            known = coefficients(span, values)
            pieces = [
                head.push(x[at], t[at], LOGPS_ONLY, _given(known[at]))[1]
                for at in slices(len(t), size)
            ]
            gradient[span.scored] = torch.cat(pieces)
        parts.append(values)
    return concatenated(parts, hidden), gradient


def _given(known: Tensor) -> Callable[[TokenValues], Tensor]:
    return lambda _: known


@dataclass
class LinearHead:
    """logits = scale * (hidden W^T + bias), without autograd and in a workspace that is used again.

    Args:
        layer: The model's head, a plain linear layer.
        scale: What the model multiplies its logits with.
        dtype: What the products compute in; the softmax is float32, or float64 for a float64 model.
    """

    layer: nn.Linear
    scale: float
    dtype: ComputeDtype
    _workspace: Tensor | None = field(default=None, init=False, repr=False)
    _rounded: tuple[int, Tensor] | None = field(default=None, init=False, repr=False)

    def positions(self) -> int:
        """About how many positions a chunk has."""
        return _chunk(self.layer.out_features, self.layer.weight.device)

    def values(self, hidden: Tensor, targets: Tensor, wanted: Wanted) -> TokenValues:
        """What the head says of one chunk."""
        _, values = self._forward(hidden, targets, wanted)
        return values

    def push(
        self,
        hidden: Tensor,
        targets: Tensor,
        wanted: Wanted,
        coefficients: Callable[[TokenValues], Tensor],
    ) -> tuple[TokenValues, Tensor]:
        """The same, then the gradient: added to the head's `.grad`, and returned for `hidden`."""
        probabilities, values = self._forward(hidden, targets, wanted)
        factor = (coefficients(values) * -self.scale)[:, None]
        probabilities[torch.arange(len(targets), device=targets.device), targets] -= 1
        residual = probabilities.to(self._product_dtype())
        gradient = torch.mm(residual, self._weight()).to(hidden.dtype).mul_(factor)
        if self.layer.weight.requires_grad:
            _accumulate(self.layer.weight, residual.T, (hidden * factor).to(residual.dtype))
        bias = self.layer.bias
        if bias is not None and bias.requires_grad:
            _add(bias, (residual.T @ factor.to(residual.dtype)).squeeze(1).to(bias.dtype))
        return values, gradient

    def _forward(
        self, hidden: Tensor, targets: Tensor, wanted: Wanted
    ) -> tuple[Tensor, TokenValues]:
        """Probabilities in the workspace, and the values."""
        space = self._space(len(hidden), hidden)
        product = hidden.to(self._product_dtype())
        if product.dtype == space.dtype:
            torch.mm(product, self._weight().T, out=space)
        else:
            space.copy_(torch.mm(product, self._weight().T))
        if self.layer.bias is not None:
            space += self.layer.bias.to(product.dtype)
        if self.scale != 1:
            space *= self.scale
        torch.softmax(space, -1, out=space)
        chosen = space.gather(1, targets[:, None]).squeeze(1)
        logps = chosen.log()
        small = (chosen < _SMALL).nonzero().squeeze(1)
        for at in slices(len(small), max(1, len(space) // 8)):
            some = small[at]
            logits = torch.mm(product[some], self._weight().T)
            if self.layer.bias is not None:
                logits += self.layer.bias.to(product.dtype)
            exact = logits.to(space.dtype).mul_(self.scale).log_softmax(-1)
            logps[some] = exact.gather(1, targets[some, None]).squeeze(1)
        return space, statistics(space, logps, wanted)

    def _space(self, rows: int, hidden: Tensor) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        space = self._workspace
        if space is None or len(space) < rows or space.dtype != dtype:
            self._workspace = None  # freed before the new one is there
            self._workspace = space = torch.empty(
                rows, self.layer.out_features, dtype=dtype, device=hidden.device
            )
        return space[:rows]

    def _product_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype == "bfloat16" else self.layer.weight.dtype

    def _weight(self) -> Tensor:
        """The weight in the products' dtype, rounded once per update."""
        weight = self.layer.weight.detach()
        if self.dtype != "bfloat16" or weight.dtype == torch.bfloat16:
            return weight
        version = self.layer.weight._version
        if self._rounded is None or self._rounded[0] != version:
            self._rounded = (version, weight.to(torch.bfloat16))
        return self._rounded[1]


@dataclass
class ModuleHead:
    """Any head and whatever the model does to its logits, through the model's own code and autograd.

    Args:
        model: The whole model, whose layers are passed over.
        dtype: What the head computes in.
    """

    model: "PreTrainedModel"
    dtype: ComputeDtype

    def positions(self) -> int:
        """About how many positions a chunk has."""
        return _chunk(int(self.model.config.get_text_config().vocab_size), self.model.device)

    def values(self, hidden: Tensor, targets: Tensor, wanted: Wanted) -> TokenValues:
        """What the head says of one chunk."""
        return self._forward(hidden, targets, wanted)

    def push(
        self,
        hidden: Tensor,
        targets: Tensor,
        wanted: Wanted,
        coefficients: Callable[[TokenValues], Tensor],
    ) -> tuple[TokenValues, Tensor]:
        """The same, then the gradient: added to the head's `.grad`, and returned for `hidden`."""
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            values = self._forward(leaf, targets, wanted)
        known = TokenValues(*(None if value is None else value.detach() for value in values))  # type: ignore[arg-type]
        torch.autograd.backward([values.logps], [coefficients(known)])
        assert leaf.grad is not None
        return known, leaf.grad

    def _forward(self, hidden: Tensor, targets: Tensor, wanted: Wanted) -> TokenValues:
        with computing_in(self.dtype, hidden.device):
            logits = after_layers(self.model, hidden)
        logits = logits.to(torch.promote_types(hidden.dtype, torch.float32))
        logps = logits.log_softmax(-1)
        chosen = logps.gather(1, targets[:, None]).squeeze(1)
        with torch.no_grad():
            return (
                statistics(logps.exp(), chosen, wanted)
                if wanted != LOGPS_ONLY
                else TokenValues(chosen)
            )


def _chunk(vocabulary: int, device: torch.device) -> int:
    """About how many positions a chunk has: more where there are many processors to keep busy."""
    return max(
        _LEAST_POSITIONS,
        _WORKSPACE_BYTES.get(device.type, _WORKSPACE_BYTES["cpu"]) // (4 * vocabulary),
    )


def head_of(model: "PreTrainedModel", dtype: ComputeDtype = "float32") -> Chunked:
    """The fastest head that computes what the model's own forward does."""
    layer = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    plain = type(layer) is nn.Linear and not any(
        (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
    )
    # An instance's own forward is what hooks of other libraries put there.
    if plain and "forward" not in vars(layer) and (scale := _scale(model, layer)) is not None:
        return LinearHead(layer, scale, dtype)
    return ModuleHead(model, dtype)


@torch.no_grad()
def _scale(model: "PreTrainedModel", layer: nn.Linear) -> float | None:
    """What the model multiplies its logits with, if it does nothing else to them."""
    generator = torch.Generator().manual_seed(0)
    hidden = 10 * torch.randn(4, layer.in_features, generator=generator, dtype=torch.float64)
    hidden = hidden.to(layer.weight)
    plain, given = layer(hidden), after_layers(model, hidden)
    if given.shape != plain.shape:
        return None
    settings = model.config.get_text_config()
    divisor = getattr(settings, "logits_scaling", None)
    for scale in (
        1.0,
        getattr(settings, "logit_scale", None),
        None if not divisor else 1 / divisor,
    ):
        if scale is not None and torch.allclose(
            plain * scale, given.to(plain), rtol=1e-2 if plain.dtype.itemsize < 4 else 1e-5
        ):
            return float(scale)
    return None


class _Body:
    """What the layers give, as far as a head asks for it."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]


def after_layers(model: "PreTrainedModel", hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n V"]:
    """The logits that the model's own forward makes of what its layers gave."""
    with patched_forward(unwrapped(model).base_model, lambda *_, **__: _Body(hidden[None])):
        logits: Tensor = unwrapped(model)(
            input_ids=torch.zeros(1, len(hidden), dtype=torch.long), use_cache=False
        ).logits
    return logits[0]


def computing_in(dtype: ComputeDtype, device: torch.device) -> AbstractContextManager[Any]:
    """What the layers compute in; "bfloat16" keeps the weights as they are."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def _accumulate(weight: Tensor, left: Tensor, right: Tensor) -> None:
    """weight.grad += left @ right, without a tensor of its size if it can be done."""
    if weight.grad is None:
        weight.grad = torch.mm(left, right).to(weight.dtype)
    elif weight.grad.dtype == left.dtype:
        weight.grad.addmm_(left, right)
    else:
        weight.grad += torch.mm(left, right)


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient
