"""The output head on scored positions only, chunk by chunk: never all tokens by the vocabulary.

A chunk holds whole groups of items, so that their loss, and with it the factor c of every token's
log-probability in the gradient, is known while the chunk's softmax P is still in memory. The
gradient of c * log P[target] in the logits is c * (one-hot - P); c multiplies rows of width d,
never of width V:

    d_hidden = c * ((one-hot - P) W),   d_W = (one-hot - P)^T (c * hidden)

Three matrix products, nothing kept. Where a group has more positions than the workspace, its logits
are computed twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prefine.errors import ConfigError
from prefine.models.hf.architecture import reward_layer
from prefine.training.batches.packing import Span, join_spans
from prefine.training.forward.layers import (
    ComputeDtype,
    after_layers,
    computing_in,
    unwrapped,
)
from prefine.training.forward.token_values import (
    LOGPS_ONLY,
    TokenValues,
    Wanted,
    concatenate,
    slices,
    statistics,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Coefficients = Callable[[Span, TokenValues], Float[Tensor, " n"]]
"""The objective's derivative in each token's log-probability, given the values of a span."""
Pull = Callable[[Float[Tensor, " n"]], Float[Tensor, "n d"]]
"""Turns the coefficients of a chunk's tokens into the gradient in its hidden states.

It adds the gradient in the head's parameters to their `.grad`, and holds until the head computes
another chunk.
"""

_WORKSPACE_BYTES = {"cpu": 2**26, "cuda": 2**30}
_LEAST_POSITIONS = 512
# A probability below this has lost digits or is 0; its logarithm is then computed from the logits.
_SMALL = 1e-30


@torch.no_grad()
def score(
    head: "Head",
    hidden: Float[Tensor, "S d"],
    targets: Int[Tensor, " S"],
    wanted: Wanted = LOGPS_ONLY,
) -> TokenValues:
    """Values of all scored positions."""
    hidden = hidden.detach()
    chunks = slices(len(targets), head.positions())
    return concatenate([head.values(hidden[at], targets[at], wanted) for at in chunks])


@torch.no_grad()
def push(
    head: "Head",
    hidden: Float[Tensor, "S d"],
    targets: Int[Tensor, " S"],
    spans: Sequence[Span],
    coefficients: Coefficients,
    wanted: Wanted = LOGPS_ONLY,
) -> Float[Tensor, "S d"]:
    """The objective's gradient in `hidden`; that in the head's weight is added to its `.grad`.

    Args:
        head: The output head.
        hidden: The last hidden states at the scored positions.
        targets: The tokens that were chosen there.
        spans: The groups; one is never cut before its coefficients are known.
        coefficients: Called once with each group or with several together.
        wanted: The statistics that the coefficients depend on.
    """
    hidden = hidden.detach()
    gradient = torch.empty_like(hidden)
    size = head.positions()
    for span in join_spans(spans, size):
        x, t, g = hidden[span.scored], targets[span.scored], gradient[span.scored]
        if span.positions <= 2 * size:
            values, pull = head.values_and_pull(x, t, wanted)
            g.copy_(pull(coefficients(span, values)))
        else:
            # First the values of the whole group, as its loss needs them all, then its
            # coefficients, and only then the gradient, chunk by chunk with other logits.
            factors = coefficients(span, score(head, x, t, wanted))
            for at in slices(len(t), size):
                _, pull = head.values_and_pull(x[at], t[at], LOGPS_ONLY)
                g[at] = pull(factors[at])
    return gradient


@torch.no_grad()
def weight_gradient(
    head: "Head",
    hidden: Float[Tensor, "S d"],
    targets: Int[Tensor, " S"],
    coefficients: Float[Tensor, " S"],
) -> Float[Tensor, "V d"]:
    """The gradient in the head's weight, trained or not, of a weighted sum of log-probabilities.

    All `.grad` of the model must be empty, and are empty afterwards.

    Args:
        head: The output head.
        hidden: The last hidden states at the scored positions.
        targets: The tokens that were chosen there.
        coefficients: The weights of the tokens; positions of weight 0 cost nothing.
    """
    weight = output_weight(head)
    total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    some, trained = coefficients.nonzero().squeeze(1), weight.requires_grad
    weight.requires_grad_(True)
    for at in slices(len(some), head.positions()):
        _, pull = head.values_and_pull(hidden[some[at]], targets[some[at]], LOGPS_ONLY)
        pull(coefficients[some[at]])
        assert weight.grad is not None, "the pull adds to it"
        total += weight.grad
        weight.grad = None
    weight.requires_grad_(trained)
    if isinstance(head, ModuleHead):
        head.model.zero_grad(set_to_none=True)
    elif isinstance(head, LinearHead) and head.layer.bias is not None:
        head.layer.bias.grad = None
    return total


def output_weight(head: "Head") -> nn.Parameter:
    """The weight of an output head."""
    assert not isinstance(head, RewardHead), "a reward model has no head over the vocabulary"
    layer: Any = (
        head.layer if isinstance(head, LinearHead) else head.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    )
    found: nn.Parameter = layer.weight
    return found


@dataclass
class LinearHead:
    """logits = scale * (hidden W^T + bias), without autograd and in a workspace that is reused.

    Args:
        layer: The model's head, a plain linear layer.
        scale: The model's factor of its logits.
        dtype: What the products compute in; the softmax is float32, or float64 for a float64 model.
    """

    layer: nn.Linear
    scale: float
    dtype: ComputeDtype
    _workspace: Tensor | None = field(default=None, init=False, repr=False)
    _rounded: tuple[int, Tensor] | None = field(default=None, init=False, repr=False)

    def positions(self) -> int:
        """About how many positions a chunk has."""
        return workspace_positions(self.layer.out_features, self.layer.weight.device.type)

    def values(
        self, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"], wanted: Wanted
    ) -> TokenValues:
        """Values of one chunk."""
        return self._forward(hidden, targets, wanted)[1]

    def values_and_pull(
        self, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"], wanted: Wanted
    ) -> tuple[TokenValues, Pull]:
        """Values of one chunk, and the function that pulls its coefficients back."""
        probabilities, values = self._forward(hidden, targets, wanted)

        def pull(coefficients: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
            # P becomes P - one-hot in place, so the factor is -c, times the scale of the logits.
            factor = (coefficients * -self.scale)[:, None]
            probabilities[torch.arange(len(targets), device=targets.device), targets] -= 1
            residual = probabilities.to(self._product_dtype())
            if self.layer.weight.requires_grad:
                _add_product(self.layer.weight, residual.T, (hidden * factor).to(residual.dtype))
            bias = self.layer.bias
            if bias is not None and bias.requires_grad:
                gradient = (residual.T @ factor.to(residual.dtype)).squeeze(1).to(bias.dtype)
                bias.grad = gradient if bias.grad is None else bias.grad.add_(gradient)
            return torch.mm(residual, self._weight()).to(hidden.dtype).mul_(factor)

        return values, pull

    def _forward(
        self, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"], wanted: Wanted
    ) -> tuple[Float[Tensor, "n V"], TokenValues]:
        """Probabilities, in the workspace, and the values."""
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
        # The logits are gone: for the few targets whose probability underflows they are computed
        # again, an eighth of the workspace at a time.
        small = (chosen < _SMALL).nonzero().squeeze(1)
        for at in slices(len(small), max(1, len(space) // 8)):
            some = small[at]
            logits = torch.mm(product[some], self._weight().T)
            if self.layer.bias is not None:
                logits += self.layer.bias.to(product.dtype)
            exact = logits.to(space.dtype).mul_(self.scale).log_softmax(-1)
            logps[some] = exact.gather(1, targets[some, None]).squeeze(1)
        return space, statistics(space, logps, wanted)

    def _space(self, rows: int, hidden: Tensor) -> Float[Tensor, "rows V"]:
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

    def _weight(self) -> Float[Tensor, "V d"]:
        """The weight in the products' dtype, rounded once per update."""
        weight = self.layer.weight.detach()
        if weight.dtype == self._product_dtype():
            return weight
        version = self.layer.weight._version
        if self._rounded is None or self._rounded[0] != version:
            self._rounded = (version, weight.to(torch.bfloat16))
        return self._rounded[1]


@dataclass
class ModuleHead:
    """Any head and whatever the model does to its logits, by the model's own code and autograd.

    Args:
        model: The whole model, whose layers are skipped.
        layers: The module whose output the head reads.
        dtype: What the head computes in.
    """

    model: "PreTrainedModel"
    layers: nn.Module
    dtype: ComputeDtype

    def positions(self) -> int:
        """About how many positions a chunk has."""
        return workspace_positions(
            int(self.model.config.get_text_config().vocab_size), self.model.device.type
        )

    def values(
        self, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"], wanted: Wanted
    ) -> TokenValues:
        """Values of one chunk, with a graph if gradients are enabled."""
        with computing_in(self.dtype, hidden.device):
            logits = after_layers(self.model, self.layers, hidden)
        logits = logits.to(torch.promote_types(hidden.dtype, torch.float32))
        logps = logits.log_softmax(-1)
        chosen = logps.gather(1, targets[:, None]).squeeze(1)
        if wanted == LOGPS_ONLY:
            return TokenValues(chosen)
        with torch.no_grad():
            return statistics(logps.exp(), chosen, wanted)

    def values_and_pull(
        self, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"], wanted: Wanted
    ) -> tuple[TokenValues, Pull]:
        """Values of one chunk, and the function that pulls its coefficients back."""
        return _by_autograd(self.values, hidden, targets, wanted)


def _by_autograd(
    values_of: Callable[[Tensor, Tensor, Wanted], TokenValues],
    hidden: Float[Tensor, "n d"],
    targets: Int[Tensor, " n"],
    wanted: Wanted,
) -> tuple[TokenValues, Pull]:
    """Values of one chunk, and the function that pulls coefficients back through their graph."""
    with torch.enable_grad():
        leaf = hidden.detach().requires_grad_()
        values = values_of(leaf, targets, wanted)

    def pull(coefficients: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        torch.autograd.backward([values.logps], [coefficients])
        assert leaf.grad is not None
        return leaf.grad

    return values.map(Tensor.detach), pull


@dataclass
class RewardHead:
    """reward = hidden w^T, the value of a position whatever token comes next.

    Args:
        layer: The reward model's own layer, perhaps wrapped by an adapter.
    """

    layer: nn.Module

    def positions(self) -> int:
        """About how many positions a chunk has."""
        return workspace_positions(1, next(self.layer.parameters()).device.type)

    def values(
        self, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"], wanted: Wanted
    ) -> TokenValues:
        """Values of one chunk, with a graph if gradients are enabled."""
        # In the layer's own precision, also where the layers compute in a lower one.
        dtype = torch.promote_types(next(self.layer.parameters()).dtype, torch.float32)
        return TokenValues(self.layer(hidden.to(dtype)).squeeze(-1))

    def values_and_pull(
        self, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"], wanted: Wanted
    ) -> tuple[TokenValues, Pull]:
        """Values of one chunk, and the function that pulls its coefficients back."""
        return _by_autograd(self.values, hidden, targets, wanted)


Head = LinearHead | ModuleHead | RewardHead


def workspace_positions(vocabulary: int, device: str) -> int:
    """About how many positions a chunk has: more where there are many processors to keep busy.

    Args:
        vocabulary: Columns of the head.
        device: Type of the device.
    """
    workspace = _WORKSPACE_BYTES.get(device, _WORKSPACE_BYTES["cpu"])
    return max(_LEAST_POSITIONS, workspace // (4 * vocabulary))


def head_of(model: "PreTrainedModel", layers: nn.Module, dtype: ComputeDtype = "float32") -> Head:
    """The fastest head that computes the same as the model's own forward behind these layers.

    Raises:
        ConfigError: A reward model's score depends on more than these layers give.
    """
    if (rewards := reward_layer(unwrapped(model))) is not None:
        if layers is unwrapped(model):
            raise ConfigError(
                f"{type(model).__name__} computes its score from more than its last hidden states, "
                "so it cannot be trained as a reward model; choose another model"
            )
        return RewardHead(rewards)
    layer = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    plain = type(layer) is nn.Linear and not any(
        (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
    )
    # An instance's own forward is what hooks of other libraries put there.
    if plain and "forward" not in vars(layer) and (scale := _scale(model, layers, layer)):
        return LinearHead(layer, scale, dtype)
    return ModuleHead(model, layers, dtype)


@torch.no_grad()
def _scale(model: "PreTrainedModel", layers: nn.Module, layer: nn.Linear) -> float | None:
    """The model's factor of its logits; None if it does anything else to them."""
    generator = torch.Generator().manual_seed(0)
    hidden = 10 * torch.randn(4, layer.in_features, generator=generator, dtype=torch.float64)
    hidden = hidden.to(layer.weight)
    plain, given = layer(hidden), after_layers(model, layers, hidden)
    if given.shape != plain.shape:
        return None
    settings = model.config.get_text_config()
    divisor = getattr(settings, "logits_scaling", None)
    rtol = 1e-2 if plain.dtype.itemsize < 4 else 1e-5
    for scale in (1.0, getattr(settings, "logit_scale", None), divisor and 1 / divisor):
        if scale is not None and torch.allclose(plain * scale, given.to(plain), rtol=rtol):
            return float(scale)
    return None


def _add_product(weight: Tensor, left: Tensor, right: Tensor) -> None:
    """weight.grad += left @ right, without a tensor of the weight's size if it can be done."""
    if weight.grad is None:
        weight.grad = torch.mm(left, right).to(weight.dtype)
    elif weight.grad.dtype == left.dtype:
        weight.grad.addmm_(left, right)
    else:
        weight.grad += torch.mm(left, right)
