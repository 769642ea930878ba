"""A new LoRA adapter beside frozen weights."""

from typing import TYPE_CHECKING

import torch

from prefine.config.training import AdapterConfig
from prefine.errors import ConfigError
from prefine.models.hf.architecture import linear_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def attach(model: "PreTrainedModel", settings: AdapterConfig, *, seed: int) -> None:
    """Freeze the weights and attach a LoRA adapter, which at first changes nothing, in place.

    Args:
        model: Without an adapter, on its device.
        settings: Rank, scale and layers.
        seed: Seed of the adapter's initial weights.

    Raises:
        ConfigError: A target is the output head, which may share its weights with the input, or
            PEFT refuses it.
    """
    # Here and not above: peft takes seconds to import.
    from peft import LoraConfig

    named = settings.target_modules
    head: object = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for name, module in model.named_modules():
        if (
            module is head
            and named != "all-linear"
            and any(f".{name}".endswith(f".{target}") for target in named)
        ):
            raise ConfigError(
                f"train.adapter.target_modules: {name} is the output head, which cannot carry an "
                "adapter; take it out"
            )
    targets = linear_layers(model) if named == "all-linear" else list(named)
    torch.manual_seed(seed)
    try:
        model.add_adapter(
            LoraConfig(
                task_type="CAUSAL_LM",
                r=settings.rank,
                lora_alpha=settings.alpha,
                lora_dropout=0.0,
                target_modules=targets,
            )
        )
    except ValueError as error:
        raise ConfigError(
            f"train.adapter.target_modules: {' '.join(str(error).split())[:300]}; choose among "
            f"{', '.join(_last_parts(linear_layers(model)))}"
        ) from error
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float64:
            # Updates are far smaller than bfloat16 can resolve.
            parameter.data = parameter.data.float()


def _last_parts(names: list[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})
