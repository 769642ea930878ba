"""The parameters that a server takes, learned from its refusals.

No two servers refuse in the same words, so a parameter is only suspected by its name in an error,
and the suspicion is tried: the request goes out again without it. What helped is kept for the run.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prefine.models.openai.refusals import ServerError

TOP_LOGPROBS = 20
"""The most log-probabilities that servers give."""

_FEW_LOGPROBS = 5

# The names under which a parameter appears in errors. The first is the one that is sent.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "top_logprobs": ("top_logprobs", "top_n_tokens", "toplogprobs", "max_logprobs"),
    "logprobs": ("logprobs", "logprob", "response_logprobs", "responselogprobs"),
    "top_p": ("top_p", "topp", "nucleus"),
    "top_k": ("top_k", "topk"),
    "temperature": ("temperature",),
    "seed": ("seed", "random_seed", "randomseed"),
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxoutputtokens"),
    "n": ("candidatecount", "candidate_count", "num_completions", "num_generations"),
    "add_generation_prompt": ("add_generation_prompt",),
    "continue_final_message": ("continue_final_message",),
    "stream_options": ("stream_options", "include_usage"),
}
_PATTERNS = {
    name: re.compile(rf"(?<![a-z0-9_])(?:{'|'.join(names)})(?![a-z0-9_])", re.IGNORECASE)
    for name, names in _NAMES.items()
}
_LOG_PROBABILITIES = re.compile(r"\blog[ -]?prob(?:abilitie)?s\b", re.IGNORECASE)
# One letter is a parameter only where it is quoted, or where a word beside it says so.
_N = re.compile(
    r"""(?<![\w<>=])(?:['"`‘“]n['"`’”]|n\s*>\s*1\b|n:\s"""
    r"""|n (?:must|should|is|cannot|can't|not|has|greater|larger)\b)"""
    r"|\b[Pp]arameters?:? n\b|\b(?:[Ff]ield|[Aa]rgument|[Oo]ption|[Pp]roperty)s?:? n\b"
    r"|\b(?:[Mm]ultiple|number of|only one|only 1|one)"
    r" (?:choice|completion|candidate|generation)s?\b"
)
_ONE_OF_BOTH = re.compile(r"\b(?:both|only one|either|not together|one of)\b", re.IGNORECASE)
# The name of max_tokens may be refused, or its value: too small, too large.
_UNKNOWN = re.compile(
    r"max_completion_tokens|unsupported|not supported|unknown|unrecogni[sz]ed|unexpected|deprecated"
    r"|not (?:permitted|allowed|available|accepted)|no longer|extra (?:inputs|fields)|instead",
    re.IGNORECASE,
)
_STREAM = re.compile(
    r"stream\w*\W+(?:\w+\W+){0,4}?(?:required|only|must|mandatory|mode|enable|true)"
    r"|(?:only|must|enable|require|set)\w*\W+(?:\w+\W+){0,4}?stream",
    re.IGNORECASE,
)
_PREFILL = re.compile(
    r"prefill|(?:end|start|last|final)\w*\W+(?:\w+\W+){0,4}?(?:user|assistant)"
    r"|(?:assistant|user)\W+(?:\w+\W+){0,4}?(?:last|final|end)\b|continue_final",
    re.IGNORECASE,
)
_SMALL_NUMBER = re.compile(r"(?<![\w.-])\d{1,2}(?![\w%]|\.\d)")


@dataclass(frozen=True)
class Parameters:
    """The fields of a request that are sent, and their form.

    `dropped` maps the names that are left out to the values that were refused.
    """

    dropped: Mapping[str, Any] = field(default_factory=dict)
    max_tokens_name: str = "max_tokens"
    top_logprobs: int = TOP_LOGPROBS
    streams: bool = False

    def fields(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields to send of those that are wanted."""
        sent = {name: value for name, value in wanted.items() if name not in self.dropped}
        if "max_tokens" in sent:
            sent[self.max_tokens_name] = sent.pop("max_tokens")
        if "top_logprobs" in sent:
            sent["top_logprobs"] = min(sent["top_logprobs"], self.top_logprobs)
        if self.streams:
            sent["stream"] = True
            if "stream_options" not in self.dropped:
                sent["stream_options"] = {"include_usage": True}
        return sent

    def remedies(
        self, error: ServerError, wanted: Mapping[str, Any]
    ) -> "Iterator[tuple[str, Parameters]]":
        """Yield what may be changed after an error, likeliest first, each with a note on it."""
        sent = self.fields(wanted)
        for name in _suspects(error):
            if name == "max_tokens" and "max_tokens" in sent and _UNKNOWN.search(error.text):
                note = "the server takes max_tokens by the name max_completion_tokens"
                yield note, replace(self, max_tokens_name="max_completion_tokens")
            elif name in ("logprobs", "top_logprobs") and "logprobs" in sent:
                yield from self._fewer_logprobs(error, sent)
            elif name in sent and name != "max_tokens":
                yield _refused(name, sent[name]), self._without(name, sent[name])
        if not self.streams and _STREAM.search(error.text):
            yield "the server only streams", replace(self, streams=True)

    def _fewer_logprobs(
        self, error: ServerError, sent: Mapping[str, Any]
    ) -> "Iterator[tuple[str, Parameters]]":
        asked = sent.get("top_logprobs", 0)
        numbers = {int(found) for found in _SMALL_NUMBER.findall(error.text)}
        named = [number for number in numbers if 1 < number < asked]
        for few in (max(named, default=_FEW_LOGPROBS), _FEW_LOGPROBS):
            if few < asked and (named or "top_logprobs" in _suspects(error)):
                note = f"the server gives at most {few} top_logprobs; {asked} were asked for"
                yield note, replace(self, top_logprobs=few)
        yield (
            _refused("logprobs", True),
            self._without("logprobs", True)._without("top_logprobs", asked),
        )

    def _without(self, name: str, value: Any) -> "Parameters":
        return replace(self, dropped={**self.dropped, name: value})


def refuses_prefill(error: ServerError) -> bool:
    """Return True if an error may be about a conversation that ends with an assistant's turn."""
    return _PREFILL.search(error.text) is not None


def _refused(name: str, value: Any) -> str:
    # Seeds differ from request to request, and a note is given once.
    shown = f" {value:g}" if name in ("temperature", "top_p", "top_k") else ""
    if name == "n":
        return "the server refuses n, so each completion is a request of its own"
    return f"the server refuses {name}{shown}, which is left out"


def _suspects(error: ServerError) -> list[str]:
    """The parameters that an error names: those it points at, then those in its text, in order."""
    pointed = [name for at in error.parameters for name, names in _NAMES.items() if at in names]
    if "n" in error.parameters:
        pointed.append("n")
    places = {
        name: match.start()
        for name, pattern in _PATTERNS.items()
        if (match := pattern.search(error.text))
    }
    if match := _N.search(error.text):
        places["n"] = match.start()
    if match := _LOG_PROBABILITIES.search(error.text):
        places.setdefault("logprobs", match.start())
    if {"temperature", "top_p"} <= places.keys() and _ONE_OF_BOTH.search(error.text):
        places["top_p"] = -1  # the one that is less missed
    return list(dict.fromkeys([*pointed, *sorted(places, key=lambda name: places[name])]))
