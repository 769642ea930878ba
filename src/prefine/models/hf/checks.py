"""Checks of model folders before any work; they load no weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefine.chat import stop_token_id
from prefine.errors import BackendError, ConfigError
from prefine.models.hf.adapters import adapter_settings, base_of
from prefine.models.hf.architecture import linear_layers, load_config, skeleton
from prefine.models.hf.loading import (
    check_folder,
    load_generation_config,
    load_tokenizer,
    vocabulary,
)
from prefine.models.hf.weight_files import check_weight_files


def check_model(path: str, load: Callable[[], Any]) -> None:
    """Check that a folder has a causal language model and a matching tokenizer.

    Args:
        path: The folder or hub id.
        load: Loads its tokenizer, as it will be used.

    Raises:
        BackendError: A file is missing or damaged.
        ConfigError: It is another kind of model, or model and tokenizer do not go together.
    """
    _check_files(path)
    rows = vocabulary(path)
    tokenizer = load()
    _check_vocabulary(path, tokenizer, rows)
    stop = stop_token_id(tokenizer, load_generation_config(path))
    if stop >= rows:
        raise ConfigError(
            f"{path}: the token that ends an answer ({stop}) is outside the model's vocabulary of "
            f"{rows}; set eos_token in tokenizer_config.json to one of its tokens"
        )


def check_classifier(path: str) -> None:
    """Check the files of a reward model, a sequence classifier with one output.

    Raises:
        BackendError: A file is missing or damaged.
        ConfigError: It is another kind of model, or model and tokenizer do not go together.
    """
    _check_files(path)
    config = load_config(path)
    kinds = config.architectures or []
    if base_of(path) is not None:
        if adapter_settings(path).get("task_type") != "SEQ_CLS":
            raise ConfigError(
                f"{path}: this adapter was trained for a language model and is no reward model; "
                "give one that train.reward has trained, or another sequence classifier"
            )
        from prefine.models.hf.reward_head import reward_skeleton

        reward_skeleton(str(base_of(path)))
    elif kinds and not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise ConfigError(
            f"{path}: {', '.join(kinds)} is no reward model; give a sequence classifier, or judge "
            "with {name: pairwise, model: {name: hf, path: ...}}"
        )
    elif kinds:
        check_outputs(path, config)
    rows = getattr(config.get_text_config(), "vocab_size", None)
    _check_vocabulary(path, load_tokenizer(path), rows)


def check_outputs(path: str, config: Any) -> None:
    """Raise ConfigError if a classifier has another number of outputs than a reward model's one."""
    if config.num_labels != 1:
        raise ConfigError(
            f"{path}: a reward model has one output, this has {config.num_labels} labels"
        )


def layer_names(path: str) -> list[str]:
    """Return the names of the layers of a model that can carry an adapter."""
    return linear_layers(skeleton(path))


def _check_files(path: str) -> None:
    base = base_of(path) or path
    try:
        check_folder(base, ("config.json",), "model")
        if Path(base).is_dir():
            check_folder(base, ("*.safetensors",), "weights")
            check_weight_files(Path(base))
    except BackendError as error:
        if base == path:
            raise
        raise BackendError(f"{path}: its base model is not usable: {error}") from error
    if base != path:
        check_weight_files(Path(path))


def _check_vocabulary(path: str, tokenizer: Any, rows: int | None) -> None:
    largest = max(tokenizer.get_vocab().values(), default=0)
    if rows is not None and largest >= rows:
        name = tokenizer.convert_ids_to_tokens(largest)
        raise BackendError(
            f"{path}: the tokenizer has {largest + 1} tokens (the last is {name!r}), the model an "
            f"embedding for {rows}; give the folder of the tokenizer that belongs to it, or "
            f"enlarge the model once with model.resize_token_embeddings({largest + 1})"
        )
