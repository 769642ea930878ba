"""A new LoRA adapter beside frozen weights."""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from prefine.config.training import AdapterConfig
from prefine.errors import ConfigError
from prefine.models.hf.adapters import save_adapter
from prefine.models.hf.architecture import linear_layers, output_head, reward_layer, skeleton

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
    head: object = output_head(model)
    rewards = reward_layer(model) is not None
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
                task_type="SEQ_CLS" if rewards else "CAUSAL_LM",
                r=settings.rank,
                lora_alpha=settings.alpha,
                lora_dropout=0.0,
                target_modules=targets,
                # The new layer of a reward model is in no other folder.
                modules_to_save=["score"] if rewards else None,
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


def lost_on_loading(path: str, settings: AdapterConfig, *, rewards: bool = False) -> list[str]:
    """Return the layers whose matrices PEFT would not read back from a saved adapter, sorted.

    For some classes PEFT looks for other names than those that it has saved, warns, and leaves the
    matrices at their random start: what was trained would be lost without an error. So an adapter
    of rank 1 is saved and loaded once, onto a model without weights.

    Args:
        path: Folder or hub id of the policy, whose configuration alone is read.
        settings: The adapter that is to be trained.
        rewards: It is that of a reward model.
    """
    from peft import PeftModel

    bare = skeleton
    if rewards:
        from prefine.models.hf.reward_head import reward_skeleton as bare
    model = bare(path)
    with torch.device("meta"):
        attach(model, settings.model_copy(update={"rank": 1}), seed=0)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                setattr(module, name, torch.nn.Parameter(torch.zeros(parameter.shape)))
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_adapter(model, Path(folder), base=path)
        again = PeftModel.from_pretrained(bare(path), folder)
        # Loaded a second time, it says by return value what it had only warned of.
        missing = again.load_adapter(folder, adapter_name="default").missing_keys
    return sorted(
        {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in missing}
    )


def _last_parts(names: list[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})
