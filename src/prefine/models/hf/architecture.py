"""The class that a model folder was published as, and what is known of it without its weights.

A folder is loaded, trained and saved as the class that its configuration names, so that a wrapper
around a language model (vision, audio) keeps its other parts and the names of its weights.
"""

import inspect
import math
import sys
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from prefine.errors import BackendError, ConfigError
from prefine.models.hf.adapters import base_of

_QUANTIZED = (
    "{path}: its weights are quantized ({method}), and training quantized weights is not "
    "supported; give the folder that they were made from, whose weights are bfloat16 or float32"
)
_UNTRAINABLE = {
    "prophetnet": "its log-probabilities change with the length of the row that a text stands in",
    "reformer": "its reversible layers compute gradients with dropout only, which is off here",
}
"""Types of models whose plain rows say something else than they should, with why."""


def load_config(path: str) -> Any:
    """Return the configuration of a folder or hub id, an adapter's that of its base.

    Raises:
        BackendError: There is none, or it is damaged.
    """
    try:
        return AutoConfig.from_pretrained(base_of(path) or path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0][:300]
        raise BackendError(f"{path}: no model configuration can be read: {reason}") from error


def model_class(path: str) -> tuple[Any, Any]:
    """Return the class that a folder's model is, and the configuration that it takes.

    Raises:
        BackendError: There is no configuration, or it is damaged.
        ConfigError: The model is no causal language model, or reads more than text.
    """
    config = load_config(path)
    named = (config.architectures or [None])[0]
    found: Any = getattr(transformers, named, None) if named else None
    decoder = named in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    if getattr(config, "is_encoder_decoder", False) and not decoder:
        raise ConfigError(
            f"{path}: {named or config.model_type} is an encoder-decoder; only causal language "
            "models (decoders) can be used; choose one"
        )
    if isinstance(found, type) and not _fits(found, config):
        if _fits(found, config.get_text_config()):
            config = config.get_text_config()
        else:
            found = None
    if not isinstance(found, type):
        # A name that transformers does not know, or none: its class for this type of model.
        kind = type(config)
        found = MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None)
        found = found or MODEL_FOR_MULTIMODAL_LM_MAPPING.get(kind, None)
    if found is None or not issubclass(found, transformers.GenerationMixin):
        raise ConfigError(
            f"{path}: {named or config.model_type} is no causal language model; choose one, such "
            "as a folder whose config.json names a …ForCausalLM under architectures"
        )
    # Only models that can do both import the mask that shows a token all others.
    both_ways = hasattr(sys.modules[found.__module__], "create_bidirectional_mask")
    if both_ways and getattr(config, "is_decoder", None) is False:
        raise ConfigError(
            f"{path}: {found.__name__} attends in both directions, so it cannot score or write "
            "answers; choose a causal model, or set is_decoder: true in config.json where the "
            "model was trained so"
        )
    inputs = inspect.signature(found.forward).parameters
    needed = [
        name
        for name, one in inputs.items()
        if one.default is one.empty
        and one.kind is one.POSITIONAL_OR_KEYWORD
        and name not in ("self", "input_ids")
    ]
    if needed or "input_ids" not in inputs:
        raise ConfigError(
            f"{path}: {found.__name__} cannot read text alone"
            f"{f' (it needs {needed[0]})' if needed else ''}; choose another model"
        )
    return found, config


def _fits(found: Any, config: Any) -> bool:
    kind = getattr(found, "config_class", None)
    return kind is not None and isinstance(config, kind)


def skeleton(path: str) -> Any:
    """Return the model of a folder with its shapes and names, and without weights.

    Raises:
        BackendError: There is no configuration, or it is damaged.
        ConfigError: It is no model that can be used here.
    """
    found, config = model_class(path)
    try:
        with torch.device("meta"):
            return found._from_config(config)
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path}: {found.__name__} cannot be loaded here: {reason}") from error
    except Exception as error:  # a configuration's numbers are any user's
        reason = " ".join(str(error).split())[:200]
        raise BackendError(
            f"{path}: config.json describes no {found.__name__} that can be built "
            f"({type(error).__name__}: {reason}); restore the folder"
        ) from error


def check_trainable(path: str) -> None:
    """Raise ConfigError if the weights of a folder cannot be trained, such as quantized ones."""
    config = load_config(path)
    if (why := _UNTRAINABLE.get(config.model_type)) is not None:
        raise ConfigError(f"{path}: {config.model_type} cannot be trained: {why}; choose another")
    if settings := getattr(config, "quantization_config", None):
        method = (
            settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
        )
        raise ConfigError(_QUANTIZED.format(path=path, method=getattr(method, "value", method)))


def reward_layer(model: Any) -> nn.Module | None:
    """Return the layer of a sequence classifier that gives its score; None of other models."""
    return getattr(model, "score", None) if model.get_output_embeddings() is None else None


def output_head(model: Any) -> nn.Module | None:
    """Return the layer behind the last hidden states: of the vocabulary, or of a reward model."""
    head: nn.Module | None = model.get_output_embeddings()
    return reward_layer(model) if head is None else head


def text_part(model: Any) -> list[nn.Module]:
    """Return the modules that text passes through, head and embeddings included.

    In a wrapper these are its language model; in any other model, the whole.
    """
    if model.config.get_text_config(decoder=True) is model.config:
        return [model]
    ends = (model.get_input_embeddings(), output_head(model))
    return [model.get_decoder(), *(end for end in ends if end is not None)]


def freeze_other_parts(model: Any) -> None:
    """Freeze what text does not pass through, such as a vision tower."""
    read = {id(parameter) for part in text_part(model) for parameter in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in read:
            parameter.requires_grad_(False)


# What PEFT refuses in these types of models: their code reads the weights of these layers past any
# adapter.
_BYPASSED = {"out_proj", "conv1d"}
_BYPASSING = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}


def linear_layers(model: Any) -> list[str]:
    """Return the names of the linear layers that can carry an adapter.

    These are all that text passes through, without the output head, without those that PEFT
    refuses, and without what gives more than a product, such as a router that also chooses.
    """
    head = output_head(model)
    read = {module for part in text_part(model) for module in part.modules()}
    refused = _BYPASSED if model.config.model_type in _BYPASSING else set()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not head
        and module in read
        and name.rpartition(".")[2] not in refused
        and _gives_tensor(module)
    ]


@torch.no_grad()
def _gives_tensor(layer: Any) -> bool:
    if type(layer).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    try:
        return isinstance(layer(layer.weight.new_zeros(1, layer.in_features)), torch.Tensor)
    except RuntimeError:
        return False  # it takes more than rows of its width, such as those of several groups


def positions(model: Any) -> int | None:
    """Return the longest row in tokens that a model reads; None if its config does not say."""
    settings = model.config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "max_target_positions")
    found = [getattr(settings, name, None) for name in names]
    # XLNet says -1: it has no limit.
    limit = next((limit for limit in found if limit is not None and limit > 0), None)
    if limit is None:
        return None
    # RoBERTa and its kin count from behind the number of the padding token, so that the rows up to
    # there of their tables are no positions.
    tables = (
        module
        for part in text_part(model)
        for name, module in part.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    )
    rows = [
        table.num_embeddings - table.padding_idx - 1
        for table in tables
        if table.padding_idx is not None
    ]
    return int(min([limit, *rows]))


def accepted(module: nn.Module, **options: Any) -> dict[str, Any]:
    """Those of the options that a module's forward takes."""
    taken = inspect.signature(module.forward).parameters
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return options
    return {name: value for name, value in options.items() if name in taken}


def attention_configs(model: Any) -> list[Any]:
    """Return the configurations that name the attention of a model and of its parts."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return [config for config in found if hasattr(config, "_attn_implementation_internal")]


def rounding_error(model: Any, logps: torch.Tensor) -> float:
    """The difference that another order of additions may make to a log-probability, nats.

    A hidden value is a sum of about d products in each of L layers, so its rounding error walks at
    random to eps * sqrt(d * L) of its size; 8 of these cover the head, and the largest of many
    tokens. For half precision that says nothing, so there half a nat must do, far above the
    rounding of a token.
    """
    # Layers compute parts in float32 even where the weights are float64.
    dtype = next(model.parameters()).dtype
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    settings = model.config.get_text_config(decoder=True)
    width = model.get_input_embeddings().weight.shape[1]
    walk = math.sqrt(width * getattr(settings, "num_hidden_layers", 1))
    return min(0.5, 8 * eps * walk * max(1.0, float(logps.abs().max())))
