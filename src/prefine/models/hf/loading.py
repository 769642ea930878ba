"""Loading Hugging Face models and tokenizers, with errors that name the folder and the remedy.

A folder holds a whole model, or an adapter that names the model it belongs to; what an adapter
folder lacks (configuration, tokenizer) is that of its base.
"""

import gc
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils.hub import cached_file
from transformers.utils.logging import disable_progress_bar

from prefine.chat import PLAIN_TEMPLATE, START_OF_TEXT
from prefine.errors import BackendError, ConfigError
from prefine.models.hf.adapters import (
    adapter_settings,
    base_of,
    load_onto,
    stored_rows,
)
from prefine.models.hf.architecture import (
    load_config,
    model_class,
    positions,
    skeleton,
)
from prefine.records import content_hash

# transformers shows a bar for each model; our progress bars name the stage instead.
disable_progress_bar()  # type: ignore[no-untyped-call]

NO_TEMPLATE = "none"
"""The value of the option chat_template for models that continue plain texts."""

# How templates ask for the date.
_CLOCK = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<form>[^'\"]*)(?P=quote)\s*\)")
# Before a template: the first user turn begins with the system turn, after an empty line.
_MERGE_SYSTEM = (
    "{%- if messages[0].role == 'system' %}{%- set system_text = messages[0].content %}"
    "{%- set messages = messages[1:] %}{%- if system_text %}"
    "{%- if messages and messages[0].role == 'user' %}{%- set messages = [{'role': 'user', "
    "'content': system_text + '\\n\\n' + messages[0].content}] + messages[1:] %}"
    "{%- else %}{%- set messages = [{'role': 'user', 'content': system_text}] + messages %}"
    "{%- endif %}{%- endif %}{%- endif %}"
)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

# Of processors: what turns images and sound into inputs. The tokenizer is written anew.
_PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
)

# Files that a model's answers depend on: weights, shape, stop tokens, tokenizer, chat template.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_FINGERPRINTED = (
    "*.safetensors",
    "*config.json",
    "tokenizer.*",
    "vocab.*",
    "merges.txt",
    "*_tokens*.json",
    "*.jinja",
)


def visible_gpus() -> int:
    """Return the number of GPUs that torch sees."""
    return torch.cuda.device_count()


def default_device() -> str:
    """Return the accelerator, or the CPU if there is none with float64, which sampling needs."""
    # Apple's mps has no float64.
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if accelerator is None or accelerator.type == "mps" else accelerator.type


def check_device(device: str, *, where: str = "device") -> None:
    """Raise ConfigError if there is no such device; "auto" is there always.

    Args:
        device: As torch names it.
        where: The config path that names it, for messages.
    """
    if device in ("auto", "cpu", "meta"):
        return
    present = ["cpu"]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        kind, count = accelerator.type, torch.accelerator.device_count()
        present += [kind, *(f"{kind}:{index}" for index in range(count))]
    if device not in present:
        raise ConfigError(
            f"{where}: {device!r} is not on this machine; there is {', '.join(present)} (or auto)"
        )


def free_memory() -> None:
    """Give back what models that nobody holds any more have taken of the accelerator."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_tokenizer(
    path: str,
    chat_template: str | None = None,
    *,
    merge_system: bool = False,
    date: date | None = None,
) -> Any:
    """Return the tokenizer of a model folder or hub id.

    Args:
        path: The folder or id.
        chat_template: Instead of its own: the text of a template, or "none" for plain text.
        merge_system: Let the template write a system turn into the first user turn.
        date: The day that the template writes, if it writes one; None is the current one.

    Raises:
        BackendError: There is none, or it is damaged.
        ConfigError: It has no chat template.
    """
    base = base_of(path)
    if base is not None and not any((Path(path) / name).is_file() for name in _TOKENIZER_FILES):
        return load_tokenizer(base, chat_template, merge_system=merge_system, date=date)
    check_folder(path, _TOKENIZER_FILES, "tokenizer")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise BackendError(
            f"{path}: the tokenizer cannot be loaded: {error}; copy the tokenizer's files anew "
            "from the model that it belongs to"
        ) from error
    if chat_template is not None:
        plain = chat_template == NO_TEMPLATE
        tokenizer.chat_template = _plain_template(tokenizer) if plain else chat_template
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{path}: the tokenizer has no chat template, so messages cannot be turned into "
            "tokens; use an instruction-tuned model, add chat_template.jinja to the folder, or set "
            "chat_template: to a file with one, or to none for a base model that continues texts"
        )
    if merge_system and not str(tokenizer.chat_template).startswith(_MERGE_SYSTEM):
        tokenizer.chat_template = _MERGE_SYSTEM + tokenizer.chat_template
    if date is not None:
        # The template itself stays as it is, for the folder of the trained model.
        tokenizer.apply_chat_template = partial(
            tokenizer.apply_chat_template, chat_template=_on(date, str(tokenizer.chat_template))
        )
    return tokenizer


def _on(date: date, template: str) -> str:
    """Return the template with the date in place of its questions for it."""
    noon = datetime.combine(date, time(12))
    return _CLOCK.sub(lambda asked: json.dumps(noon.strftime(asked["form"])), template)


def writes_date(path: str, chat_template: str | None) -> bool:
    """Return True if a chat template writes the date; False also where there is no template.

    Args:
        path: Folder or hub id of the model.
        chat_template: The option of that name: a file instead of the model's own template.
    """
    if chat_template is not None:
        return bool(_CLOCK.search(read_template(chat_template) or ""))
    if (base := base_of(path)) is not None and not (Path(path) / "chat_template.jinja").is_file():
        path = base
    names = ("chat_template.jinja", "tokenizer_config.json")
    try:
        found = [
            Path(path) / name
            if Path(path).is_dir()
            else cached_file(path, name, _raise_exceptions_for_missing_entries=False) or path
            for name in names
        ]
        texts = [Path(file).read_text(encoding="utf-8") for file in found if Path(file).is_file()]
    except (OSError, ValueError):
        return False  # loading the tokenizer says what is wrong
    # Within JSON, the quotes are escaped.
    return any(_CLOCK.search(text.replace('\\"', '"')) for text in texts)


def read_template(chat_template: str | None, *, where: str = "chat_template") -> str | None:
    """Return the text of the template file that an option names; "none" and None as they are.

    `where` is the config path that names it, for messages.

    Raises:
        ConfigError: The file cannot be read.
    """
    if chat_template is None or chat_template == NO_TEMPLATE:
        return chat_template
    try:
        return Path(chat_template).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{where}: {chat_template}: cannot be read ({error}); give the file of a Jinja "
            "template, or none for a base model that continues plain texts"
        ) from error


def _plain_template(tokenizer: Any) -> str:
    """Return a template that writes the prompt's text as it is, and ends an answer with the eos.

    It begins with the start token where the tokenizer puts it before a text.
    """
    start = tokenizer.bos_token_id
    starts = start is not None and list(tokenizer("x")["input_ids"])[:1] == [start]
    return (START_OF_TEXT if starts else "") + PLAIN_TEMPLATE


def load_model(
    path: str, *, dtype: Dtype, device: str, note: Callable[[str], None] = lambda _: None
) -> Any:
    """Return the model of a folder or hub id, in eval mode; its own code is never run.

    An adapter is not merged; `adapters.whole` does that.

    Args:
        path: The folder or id.
        dtype: "auto" is the dtype that the weights are stored in.
        device: Where to.
        note: Called with a remark on weights that the model's class does not read.

    Raises:
        BackendError: There is none, or it is damaged.
    """
    base = base_of(path)
    if base is not None:
        whole = load_model(base, dtype=dtype, device=device, note=note)
        return load_onto(whole, path).eval()
    check_folder(path, ("config.json",), "model")
    found, config = model_class(path)
    model, missing = load_weights(found, path, dtype, "model", note, config=config)
    if missing:
        raise BackendError(
            f"{path}: {len(missing)} weights are missing from the files, such as "
            f"{', '.join(missing[:3])}; restore or download the folder again"
        )
    return model.to(device).eval()


def load_weights(
    auto_class: Any,
    path: str,
    dtype: Dtype,
    what: str,
    note: Callable[[str], None],
    **options: Any,
) -> tuple[Any, list[str]]:
    """Return a model and the names of its weights that are in no file.

    transformers draws missing weights at random, which would be another model: callers must refuse
    it. Weights of the files that the model's class has no place for are noted.

    Raises:
        BackendError: The files are missing or damaged.
    """
    try:
        model, loading = auto_class.from_pretrained(
            path,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise BackendError(
            f"{path}: the {what} cannot be loaded: {str(error)[:500]}; restore or download the "
            "folder again"
        ) from error
    if unread := sorted(loading["unexpected_keys"]):
        note(
            f"{path}: {type(model).__name__} has no place for {len(unread):,} × weights of the "
            f"files, such as {', '.join(unread[:3])}; they are neither used nor saved"
        )
    return model, sorted(loading["missing_keys"])


@contextmanager
def weights_written() -> Iterator[None]:
    """Convert safetensors' report of a write error, such as a full disk, to an OSError."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def load_generation_config(path: str) -> Any:
    """Return the generation config of a folder or hub id, or one made from the model's config.

    Tokens to stop on that the vocabulary does not have are left out: none is ever drawn.
    """
    try:
        config: Any = GenerationConfig.from_pretrained(path)
    except OSError:
        if (base := base_of(path)) is not None:
            return load_generation_config(base)
        config = GenerationConfig.from_model_config(load_config(path))
    stops = config.eos_token_id
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if outside := [token for token in stops if not 0 <= token < vocabulary(path)]:
        config.eos_token_id = [token for token in stops if token not in outside] or None
    return config


def load_positions(path: str) -> int | None:
    """Return the longest input of a model in tokens; None if its config does not say."""
    return _shape(path, _stamp(path)).positions


def vocabulary(path: str) -> int:
    """Return the number of tokens that a model has an embedding for, those of an adapter included.

    Raises:
        BackendError: There is no configuration, or it is damaged.
        ConfigError: It is no model that can be used here.
    """
    rows = _shape(path, _stamp(path)).vocabulary
    return rows if base_of(path) is None else max(rows, stored_rows(skeleton(path), path))


class _Shape(NamedTuple):
    positions: int | None
    vocabulary: int


@lru_cache(maxsize=64)
def _shape(path: str, stamp: tuple[str, int, int] | None) -> _Shape:
    """The shape of a model. Building it without weights takes seconds for a large one."""
    model = skeleton(path)
    return _Shape(positions(model), int(model.get_input_embeddings().weight.shape[0]))


def _stamp(path: str) -> tuple[str, int, int] | None:
    """Place, time and size of the configuration of a folder's model; None of one on the hub."""
    file = Path(base_of(path) or path) / "config.json"
    if not file.is_file():
        return None
    found = file.stat()
    return str(file.resolve()), found.st_mtime_ns, found.st_size


def copy_processor(path: str, folder: Path) -> None:
    """Copy what a model needs to read images or sound, if it has such files, beside new weights."""
    for name in _PROCESSOR_FILES:
        if Path(path).is_dir():
            file: str | Path | None = Path(path) / name
        else:
            file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if file is not None and Path(file).is_file() and not (folder / name).exists():
            shutil.copyfile(file, folder / name)
    if (base := base_of(path)) is not None:
        copy_processor(base, folder)


def weights_fingerprint(path: str) -> str:
    """Return a hash of a folder's weights, configs and tokenizer, or of a hub id's commit.

    The hash of an adapter folder covers its base, wherever that lies.

    Raises:
        BackendError: It is neither a folder nor a hub id.
    """
    folder = Path(path)
    if not folder.is_dir():
        check_folder(path, ("config.json",), "model")
        try:
            config = cached_file(path, "config.json")
        except OSError as error:
            raise BackendError(
                f"{path}: not a folder, and not found on the hub: {error}"
            ) from error
        # The weights may not be here yet, and reading them must not change the hash; a snapshot is
        # named by its commit.
        return content_hash("hub", path, Path(str(config)).parent.name)
    files = sorted(file for pattern in _FINGERPRINTED for file in folder.glob(pattern))
    digest = hashlib.sha256()
    if (base := base_of(path)) is not None:
        settings = adapter_settings(path)
        del settings["base_model_name_or_path"]
        digest.update(content_hash(settings, weights_fingerprint(base)).encode())
        files = [file for file in files if file.name != "adapter_config.json"]
    for file in files:
        digest.update(file.name.encode())
        facts = file.stat()
        digest.update(_file_digest(str(file.resolve()), facts.st_size, facts.st_mtime_ns))
    return digest.hexdigest()[:16]


@cache
def _file_digest(file: str, size: int, changed: int) -> bytes:
    """Return the SHA-256 of a file, cached while it does not change: bases have many adapters."""
    del size, changed
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def check_folder(path: str, needed: tuple[str, ...], what: str) -> None:
    """Raise BackendError if a local path is no model folder; hub ids are not checked."""
    folder = Path(path)
    looks_local = folder.exists() or path.startswith((os.sep, ".", "~")) or path.count("/") != 1
    if not looks_local:
        return
    if not folder.is_dir():
        raise BackendError(
            f"{path}: no such model folder; give a Hugging Face model folder or a hub id like "
            "org/name"
        )
    if not any(any(folder.glob(name)) for name in needed):
        present = ", ".join(sorted(item.name for item in folder.iterdir())[:10]) or "nothing"
        raise BackendError(
            f"{path}: no {what} here ({' or '.join(needed)} is missing; it has: {present}); "
            "give the folder of a Hugging Face model"
        )
