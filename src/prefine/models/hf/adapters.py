"""Adapter folders in PEFT's layout: small matrices for a base model that is elsewhere.

peft is imported where it is used: it takes seconds, and most runs have no adapter.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from prefine.errors import BackendError, ConfigError

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


def base_of(path: str) -> str | None:
    """Return the folder or hub id of an adapter's base model; None if `path` is no adapter folder.

    Raises:
        BackendError: The adapter's configuration is damaged, or its base is not there.
    """
    file = Path(path) / _CONFIG
    if not file.is_file():
        return None
    if not (Path(path) / _WEIGHTS).is_file():
        raise BackendError(
            f"{path}: no adapter weights here ({_WEIGHTS} is missing); restore or train it again"
        )
    base = adapter_settings(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise BackendError(
            f"{file}: names no base model; add its folder or hub id as base_model_name_or_path"
        )
    if (Path(base) / _CONFIG).is_file():
        raise BackendError(
            f"{path}: its base model {base} is an adapter folder too; merge that one first"
        )
    if not Path(base).exists() and base.count("/") != 1:
        raise BackendError(
            f"{path}: this is an adapter, and its base model {base} is not there; put it back, "
            f"or write where it is into base_model_name_or_path of {file}"
        )
    return base


def adapter_settings(path: str) -> dict[str, Any]:
    """Return an adapter's configuration; raise BackendError if it is no JSON object."""
    file = Path(path) / _CONFIG
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise BackendError(f"{file}: damaged ({error}); restore the folder") from error
    return settings


def load_onto(model: Any, path: str) -> Any:
    """Return the base model with an adapter, not merged: its matrices keep their own precision.

    Raises:
        BackendError: The adapter does not fit the model.
    """
    require_peft(path)
    from peft import PeftModel, get_peft_model_state_dict

    rows = stored_rows(model, path)
    if rows > model.get_input_embeddings().weight.shape[0]:
        # Tokens were added when it was trained; their rows are in the adapter's file.
        model.resize_token_embeddings(rows, mean_resizing=False)
    try:
        adapted = PeftModel.from_pretrained(model, path, is_trainable=False)
        with safe_open(Path(path) / _WEIGHTS, framework="pt") as file:
            stored = set(file.keys())
    except Exception as error:
        raise BackendError(
            f"{path}: the adapter cannot be loaded onto its base model: {error}; train it again, "
            "or restore the base"
        ) from error
    # Weights that are not in the file keep their random start, which would be another model.
    if missing := sorted(set(get_peft_model_state_dict(adapted)) - stored):
        raise BackendError(
            f"{path}: {len(missing)} adapter weights are missing from {_WEIGHTS}, such as "
            f"{', '.join(missing[:3])}; restore the folder"
        )
    return adapted


def stored_rows(model: Any, path: str) -> int:
    """Return the tokens of an adapter's own embeddings or head; 0 if it has neither.

    Args:
        model: Its base model, with or without weights.
        path: The adapter's folder.

    Raises:
        BackendError: The adapter's weights are damaged.
    """
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    names = [
        f"base_model.model.{name}."
        for name, module in model.named_modules()
        if any(module is end for end in ends)
    ]
    rows = [0]
    try:
        with safe_open(Path(path) / _WEIGHTS, framework="pt") as file:
            for key in list(file.keys()):
                # The matrices of LoRA have other shapes.
                own = key.startswith(tuple(names)) and "lora_" not in key
                if own and key.endswith(".weight"):
                    rows.append(file.get_slice(key).get_shape()[0])
    except SafetensorError as error:
        raise BackendError(
            f"{path}: {_WEIGHTS} is damaged ({error}); restore the folder"
        ) from error
    return max(rows)


def whole(model: Any) -> Any:
    """Return the model with the adapter that it was loaded with merged into its weights."""
    if not hasattr(model, "merge_and_unload"):
        return model
    # Loading the adapter froze the weights beside it.
    return model.merge_and_unload().requires_grad_(True)


def save_adapter(model: Any, folder: Path, *, base: str) -> None:
    """Write the adapter that was attached to `model` as an ordinary PEFT folder.

    Args:
        model: With one adapter, see `training.adapter.attach`.
        folder: Created if it is missing.
        base: Folder or hub id of the base model; a folder is stored as an absolute path.
    """
    (settings,) = model.peft_config.values()
    settings.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    settings.inference_mode = True
    # A set has another order in every process; the same training writes the same bytes.
    settings.target_modules = sorted(settings.target_modules)
    # Not a class's own way (Granite speech), which names this folder as the adapter's base.
    PreTrainedModel.save_pretrained(model, folder)


def merge(model: Any) -> None:
    """Merge the adapter that was attached to `model` into its weights, in float32, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if next(model.parameters()).dtype != torch.float64:
        model.float()
    wrapped = {
        name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }
    for name, module in wrapped.items():
        module.merge()
        # A layer with several weights (experts) is wrapped once for each. Replacing the outermost
        # wrapper removes those inside it.
        if not any(name.startswith(f"{other}.") for other in wrapped):
            model.set_submodule(name, module.get_base_layer())
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
    model.delete_adapter(list(model.peft_config))


def require_peft(where: str) -> None:
    """Raise ConfigError if peft is not installed; `where` starts the message."""
    if find_spec("peft") is None:
        raise ConfigError(f"{where}: adapters need the package 'peft'; install prefine[train]")
