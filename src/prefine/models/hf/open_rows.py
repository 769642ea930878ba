"""Rows that a model continues token by token: padded together, or apart where it cannot do that.

Layers of some models cannot read padding on the left (a recurrence, positions that a model counts
itself) or have a cache that cannot be repeated for the samples of a prompt. `way_of` finds on the
model itself which way gives the logits of plain rows.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from prefine.models.hf.architecture import accepted, rounding_error

if TYPE_CHECKING:  # it reads padded rows
    from prefine.models.hf.smaller_batches import SmallerBatches

PROMPT_BUCKET = 64
_SHORT_PROMPT = 32
_MORE_TOKENS = 32
"""Places for tokens that a cache is given at a time."""

Rows = Sequence[Int[Tensor, "group width"]]
"""Token ids of the rows of each prompt."""

_FAILURES = (TypeError, ValueError, AttributeError, IndexError, KeyError, RuntimeError)


class OpenRows(Protocol):
    """Rows of prompts, `group` for each, and the logits of what comes next in each."""

    logits: Float[Tensor, "rows vocabulary"]

    def feed(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; return the logits of the next one."""
        ...

    def shrink(self, alive: Bool[Tensor, " rows"]) -> Int[Tensor, " kept"] | None:
        """Leave out rows that have ended, as far as no bit of the others changes by that.

        Args:
            alive: Which rows have to stay; at least one.
        Returns: The rows that are left, in their new order; None if all are.
        """
        ...


class ReadPrompts(Protocol):
    """Prompts that a model has read, once or for each row as it must."""

    def rows(self, group: int) -> OpenRows:
        """Open `group` rows for each prompt, one after the other; it may be called again."""
        ...


class Way(Protocol):
    """A way to open rows."""

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]], *, pad_id: int, fed: bool
    ) -> ReadPrompts:
        """Read the prompts.

        Args:
            model: A causal language model of transformers, in eval mode.
            prompts: Token ids.
            pad_id: Token for padding.
            fed: Tokens will be appended, for which a cache is kept.
        """
        ...


def padded_length(tokens: int) -> int:
    """Return the length that a prompt of this many tokens is padded to."""
    # Attention reads the padding at every token: with 64 for all, most of a short prompt's time.
    if tokens <= _SHORT_PROMPT:
        return _SHORT_PROMPT
    return -(-tokens // PROMPT_BUCKET) * PROMPT_BUCKET


class PaddedPrompts:
    """All prompts in one batch, padded on the left to one bucket; each is read once."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        pad_id: int,
        fed: bool,
        width: int | None = None,
        smaller: "SmallerBatches | None" = None,
    ) -> None:
        width = width or padded_length(max(map(len, prompts)))
        padding = [width - len(ids) for ids in prompts]
        ids = torch.tensor(
            [[pad_id] * pads + list(ids) for pads, ids in zip(padding, prompts, strict=True)],
            device=model.device,
        )
        self._mask = torch.tensor(
            [[0] * pads + [1] * (width - pads) for pads in padding], device=model.device
        )
        out = model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=(self._mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=fed,
            logits_to_keep=1,
        )
        self._model, self._smaller = model, smaller
        self._cache = out.past_key_values if fed else None
        self._logits = out.logits[:, -1]

    def rows(self, group: int) -> OpenRows:
        """Open `group` rows for each prompt, one after the other."""
        return PaddedRows(
            self._model,
            None if self._cache is None else _repeated(self._cache, group),
            self._mask.repeat_interleave(group, dim=0),
            self._logits.repeat_interleave(group, dim=0),
            self._smaller,
        )


def _repeated(cache: Any, group: int) -> Any:
    """A cache of its own with `group` rows for each row of `cache`."""
    if not _is_plain(cache):
        other = copy.deepcopy(cache)
        other.batch_repeat_interleave(group)
        return other
    other = copy.copy(cache)
    other.layers = [_RoomyLayer(layer, group) for layer in cache.layers]
    return other


def _is_plain(cache: Any) -> bool:
    """Return True if keys and values of the tokens are all that a cache has."""
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, _RoomyLayer) for layer in cache.layers
    )


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values with room behind them, so that a token is written and nothing is copied."""

    def __init__(self, layer: Any, group: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(layer.keys, layer.values)
        self._length = layer.keys.shape[-2]
        self._rooms = [_roomy(held, group) for held in (layer.keys, layer.values)]
        self._look()

    def update(
        self, key_states: Tensor, value_states: Tensor, *arguments: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values; return all of them."""
        del arguments, options
        end = self._length + key_states.shape[-2]
        if end > self._rooms[0].shape[-2]:
            self._rooms = [_roomy(room) for room in self._rooms]
        for room, new in zip(self._rooms, (key_states, value_states), strict=True):
            room[..., self._length : end, :] = new
        self._length = end
        return self._look()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, in this order."""
        # Copying is most of what this takes, and few rows change their place.
        moved = (indices != torch.arange(len(indices))).nonzero()[:, 0]
        for room in self._rooms:
            room[moved, :, : self._length] = room[indices[moved], :, : self._length]
        self._rooms = [room[: len(indices)] for room in self._rooms]
        self._look()

    def _look(self) -> tuple[Tensor, Tensor]:
        keys, values = (room[..., : self._length, :] for room in self._rooms)
        self.keys, self.values = keys, values
        return keys, values


def _roomy(held: Tensor, group: int = 1) -> Tensor:
    """A tensor with more places for tokens, and `group` rows for each row."""
    rows, heads, tokens, width = held.shape
    room = held.new_empty(rows, group, heads, tokens + _MORE_TOKENS, width)
    room[..., :tokens, :] = held[:, None]
    return room.flatten(0, 1)


class PaddedRows:
    """Rows in one batch, see `PaddedPrompts`."""

    def __init__(
        self,
        model: Any,
        cache: Any,
        mask: Int[Tensor, "rows width"],
        logits: Float[Tensor, "rows vocabulary"],
        smaller: "SmallerBatches | None",
    ) -> None:
        self._model, self._cache, self._mask = model, cache, mask
        self._position = mask.sum(dim=1, keepdim=True)
        self._smaller, self._opened = smaller, len(mask)
        self.logits = logits

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

    def shrink(self, alive: Bool[Tensor, " rows"]) -> Int[Tensor, " kept"] | None:
        """Go on with the smallest batch that gives the rows the same bits."""
        if self._smaller is None or not _is_plain(self._cache):
            return None
        size = self._smaller.smallest(self._opened, int(alive.sum()))
        if size >= len(alive):
            return None
        # Rows behind the last place move to places of rows that have ended. Some of these may have
        # to stay, so that the batch has a size that was tried.
        behind = size + alive[size:].nonzero()[:, 0]
        kept = torch.arange(size)
        kept[(~alive[:size]).nonzero()[: len(behind), 0]] = behind
        self.keep(kept)
        return kept

    def keep(self, kept: Int[Tensor, " kept"]) -> None:
        """Go on with some of the rows."""
        self._cache.batch_select_indices(kept)
        self._mask, self._position = self._mask[kept], self._position[kept]


class PromptsApart:
    """Prompts that are read for themselves when rows of them are opened, without padding."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        pad_id: int,
        fed: bool,
        opened: "type[SeparateRows] | type[WholeRows]",
    ) -> None:
        del pad_id
        self._model, self._prompts, self._fed, self._opened = model, prompts, fed, opened

    def rows(self, group: int) -> OpenRows:
        """Open `group` rows for each prompt, one after the other."""
        device = self._model.device
        rows = [torch.tensor([list(ids)] * group, device=device) for ids in self._prompts]
        return self._opened(self._model, rows, fed=self._fed)


class SeparateRows:
    """The rows of each prompt for themselves, with a cache.

    Args:
        model: A causal language model of transformers, in eval mode.
        rows: Token ids of the rows of each prompt.
        fed: Tokens will be appended, for which a cache is kept.
    """

    def __init__(self, model: Any, rows: Rows, *, fed: bool) -> None:
        self._model = model
        outputs = [model(input_ids=some, **accepted(model, use_cache=fed)) for some in rows]
        self._caches = [out.past_key_values for out in outputs] if fed else []
        self._group = len(rows[0])
        self.logits = torch.cat([out.logits[:, -1] for out in outputs])

    def feed(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; return the logits of the next one."""
        outputs = [
            self._model(input_ids=some[:, None], past_key_values=cache, use_cache=True)
            for some, cache in zip(torch.split(tokens, self._group), self._caches, strict=True)
        ]
        self._caches = [out.past_key_values for out in outputs]
        return torch.cat([out.logits[:, -1] for out in outputs])

    def shrink(self, alive: Bool[Tensor, " rows"]) -> Int[Tensor, " kept"] | None:
        """Leave out prompts all of whose rows have ended."""
        prompts = _with_open_rows(alive, self._group)
        if len(prompts) == len(self._caches):
            return None
        self._caches = [self._caches[prompt] for prompt in prompts]
        return _rows_of(prompts, self._group).to(alive.device)


class WholeRows:
    """The rows of each prompt for themselves, and all of them read again for every token; no cache.

    Args:
        model: A causal language model of transformers, in eval mode.
        rows: Token ids of the rows of each prompt.
        fed: Without effect.
    """

    def __init__(self, model: Any, rows: Rows, *, fed: bool) -> None:
        del fed
        self._model, self._rows = model, list(rows)
        self.logits = self._read()

    def feed(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; return the logits of the next one."""
        parts = torch.split(tokens, len(self._rows[0]))
        self._rows = [
            torch.cat([rows, part[:, None]], dim=1)
            for rows, part in zip(self._rows, parts, strict=True)
        ]
        return self._read()

    def shrink(self, alive: Bool[Tensor, " rows"]) -> Int[Tensor, " kept"] | None:
        """Leave out prompts all of whose rows have ended."""
        group = len(self._rows[0])
        prompts = _with_open_rows(alive, group)
        if len(prompts) == len(self._rows):
            return None
        self._rows = [self._rows[prompt] for prompt in prompts]
        return _rows_of(prompts, group).to(alive.device)

    def _read(self) -> Float[Tensor, "rows vocabulary"]:
        off = accepted(self._model, use_cache=False)
        return torch.cat([self._model(input_ids=rows, **off).logits[:, -1] for rows in self._rows])


def _with_open_rows(alive: Bool[Tensor, " rows"], group: int) -> list[int]:
    """The prompts that have a row which is alive."""
    found: list[int] = alive.reshape(-1, group).any(dim=1).nonzero()[:, 0].tolist()
    return found


def _rows_of(prompts: Sequence[int], group: int) -> Int[Tensor, " n"]:
    return torch.tensor([prompt * group + one for prompt in prompts for one in range(group)])


WAYS: tuple[Way, ...] = (
    PaddedPrompts,
    partial(PromptsApart, opened=SeparateRows),
    partial(PromptsApart, opened=WholeRows),
)
"""From the fastest to the one that any causal model can go."""


@torch.inference_mode()
def way_of(model: Any, pad_id: int) -> Way:
    """Return the fastest way that gives the logits of plain rows; it depends on the model alone."""
    # Of different lengths, so that one is padded; two tokens are fed, so that caches are used.
    vocabulary = model.get_input_embeddings().weight.shape[0]
    texts = [[(7 * at + length) % vocabulary for at in range(length)] for length in (6, 13)]
    prompts = [text[:-2] for text in texts]
    *fast, slowest = WAYS
    expected = _logits(slowest, model, prompts, texts, pad_id)
    if not bool(expected.isfinite().all()):
        return PaddedPrompts  # damaged weights, which each answer will say
    for way in fast:
        try:
            found = _logits(way, model, prompts, texts, pad_id)
        except torch.OutOfMemoryError:
            raise
        except _FAILURES:
            continue  # it needs what this model does not have; the next way needs less
        if float((found - expected).abs().max()) <= rounding_error(model, expected):
            return way
    return slowest


def _logits(
    way: Way, model: Any, prompts: list[list[int]], texts: list[list[int]], pad_id: int
) -> Float[Tensor, "n vocabulary"]:
    """Log-probabilities of what comes after each prompt and after the tokens that follow it."""
    rows = way(model, prompts, pad_id=pad_id, fed=True).rows(2)
    steps = [rows.logits]
    for after in (-2, -1):
        tokens = torch.tensor([text[after] for text in texts for _ in range(2)])
        steps.append(rows.feed(tokens.to(rows.logits.device)))
    return torch.cat(steps).float().log_softmax(-1)
