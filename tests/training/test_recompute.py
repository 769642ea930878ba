"""Gradient checkpointing: the same gradient, with only the layers' inputs kept."""

from pathlib import Path
from typing import Any

import architectures
import pytest
import tiny_training as tiny
import torch
from step_gradients import EXAMPLES, flat, table
from torch import Tensor

from prefine.config.training import AdapterConfig
from prefine.errors import ConfigError
from prefine.losses import dpo
from prefine.training.forward.layers import recomputed_layers
from prefine.training.forward.passes import Forward
from prefine.training.loop import train
from prefine.training.objective.gradient import accumulate_gradients
from prefine.training.objective.objective import Objective

ARCHITECTURES = ["llama", "gemma2", "gpt2"]


def _gradient(model: torch.nn.Module, *, checkpointing: bool, shared: bool) -> Tensor:
    forward = Forward(model, shared=shared, tokens=60, gradient_checkpointing=checkpointing)  # type: ignore[arg-type]
    batches = forward.cut(EXAMPLES, range(len(EXAMPLES)))
    accumulate_gradients(forward, batches, table(), Objective(dpo), examples=EXAMPLES, step=1)
    return flat(model)


@pytest.mark.parametrize("shared", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_gradient_is_the_same_to_twelve_digits(name: str, shared: bool) -> None:
    build = architectures.ATTENTION_ONLY[name]
    kept, recomputed = (
        _gradient(build(), checkpointing=some, shared=shared) for some in (False, True)
    )
    assert torch.linalg.norm(recomputed - kept) <= 1e-12 * torch.linalg.norm(kept)
    assert torch.linalg.norm(kept) > 0


def test_only_inputs_of_layers_are_kept_and_the_model_is_as_before() -> None:
    kept: dict[bool, int] = {}
    for checkpointing in (False, True):
        model, size = tiny.model(), 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        forward = Forward(model, tokens=60, gradient_checkpointing=checkpointing)
        (rows, *_) = forward.cut(EXAMPLES, range(len(EXAMPLES)))
        kept_tensors = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with kept_tensors, forward._prepared(rows, checkpointing=checkpointing):
            forward._hidden(rows)
        kept[checkpointing] = size
        assert not any("forward" in vars(module) for module in model.modules())
    assert kept[True] < kept[False] / 2


@pytest.mark.parametrize("adapter", [None, AdapterConfig(name="lora")], ids=["all weights", "lora"])
def test_a_training_with_it_is_the_training_without(
    tmp_path: Path, adapter: AdapterConfig | None
) -> None:
    trained = []
    for checkpointing in (False, True):
        model = tiny.model()
        settings = tiny.config(gradient_checkpointing=checkpointing, adapter=adapter, max_steps=4)
        where = tmp_path / str(checkpointing)
        train(model, EXAMPLES, settings, loss=dpo, regularizer=None, out_dir=where, run_key="k")
        trained.append(
            torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
        )
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-9, atol=1e-12)


def test_a_model_that_does_not_say_what_its_layers_are_is_refused() -> None:
    model: Any = torch.nn.Linear(2, 2)
    refused = pytest.raises(
        ConfigError, match=r"train\.gradient_checkpointing: Linear does not say"
    )
    with refused, recomputed_layers(model):
        pass
