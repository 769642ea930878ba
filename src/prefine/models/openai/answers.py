"""Read a chat completion as servers write it; what cannot be one is refused with its place."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefine.models import finish_words
from prefine.models.openai.stream import assembled
from prefine.models.openai.usage import TokenCounts, token_counts
from prefine.records import FinishReason
from prefine.secrets import redact

NO_COMPLETION = "the server's answer is no chat completion"
EMPTY = "the completion is empty"
_REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_text", "thoughts")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Malformed(Exception):
    """An answer with status 200 that is no chat completion, for the reason in the message."""


class ResponseChoice(NamedTuple):
    """One of the completions of a request.

    `finish` is the server's word in lower case; `first_token` has the likeliest first tokens with
    their log-probabilities [nat], None if they were not sent; `problem` says why the text cannot be
    used, if so. `token_ids` are those of the text, where they were asked for and sent.
    """

    text: str
    reasoning: str | None
    tool_calls: tuple[dict[str, Any], ...]
    finish: str
    first_token: Mapping[str, float] | None
    problem: str | None
    token_ids: tuple[int, ...] | None = None

    @property
    def finish_reason(self) -> FinishReason:
        """The way the text ended."""
        return finish_words.finish_reason(self.finish)


class Answer(NamedTuple):
    """A chat completion; `error` is what a server says instead of one, as it says it."""

    choices: Sequence[ResponseChoice]
    counts: TokenCounts | None
    error: Any


def parsed(body: bytes) -> Any:
    """Return the JSON of a body, or of a stream of chunks put together.

    Raises:
        Malformed: It is neither.
    """
    try:
        # A server may repeat what it was sent, the key too.
        text = redact(body.decode())
    except UnicodeDecodeError:
        raise Malformed(f"{NO_COMPLETION}: it is not in UTF-8") from None
    start = text.lstrip()[:6]
    try:
        found = assembled(text) if start.startswith(("data:", ":", "event:")) else json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed(f"{NO_COMPLETION}; does base_url end in /v1?") from None
    # A text that is cut within a character may end in half of a surrogate pair.
    return _whole(found) if "\\ud" in text or "\\uD" in text else found


def read_answer(value: Any) -> Answer:
    """Read the JSON of an answer. The counts are read first, since they are paid for anyway.

    Raises:
        Malformed: It is no chat completion; `counts_of` still reads what it cost.
    """
    if not isinstance(value, Mapping):
        raise Malformed(f"{NO_COMPLETION}; does base_url end in /v1?")
    counts = token_counts(value.get("usage"))
    choices = value.get("choices")
    if error := value.get("error"):
        return Answer((), counts, error)
    if not isinstance(choices, list):
        raise Malformed(f"{NO_COMPLETION}: choices: no list")
    ordered = sorted(choices, key=_place) if all(_is_numbered(c) for c in choices) else choices
    return Answer([_choice(choice) for choice in ordered], counts, None)


def counts_of(value: Any) -> TokenCounts | None:
    """Return what an answer cost, though it may be no chat completion."""
    return token_counts(value.get("usage")) if isinstance(value, Mapping) else None


def _is_numbered(choice: Any) -> bool:
    return isinstance(choice, Mapping) and type(choice.get("index")) is int


def _place(choice: Mapping[str, int]) -> int:
    return choice["index"]


def _choice(value: Any) -> ResponseChoice:
    if not isinstance(value, Mapping):
        raise Malformed(f"{NO_COMPLETION}: choices: no object")
    message = value.get("message")
    if message is None and isinstance(value.get("text"), str):
        message = {"content": value["text"]}  # of a text that was continued, not of a chat
    finish = str(value.get("finish_reason") or "").lower()
    error = value.get("error")
    if not isinstance(message, Mapping):
        if not (error or finish_words.is_broken(finish)):
            raise Malformed(f"{NO_COMPLETION}: choices.message: no object")
        message = {}
    text, thoughts = _text_and_thoughts(message.get("content"))
    reasoning = _reasoning(message) or thoughts or None
    calls = tuple(call for call in message.get("tool_calls") or () if isinstance(call, dict))
    return ResponseChoice(
        text,
        reasoning,
        calls,
        finish,
        _first_token(value.get("logprobs")),
        _problem(message, text, reasoning, calls, finish, error),
        _token_ids(value.get("token_ids")),
    )


def _problem(
    message: Mapping[str, Any],
    text: str,
    reasoning: str | None,
    calls: Sequence[object],
    finish: str,
    error: Any,
) -> str | None:
    """Return the reason why there is no answer in a choice, if so."""
    if error or finish_words.is_broken(finish):
        said = error.get("message") if isinstance(error, Mapping) else error
        words = f": {' '.join(str(said).split())[:120]}" if said else ""
        return f"the server broke off ({finish or 'error'}){words}"
    if finish_words.is_filtered(finish):
        return "content filter"
    if text.strip() or calls:
        return None
    if refusal := message.get("refusal"):
        return f"the model refused: {' '.join(str(refusal).split())[:120]}"
    if finish_words.is_cut(finish):
        return (
            "the length limit was reached before the answer began, while reasoning: raise "
            "max_new_tokens"
        )
    if reasoning:
        return (
            "the completion is empty and all text is in the reasoning: the model stopped while "
            "reasoning, or the server's reasoning parser takes answers for thoughts; switch it off"
        )
    return EMPTY


def _text_and_thoughts(content: Any) -> tuple[str, str]:
    """Return the text of a content that may come in parts, and the thoughts among the parts."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise Malformed(f"{NO_COMPLETION}: choices.message.content: no text")
    texts, thoughts = [], []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping):
            kind = str(part.get("type") or "text")
            inner = part.get("text", part.get("content"))
            if "think" in kind or "reason" in kind:
                thoughts.append(_flat(inner if inner is not None else part.get(kind)))
            elif kind in ("text", "output_text") or isinstance(inner, str):
                texts.append(_flat(inner))
    return "".join(texts), "".join(thoughts)


def _reasoning(message: Mapping[str, Any]) -> str | None:
    for name in _REASONING:
        if found := _flat(message.get(name)):
            return found
    return _flat(message.get("reasoning_details")) or None


def _flat(value: Any) -> str:
    """Join the texts of parts, however they are nested."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_flat(part) for part in value)
    if isinstance(value, Mapping):
        names = ("text", "content", "summary", "thinking", "reasoning")
        return next((found for name in names if (found := _flat(value.get(name)))), "")
    return ""


def _first_token(logprobs: Any) -> Mapping[str, float] | None:
    """Read the likeliest first tokens, position by position or in lists beside each other."""
    if not isinstance(logprobs, Mapping):
        return None
    content = logprobs.get("content")
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        top = content[0].get("top_logprobs")
        found = [content[0], *(top if isinstance(top, list) else ())]
        pairs = [(i.get("token"), i.get("logprob")) for i in found if isinstance(i, Mapping)]
        return _numbers(pairs)
    tokens, logps = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not (isinstance(tokens, list) and isinstance(logps, list) and tokens and logps):
        return None
    pairs = [(tokens[0], logps[0])]
    top = logprobs.get("top_logprobs")
    if isinstance(top, list) and top and isinstance(top[0], Mapping):
        pairs += top[0].items()
    return _numbers(pairs)


def _token_ids(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(type(one) is int and one >= 0 for one in value):
        return None
    return tuple(value)


def _numbers(pairs: Sequence[tuple[Any, Any]]) -> Mapping[str, float] | None:
    found = {
        token: float(logp)
        for token, logp in pairs
        if isinstance(token, str) and isinstance(logp, int | float) and not isinstance(logp, bool)
    }
    return found or None


def _whole(value: Any) -> Any:
    """Replace halves of surrogate pairs, which no file can hold."""
    if isinstance(value, str):
        return _SURROGATE.sub("�", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(item) for name, item in value.items()}
    return value
