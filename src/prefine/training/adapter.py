"""A fresh low-rank adapter beside frozen weights."""

from typing import TYPE_CHECKING

import torch

from prefine.config import AdapterConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def attach(model: "PreTrainedModel", settings: AdapterConfig, *, seed: int) -> None:
    """Freeze the weights and put an adapter beside them that at first changes nothing, in place.

    Args:
        model: Without an adapter, on its device.
        settings: Rank, scale and layers.
        seed: Decides the adapter's start.
    """
    # Here and not above: peft takes seconds to import.
    from peft import LoraConfig

    named = settings.target_modules
    torch.manual_seed(seed)
    model.add_adapter(
        LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=0.0,
            target_modules=named if named == "all-linear" else list(named),
        )
    )
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float64:
            # Updates are far smaller than what bfloat16 can tell apart.
            parameter.data = parameter.data.float()
