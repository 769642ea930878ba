"""Completions and replies drawn with a Hugging Face model, in batches of fixed shape and order."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from prefine import chat
from prefine.calls.protocol import Batch, Call, Failure
from prefine.config.sections import Decoding
from prefine.errors import ConfigError
from prefine.models.hf.generation import Drawn, draw, first_token_logps, uniforms
from prefine.models.hf.open_rows import WAYS, ReadPrompts, Way, padded_length
from prefine.models.hf.smaller_batches import fastest_way
from prefine.models.protocol import Reply, SampleRequest, decoding_settings
from prefine.records import Completion, Message, Prompt, Usage, content_hash

if TYPE_CHECKING:
    from prefine.models.hf.backend import HfModel

_SAMPLES_PER_BATCH = 2
"""Samples of one prompt that are drawn together."""


class Sampler:
    """Draws with the weights of a backend, which are loaded for the first batch."""

    def __init__(self, backend: "HfModel") -> None:
        self._backend = backend

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
        ids = {prompt.id: self._backend.prompt_ids(prompt) for prompt in prompts}
        buckets: dict[int, list[Prompt]] = {}
        for prompt in prompts:
            buckets.setdefault(padded_length(len(ids[prompt.id])), []).append(prompt)
        blocks = [
            bucket[start : start + self._block_size]
            for _, bucket in sorted(buckets.items())
            for start in range(0, len(bucket), self._block_size)
        ]
        for block in blocks:
            # Read for the first batch that is wanted, and by that for all of its samples.
            read = cache(partial(self._read_block, block, ids))
            for start in range(0, samples, group):
                indices = range(start, start + group)
                places = [(prompt.id, index) for prompt in block for index in indices]
                if open_keys := [keys[place] for place in places if place in keys]:
                    yield Batch(
                        open_keys, partial(self._draw_block, block, indices, read, keys, decoding)
                    )

    def _read_block(self, block: list[Prompt], ids: Mapping[str, list[int]]) -> ReadPrompts:
        return self._read([ids[prompt.id] for prompt in self._filled(block)])

    def _filled(self, block: list[Prompt]) -> list[Prompt]:
        # A short block is filled up with its first prompt: the shape must not depend on what
        # follows in the file.
        return block + [block[0]] * (self._block_size - len(block))

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
        ids = [self._backend.prompt_ids(Prompt.make(messages)) for messages in conversations]
        limit = math.inf if self._backend.positions is None else self._backend.positions
        fitting = [row for row in ids if len(row) + max_new_tokens <= limit]
        replies: Iterator[Reply] = iter(())
        if fitting and first_token:
            replies = self._first_tokens(fitting)
        elif fitting:
            replies = self._written(fitting, max_new_tokens, temperature, seed)
        too_long = Failure(
            f"the judge's prompt does not fit into the {self._backend.positions} positions of "
            f"{self._backend.label}"
        )
        return [next(replies) if len(row) + max_new_tokens <= limit else too_long for row in ids]

    def _first_tokens(self, rows: list[list[int]]) -> Iterator[Reply]:
        likeliest = first_token_logps(self._backend.model, rows, pad_id=self._pad_id, way=self._way)
        for row, logps in zip(rows, likeliest, strict=True):
            texts: dict[str, float] = {}
            for token, logp in logps.items():
                text = self._backend.tokenizer.decode([token])
                # Pieces of characters all decode to the same replacement character.
                texts[text] = float(np.logaddexp(texts.get(text, -math.inf), logp))
            first = self._backend.tokenizer.decode([next(iter(logps))])
            yield Reply(
                first, "length", texts, Usage(calls=1, prompt_tokens=len(row), completion_tokens=1)
            )

    def _written(
        self, rows: list[list[int]], max_new_tokens: int, temperature: float, seed: int
    ) -> Iterator[Reply]:
        drawn = draw(
            self._read(rows),
            group=1,
            streams=uniforms([content_hash("reply", seed, row) for row in rows], max_new_tokens),
            wanted=[True] * len(rows),
            temperature=temperature,
            top_p=1.0,
            stop_ids=self._stop_ids,
        )
        for row, one in zip(rows, drawn, strict=True):
            assert one is not None, "every row is wanted"
            text = self._text(one.token_ids)
            usage = Usage(calls=1, prompt_tokens=len(row), completion_tokens=len(one.token_ids))
            yield Reply(text, "stop" if one.stopped else "length", None, usage)

    def _draw_block(
        self,
        block: list[Prompt],
        indices: range,
        read: Callable[[], ReadPrompts],
        keys: Mapping[tuple[str, int], str],
        decoding: Decoding,
    ) -> dict[str, Completion | Failure]:
        places = [(prompt, index) for prompt in self._filled(block) for index in indices]
        real = len(block) * len(indices)
        wanted = [place < real and (p.id, i) in keys for place, (p, i) in enumerate(places)]
        streams = uniforms(
            [content_hash("stream", decoding.seed, p.id, i) for p, i in places],
            decoding.max_new_tokens,
        )
        assert decoding.temperature is not None and decoding.top_p is not None, "see check_prompt"
        drawn = draw(
            read(),
            group=len(indices),
            streams=streams,
            wanted=wanted,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            top_k=decoding.top_k,
            stop_ids=self._stop_ids,
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
            model=self._backend.label,
            sampling=dict(decoding_settings(decoding)),
            seed=decoding.seed,
            finish_reason="stop" if drawn.stopped else "length",
        )

    @torch.inference_mode()
    def _read(self, prompts: list[list[int]]) -> ReadPrompts:
        """The prompts, read for tokens to be appended."""
        return self._way(self._backend.model, prompts, pad_id=self._pad_id, fed=True)

    @cached_property
    def _way(self) -> Way:
        way = fastest_way(self._backend.model, self._pad_id)
        if way in WAYS[1:]:
            self._backend.note(
                f"{self._backend.label} reads prompts one by one: padding changes its answers"
            )
        return way

    def _text(self, token_ids: Sequence[int]) -> str:
        return str(self._backend.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    @property
    def _block_size(self) -> int:
        """Prompts per batch; with two samples each, a batch has `batch_rows`."""
        return max(1, self._backend.batch_rows // _SAMPLES_PER_BATCH)

    @cached_property
    def _tokenizer_hash(self) -> str:
        return chat.tokenizer_hash(self._backend.tokenizer)

    @cached_property
    def _stop_ids(self) -> frozenset[int]:
        eos = self._backend.generation_config.eos_token_id
        named = eos if isinstance(eos, list) else [eos]
        stop = chat.stop_token_id(self._backend.tokenizer, self._backend.generation_config)
        return frozenset([stop, *(token for token in named if token is not None)])

    @cached_property
    def _pad_id(self) -> int:
        pad = self._backend.tokenizer.pad_token_id
        return int(min(self._stop_ids) if pad is None else pad)
