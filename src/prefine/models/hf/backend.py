"""Hugging Face models in this process."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from prefine import chat
from prefine.calls.protocol import Batch, Call, Failure
from prefine.config.sections import Decoding
from prefine.errors import ConfigError
from prefine.models.capabilities import provides
from prefine.models.hf.checks import check_model
from prefine.models.hf.generation import Drawn, draw, first_token_logps, uniforms
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
from prefine.models.hf.open_rows import PaddedRows, Way, padded_length, way_of
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
    decoding_settings,
)
from prefine.records import Completion, Message, Prompt, Usage, content_hash

_SAMPLES_PER_BATCH = 2
"""Samples of one prompt that are drawn together."""


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
    ) -> None:
        self.path = path
        self.dtype = dtype
        self.batch_rows = batch_rows
        self.label = label or path.rstrip("/").rsplit("/", 1)[-1]
        self._device = device
        self._chat_template, self._system = chat_template, system
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
        )

    def check_model(self) -> None:
        """Raise before any work if folder or device cannot be used; loads no weights."""
        check_device(self._device)
        check_model(self.path, lambda: self.tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer, dtype and batch size, and of a template given beside them."""
        template = read_template(self._chat_template)
        given = [] if template is None else [template]
        if self._system != "own":
            given.append(self._system)
        weights = weights_fingerprint(self.path)
        return content_hash("hf", weights, self.dtype, self.batch_rows, *given)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded on first use."""
        return load_tokenizer(
            self.path,
            read_template(self._chat_template),
            merge_system=self._system == "merge",
        )

    @cached_property
    def model(self) -> Any:
        """The model in eval mode, loaded on first use."""
        return load_model(self.path, dtype=self.dtype, device=self.device, note=self._note)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes += (text,)

    def release(self) -> None:
        """Give back the memory of the weights, which are loaded again on the next use."""
        for name in ("_draw", "_way", "model"):
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
        tokens = len(self._prompt_ids(prompt))
        if self.positions is not None and tokens + decoding.max_new_tokens > self.positions:
            raise PromptTooLong(
                f"{prompt.source}, prompt {prompt.id}: {tokens} tokens and "
                f"{decoding.max_new_tokens} new ones exceed the model's {self.positions} "
                f"positions; lower {where}.max_new_tokens or shorten the prompt"
            )

    def sample(
        self,
        shard: Sequence[Call[SampleRequest]],
        wanted: Sequence[Call[SampleRequest]],
        decoding: Decoding,
    ) -> Iterable[Batch[Completion]]:
        """Yield the wanted completions in batches whose shape and order never change.

        First prompts are sorted into buckets of one padded length, then each bucket is cut into
        blocks in the order of the shard, then samples into groups of two (one, where a single
        sample is asked for): so that neither more prompts nor a larger M moves a completion to
        another place in another batch.
        """
        keys = {(call.payload.prompt.id, call.payload.sample_index): call.key for call in wanted}
        prompts = list({call.payload.prompt.id: call.payload.prompt for call in shard}.values())
        samples = 1 + max(call.payload.sample_index for call in shard)
        group = min(samples, _SAMPLES_PER_BATCH)
        ids = {prompt.id: self._prompt_ids(prompt) for prompt in prompts}
        buckets: dict[int, list[Prompt]] = {}
        for prompt in prompts:
            buckets.setdefault(padded_length(len(ids[prompt.id])), []).append(prompt)
        blocks = [
            bucket[start : start + self._block_size]
            for _, bucket in sorted(buckets.items())
            for start in range(0, len(bucket), self._block_size)
        ]
        for block in blocks:
            for start in range(0, samples, group):
                indices = range(start, start + group)
                places = [(prompt.id, index) for prompt in block for index in indices]
                if open_keys := [keys[place] for place in places if place in keys]:
                    yield Batch(
                        open_keys, partial(self._draw_block, block, indices, ids, keys, decoding)
                    )

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
    ) -> list[Reply | Failure]:
        """Return one reply per conversation, in one batch.

        With `first_token` it is one forward pass, and the reply has the likeliest first tokens.

        Raises:
            ConfigError: The temperature is left to a server.
        """
        if temperature is None:
            raise ConfigError("judge.temperature: null is for servers; a local model has no own")
        ids = [self._prompt_ids(Prompt.make(messages)) for messages in conversations]
        limit = math.inf if self.positions is None else self.positions
        fitting = [row for row in ids if len(row) + max_new_tokens <= limit]
        replies: Iterator[Reply] = iter(())
        if fitting and first_token:
            replies = self._first_tokens(fitting)
        elif fitting:
            replies = self._written(fitting, max_new_tokens, temperature, seed)
        too_long = Failure(
            f"the judge's prompt does not fit into the {self.positions} positions of {self.label}"
        )
        return [next(replies) if len(row) + max_new_tokens <= limit else too_long for row in ids]

    def _first_tokens(self, rows: list[list[int]]) -> Iterator[Reply]:
        likeliest = first_token_logps(self.model, rows, pad_id=self._pad_id, way=self._way)
        for row, logps in zip(rows, likeliest, strict=True):
            texts: dict[str, float] = {}
            for token, logp in logps.items():
                text = self.tokenizer.decode([token])
                # Pieces of characters all decode to the same replacement character.
                texts[text] = float(np.logaddexp(texts.get(text, -math.inf), logp))
            first = self.tokenizer.decode([next(iter(logps))])
            yield Reply(
                first, "length", texts, Usage(calls=1, prompt_tokens=len(row), completion_tokens=1)
            )

    def _written(
        self, rows: list[list[int]], max_new_tokens: int, temperature: float, seed: int
    ) -> Iterator[Reply]:
        drawn = self._draw(
            rows,
            group=1,
            streams=uniforms([content_hash("reply", seed, row) for row in rows], max_new_tokens),
            wanted=[True] * len(rows),
            temperature=temperature,
            top_p=1.0,
        )
        for row, one in zip(rows, drawn, strict=True):
            assert one is not None, "every row is wanted"
            text = self._text(one.token_ids)
            usage = Usage(calls=1, prompt_tokens=len(row), completion_tokens=len(one.token_ids))
            yield Reply(text, "stop" if one.stopped else "length", None, usage)

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        ids = chat.prompt_ids(self.tokenizer, prompt)
        if not ids:
            raise ConfigError(
                f"{self.path}: the chat template renders prompt {prompt.id} ({prompt.source}) as "
                "nothing"
            )
        return ids

    def _draw_block(
        self,
        block: list[Prompt],
        indices: range,
        ids: Mapping[str, list[int]],
        keys: Mapping[tuple[str, int], str],
        decoding: Decoding,
    ) -> dict[str, Completion | Failure]:
        # A short block is filled up with its first prompt: the shape must not depend on what
        # follows in the file.
        rows = block + [block[0]] * (self._block_size - len(block))
        places = [(prompt, index) for prompt in rows for index in indices]
        real = len(block) * len(indices)
        wanted = [place < real and (p.id, i) in keys for place, (p, i) in enumerate(places)]
        streams = uniforms(
            [content_hash("stream", decoding.seed, p.id, i) for p, i in places],
            decoding.max_new_tokens,
        )
        drawn = self._draw(
            [ids[prompt.id] for prompt in rows],
            group=len(indices),
            streams=streams,
            wanted=wanted,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
        )
        return {
            keys[prompt.id, index]: self._completion(
                prompt, index, keys[prompt.id, index], one, decoding
            )
            for (prompt, index), one in zip(places, drawn, strict=True)
            if one is not None
        }

    def _completion(
        self, prompt: Prompt, index: int, key: str, drawn: Drawn, decoding: Decoding
    ) -> Completion | Failure:
        if not math.isfinite(drawn.logp):
            return Failure("the model's log-probabilities are not finite")
        text = self._text(drawn.token_ids[:-1] if drawn.stopped else drawn.token_ids)
        return Completion(
            id=content_hash("sampled", key, drawn.token_ids),
            prompt_id=prompt.id,
            sample_index=index,
            message=Message(role="assistant", content=text),
            token_ids=drawn.token_ids,
            tokenizer_hash=self._tokenizer_hash,
            sampled_logp=drawn.logp,
            model=self.label,
            sampling=dict(decoding_settings(decoding)),
            seed=decoding.seed,
            finish_reason="stop" if drawn.stopped else "length",
        )

    @cached_property
    def _draw(self) -> Callable[..., list[Drawn | None]]:
        return partial(
            draw, self.model, stop_ids=self._stop_ids, pad_id=self._pad_id, way=self._way
        )

    @cached_property
    def _way(self) -> Way:
        way = way_of(self.model, self._pad_id)
        if way is not PaddedRows:
            self._note(f"{self.label} reads prompts one by one: padding changes its answers")
        return way

    def _text(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    @property
    def _block_size(self) -> int:
        """Prompts per batch; with two samples each, a batch has `batch_rows`."""
        return max(1, self.batch_rows // _SAMPLES_PER_BATCH)

    @cached_property
    def _tokenizer_hash(self) -> str:
        return chat.tokenizer_hash(self.tokenizer)

    @cached_property
    def _stop_ids(self) -> frozenset[int]:
        eos = self.generation_config.eos_token_id
        named = eos if isinstance(eos, list) else [eos]
        stop = chat.stop_token_id(self.tokenizer, self.generation_config)
        return frozenset([stop, *(token for token in named if token is not None)])

    @cached_property
    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(min(self._stop_ids) if pad is None else pad)
