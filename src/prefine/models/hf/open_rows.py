"""Rows that a model continues token by token: padded together, or apart where it cannot do that.

Layers of some models cannot read padding on the left (a recurrence, positions that a model counts
itself) or have a cache that cannot be repeated for the samples of a prompt. `way_of` finds on the
model itself which way gives the logits of plain rows.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.models.hf.architecture import accepted, rounding_error

PROMPT_BUCKET = 64

_FAILURES = (TypeError, ValueError, AttributeError, IndexError, KeyError, RuntimeError)


class OpenRows(Protocol):
    """Rows of prompts, `group` for each, and the logits of what comes next in each."""

    logits: Float[Tensor, "rows vocabulary"]

    def feed(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; return the logits of the next one."""
        ...


class Way(Protocol):
    """A way to open rows."""

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]], *, group: int, pad_id: int, fed: bool
    ) -> OpenRows:
        """Read the prompts.

        Args:
            model: A causal language model of transformers, in eval mode.
            prompts: Token ids.
            group: Rows of each prompt.
            pad_id: Token for padding.
            fed: Tokens will be appended, for which a cache is kept.
        """
        ...


def padded_length(tokens: int) -> int:
    """Return the length that a prompt of this many tokens is padded to."""
    return -(-tokens // PROMPT_BUCKET) * PROMPT_BUCKET


class PaddedRows:
    """All prompts in one batch, padded on the left to one bucket; each is read once."""

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], *, group: int, pad_id: int, fed: bool
    ) -> None:
        width = padded_length(max(map(len, prompts)))
        padding = [width - len(ids) for ids in prompts]
        ids = torch.tensor(
            [[pad_id] * pads + list(ids) for pads, ids in zip(padding, prompts, strict=True)],
            device=model.device,
        )
        mask = torch.tensor(
            [[0] * pads + [1] * (width - pads) for pads in padding], device=model.device
        )
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=fed,
            logits_to_keep=1,
        )
        self._model = model
        self._cache = out.past_key_values
        if fed:
            self._cache.batch_repeat_interleave(group)
        self._mask = mask.repeat_interleave(group, dim=0)
        self._position = self._mask.sum(dim=1, keepdim=True)
        self.logits = out.logits[:, -1].repeat_interleave(group, dim=0)

    def feed(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; return the logits of the next one."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        out = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._position = self._position + 1
        logits: Tensor = out.logits[:, -1]
        return logits


class SeparateRows:
    """Each prompt for itself, read once for each of its rows, without padding."""

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], *, group: int, pad_id: int, fed: bool
    ) -> None:
        del pad_id
        self._model, self._group = model, group
        rows = [torch.tensor([list(ids)] * group, device=model.device) for ids in prompts]
        outputs = [model(input_ids=some, **accepted(model, use_cache=fed)) for some in rows]
        self._caches = [out.past_key_values for out in outputs] if fed else []
        self.logits = torch.cat([out.logits[:, -1] for out in outputs])

    def feed(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; return the logits of the next one."""
        outputs = [
            self._model(input_ids=some[:, None], past_key_values=cache, use_cache=True)
            for some, cache in zip(torch.split(tokens, self._group), self._caches, strict=True)
        ]
        self._caches = [out.past_key_values for out in outputs]
        return torch.cat([out.logits[:, -1] for out in outputs])


class WholeRows:
    """Each prompt for itself, and all of its rows read again for every token; no cache."""

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], *, group: int, pad_id: int, fed: bool
    ) -> None:
        del pad_id, fed
        self._model = model
        self._rows = [torch.tensor([list(ids)] * group, device=model.device) for ids in prompts]
        self.logits = self._read()

    def feed(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; return the logits of the next one."""
        parts = torch.split(tokens, len(self._rows[0]))
        self._rows = [
            torch.cat([rows, part[:, None]], dim=1)
            for rows, part in zip(self._rows, parts, strict=True)
        ]
        return self._read()

    def _read(self) -> Float[Tensor, "rows vocabulary"]:
        off = accepted(self._model, use_cache=False)
        return torch.cat([self._model(input_ids=rows, **off).logits[:, -1] for rows in self._rows])


WAYS: tuple[Way, ...] = (PaddedRows, SeparateRows, WholeRows)
"""From the fastest to the one that any causal model can go."""


@torch.inference_mode()
def way_of(model: Any, pad_id: int) -> Way:
    """Return the fastest way that gives the logits of plain rows; it depends on the model alone."""
    # Of different lengths, so that one is padded; two tokens are fed, so that caches are used.
    vocabulary = model.get_input_embeddings().weight.shape[0]
    texts = [[(7 * at + length) % vocabulary for at in range(length)] for length in (6, 13)]
    prompts = [text[:-2] for text in texts]
    expected = _logits(WholeRows, model, prompts, texts, pad_id)
    if not bool(expected.isfinite().all()):
        return PaddedRows  # damaged weights, which each answer will say
    for way in WAYS[:-1]:
        try:
            found = _logits(way, model, prompts, texts, pad_id)
        except torch.OutOfMemoryError:
            raise
        except _FAILURES:
            continue  # it needs what this model does not have; the next way needs less
        if float((found - expected).abs().max()) <= rounding_error(model, expected):
            return way
    return WholeRows


def _logits(
    way: Way, model: Any, prompts: list[list[int]], texts: list[list[int]], pad_id: int
) -> Float[Tensor, "n vocabulary"]:
    """Log-probabilities of what comes after each prompt and after the tokens that follow it."""
    rows = way(model, prompts, group=2, pad_id=pad_id, fed=True)
    steps = [rows.logits]
    for after in (-2, -1):
        tokens = torch.tensor([text[after] for text in texts for _ in range(2)])
        steps.append(rows.feed(tokens.to(rows.logits.device)))
    return torch.cat(steps).float().log_softmax(-1)
