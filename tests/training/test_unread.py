"""What no loss reads of the last layer is not computed, and nothing else changes."""

from typing import Any

import architectures
import pytest
import torch
from step_gradients import EXAMPLES, flat, table
from torch import Tensor, nn

from prefine.losses import dpo
from prefine.training.batches.packing import PackedBatch
from prefine.training.forward import layers
from prefine.training.forward.passes import Forward
from prefine.training.objective.gradient import accumulate_gradients
from prefine.training.objective.objective import Objective


def _forward(model: nn.Module, **settings: Any) -> tuple[Forward, PackedBatch]:
    forward = Forward(model, tokens=10_000, **settings)  # type: ignore[arg-type]
    (rows,) = forward.cut(EXAMPLES, range(len(EXAMPLES)))
    return forward, rows


def _tokens_in_networks(model: nn.Module) -> list[int]:
    """How many tokens each layer's network is given, filled while the model runs."""
    seen: list[int] = []
    for layer in model.base_model.layers:  # type: ignore[union-attr]
        layer.mlp.gate_proj.register_forward_pre_hook(
            lambda _, given: seen.append(given[0].shape[:-1].numel())
        )
    return seen


def test_the_last_network_is_given_scored_tokens_only() -> None:
    model = architectures.ATTENTION_ONLY["llama"]()
    forward, rows = _forward(model)
    assert forward.head  # found by a pass of its own
    seen = _tokens_in_networks(model)
    forward.values(rows)
    assert seen == [rows.positions, len(set(rows.scored.tolist()))]
    assert seen[1] < seen[0]


@pytest.mark.parametrize(
    "settings", [{"score_prompts": True}, {"shared": False}], ids=["prompts read", "unshared"]
)
def test_all_is_computed_where_prompts_are_read_or_not_shared(settings: dict[str, Any]) -> None:
    model = architectures.ATTENTION_ONLY["llama"]()
    forward, rows = _forward(model, **settings)
    assert forward.head  # found by a pass of its own
    seen = _tokens_in_networks(model)
    forward.values(rows)
    assert seen == [rows.positions, rows.positions]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "gpt2", "olmo2", "phi3"])
def test_values_and_gradients_are_those_of_the_whole_layer(
    name: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[Tensor, Tensor]] = []
    for most_read in (layers._MOST_SCORED, 0.0):
        monkeypatch.setattr(layers, "_MOST_SCORED", most_read)
        model = architectures.ATTENTION_ONLY[name]()
        forward, rows = _forward(model, gradient_checkpointing=checkpointing)
        values = forward.values(rows).logps
        accumulate_gradients(forward, [rows], table(), Objective(dpo), examples=EXAMPLES, step=1)
        found.append((values, flat(model)))
    for one, other in zip(*found, strict=True):
        assert torch.linalg.norm(one - other) <= 1e-12 * torch.linalg.norm(other)


class _Network(nn.Module):
    def forward(self, hidden: Tensor, scale: float = 1.0) -> Tensor | tuple[Tensor, int]:
        return (hidden * scale, 7) if scale == 3 else hidden * scale


@pytest.mark.parametrize("given", [{"scale": 2.0}, {"scale": 3.0}])
def test_a_network_that_takes_more_is_asked_for_all(given: dict[str, float]) -> None:
    hidden, network = torch.randn(1, 5, 4), _Network()
    found = layers._mlp_of(network, torch.tensor([1, 3]), hidden, **given)
    torch.testing.assert_close(found, network(hidden, **given))


def test_a_network_that_gives_more_is_asked_for_all() -> None:
    hidden = torch.randn(1, 5, 4)
    first, second = layers._mlp_of(lambda rows: (rows, len(rows[0])), torch.tensor([1, 3]), hidden)
    assert second == 5
    torch.testing.assert_close(first, hidden)


def test_layers_that_hand_nothing_on_are_left_as_they_are() -> None:
    model = architectures.ATTENTION_ONLY["llama"]()
    assert layers._last_layer(model.base_model) is model.base_model.layers[-1]
    model.base_model.layers[-1].self_attn.forward = lambda hidden_states: (hidden_states, None)
    assert layers._last_layer(model.base_model) is None
