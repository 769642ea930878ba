"""Hugging Face models in this process."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from prefine import chat
from prefine.config.sections import Decoding
from prefine.errors import ConfigError, at_config_path, option_path
from prefine.models.capabilities import provides
from prefine.models.hf.checks import check_model
from prefine.models.hf.loading import (
    Dtype,
    check_device,
    default_device,
    free_memory,
    load_generation_config,
    load_model,
    load_positions,
    load_tokenizer,
    read_template,
    weights_fingerprint,
)
from prefine.models.protocol import (
    At,
    Checks,
    HasWeights,
    PromptTooLong,
    Releases,
    Replies,
    Reply,
    SampleRequest,
    Samples,
    label_of,
)
from prefine.records import Completion, Message, Prompt, content_hash

if TYPE_CHECKING:
    from prefine.calls.protocol import Batch, Call, Failure
    from prefine.models.hf.sampling import Sampler


@provides(Samples, Replies, HasWeights, At, Releases, Checks)
class HfModel:
    """A causal language model from a folder or the hub.

    Args:
        path: Folder or hub id.
        dtype: "auto" is the dtype that the weights are stored in.
        device: "auto" is the accelerator when there is one.
        batch_rows: Completions drawn at a time. It is part of how a run is cut into batches.
        label: Name for people; the path's last part when not given.
        chat_template: A file with a Jinja template instead of the tokenizer's own; or "none" for a
            base model, whose prompts are plain texts that it continues.
        system: "merge" writes a system turn into the first user turn, for templates that refuse it;
            "own" leaves it to the template.
        date: For chat templates that write the date: the day, as 2026-01-31. By default the current
            one, and in a run the day on which it began.
        config_path: Of this model, for messages.
    """

    concurrency = 1

    def __init__(
        self,
        *,
        path: str,
        dtype: Dtype = "auto",
        device: str = "auto",
        batch_rows: Annotated[int, Field(gt=0)] = 128,
        label: str | None = None,
        chat_template: str | None = None,
        system: Literal["own", "merge"] = "own",
        date: date | None = None,
        config_path: str = "",
    ) -> None:
        self._config_path = config_path
        self.path = path
        self.dtype = dtype
        self.batch_rows = batch_rows
        self.label = label or label_of(path)
        self._device = device
        self._chat_template, self._system, self._date = chat_template, system, date
        self.notes: tuple[str, ...] = ()

    def at(self, path: str) -> "HfModel":
        """Return the model of another folder with the same settings."""
        return HfModel(
            path=path,
            dtype=self.dtype,
            device=self._device,
            batch_rows=self.batch_rows,
            chat_template=self._chat_template,
            system=self._system,
            date=self._date,
        )

    def check_model(self) -> None:
        """Raise before any work if folder or device cannot be used; loads no weights."""
        check_device(self._device, where=option_path(self._config_path, "device"))
        with self._at_path():
            check_model(self.path, lambda: self.tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer, dtype and batch size, and of a template given beside them."""
        template = self._template()
        given = [] if template is None else [template]
        if self._system != "own":
            given.append(self._system)
        if self._date is not None:
            given.append(self._date.isoformat())
        weights = weights_fingerprint(self.path)
        return content_hash("hf", weights, self.dtype, self.batch_rows, *given)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded on first use."""
        template = self._template()
        with self._at_path():
            return load_tokenizer(
                self.path, template, merge_system=self._system == "merge", date=self._date
            )

    @cached_property
    def model(self) -> Any:
        """The model in eval mode, loaded on first use."""
        with self._at_path():
            return load_model(self.path, dtype=self.dtype, device=self.device, note=self.note)

    def _template(self) -> str | None:
        where = option_path(self._config_path, "chat_template")
        return read_template(self._chat_template, where=where)

    def _at_path(self) -> AbstractContextManager[None]:
        """Name the config path of the folder in errors, where a configuration names it."""
        return at_config_path(self._config_path, "path")

    def note(self, text: str) -> None:
        """Add a remark for the user, once."""
        if text not in self.notes:
            self.notes += (text,)

    def release(self) -> None:
        """Give back the memory of the weights, which are loaded again on the next use."""
        for name in ("_sampler", "model"):
            self.__dict__.pop(name, None)
        free_memory()

    @cached_property
    def generation_config(self) -> Any:
        """The generation config; read without loading weights."""
        return load_generation_config(self.path)

    @cached_property
    def positions(self) -> int | None:
        """The longest input in tokens, if the model's config says so; loads no weights."""
        return load_positions(self.path)

    @cached_property
    def device(self) -> str:
        """The device it runs on."""
        return default_device() if self._device == "auto" else self._device

    def check_prompt(self, prompt: Prompt, decoding: Decoding, *, where: str) -> None:
        """Raise PromptTooLong if prompt and answer exceed the positions; loads no weights.

        Raises:
            ConfigError: Temperature or top_p is left to a server.
        """
        for name in ("temperature", "top_p"):
            if getattr(decoding, name) is None:
                raise ConfigError(f"{where}.{name}: null is for servers; a local model has no own")
        tokens = len(self.prompt_ids(prompt))
        if self.positions is not None and tokens + decoding.max_new_tokens > self.positions:
            raise PromptTooLong(
                f"{prompt.source}, prompt {prompt.id}: {tokens} tokens and "
                f"{decoding.max_new_tokens} new ones exceed the model's {self.positions} "
                f"positions; lower {where}.max_new_tokens or shorten the prompt"
            )

    def sample(
        self,
        shard: "Sequence[Call[SampleRequest]]",
        wanted: "Sequence[Call[SampleRequest]]",
        decoding: Decoding,
    ) -> "Iterable[Batch[Completion]]":
        """Yield the wanted completions in batches, see `Sampler.sample`."""
        return self._sampler.sample(shard, wanted, decoding)

    @property
    def conversations_per_batch(self) -> int:
        """An eighth of `batch_rows`: a judge's prompts are many times as long as others."""
        return max(1, self.batch_rows // 8)

    def respond(
        self,
        conversations: Sequence[tuple[Message, ...]],
        *,
        max_new_tokens: int,
        temperature: float | None,
        seed: int,
        first_token: bool,
    ) -> "list[Reply | Failure]":
        """Return one reply per conversation, see `Sampler.respond`."""
        return self._sampler.respond(
            conversations,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            first_token=first_token,
        )

    @cached_property
    def _sampler(self) -> "Sampler":
        # Here and not above: a training draws nothing.
        from prefine.models.hf.sampling import Sampler

        return Sampler(self)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt.

        Raises:
            ConfigError: The template renders it as nothing.
        """
        ids = chat.prompt_ids(self.tokenizer, prompt)
        if not ids:
            raise ConfigError(
                f"{self.path}: the chat template renders prompt {prompt.id} ({prompt.source}) as "
                "nothing"
            )
        return ids
