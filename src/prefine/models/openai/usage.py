"""The tokens that a server says it used, under the names that servers have for them, and prices."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

_MOST = 10**9
"""A larger number of tokens in one request is an error of the server's."""


class TokenPrices(BaseModel):
    """The server's prices, in the user's currency per million tokens.

    `cached` is for prompt tokens that the server had kept; by default they cost as others do.
    `batch` is for requests in batch files: a factor on these prices, or prices of their own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)
    batch: "Annotated[float, Field(ge=0)] | TokenPrices" = 1.0

    @property
    def in_batches(self) -> "TokenPrices":
        """The prices of requests in batch files."""
        if isinstance(self.batch, TokenPrices):
            return self.batch
        cached = None if self.cached is None else self.cached * self.batch
        return TokenPrices(
            prompt=self.prompt * self.batch, completion=self.completion * self.batch, cached=cached
        )

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """The cost of one request [currency]; `cached_tokens` are some of `prompt_tokens`."""
        cached_price = self.prompt if self.cached is None else self.cached
        cached = min(cached_tokens, prompt_tokens)
        paid_in_full = self.prompt * (prompt_tokens - cached)
        return (paid_in_full + cached_price * cached + self.completion * completion_tokens) / 1e6


class TokenCounts(NamedTuple):
    """The tokens of one request; the cached ones are some of the prompt's.

    `complete` is False if the server did not tell one of the numbers, or an impossible one.
    """

    prompt: int
    completion: int
    cached: int
    complete: bool


def token_counts(usage: Any) -> TokenCounts | None:
    """Read the `usage` of an answer; None where it names no number that can be one.

    Hidden reasoning counts as completion: servers that do not add it to `completion_tokens` bill
    it, and tell it in `total_tokens` or beside the others.
    """
    if not isinstance(usage, Mapping):
        return None
    prompt = _first(usage, "prompt_tokens", "input_tokens")
    completion = _first(usage, "completion_tokens", "output_tokens")
    total = _first(usage, "total_tokens")
    reasoning = _reasoning(usage)
    if prompt is None and completion is None and total is None:
        return None
    complete = (prompt, completion, total).count(None) < 2
    if prompt is None:
        prompt = max(0, total - (completion or 0)) if total is not None else 0
    said = completion or 0
    # More reasoning than completion tokens cannot be among them.
    completion = said + reasoning if reasoning > said else said
    if total is not None:
        completion = max(completion, total - prompt)
    return TokenCounts(prompt, completion, min(prompt, _cached(usage)), complete)


def _reasoning(usage: Mapping[str, Any]) -> int:
    for name in ("completion_tokens_details", "output_tokens_details"):
        details = usage.get(name)
        if isinstance(details, Mapping):
            return _first(details, "reasoning_tokens", "thinking_tokens") or 0
    return _first(usage, "reasoning_tokens", "thoughts_tokens") or 0


def _cached(usage: Mapping[str, Any]) -> int:
    for name in ("prompt_tokens_details", "input_tokens_details"):
        details = usage.get(name)
        if isinstance(details, Mapping) and (found := _count(details.get("cached_tokens"))):
            return found
    return _first(usage, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens") or 0


def _first(values: Mapping[str, Any], *names: str) -> int | None:
    return next((n for name in names if (n := _count(values.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    """Read a number of tokens; None for what cannot be one."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 12:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = math.ceil(value)
    return value if 0 <= value <= _MOST else None
