"""Rows of users' files → prompts, completions and pairs, or an error that names the row and the remedy."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from prefine.errors import DataError
from prefine.records import Completion, Message, PreferencePair, Prompt, content_hash
from prefine.store.rows import pair_of
from prefine.store.sources import Row

_PROMPT_NAMES = ("prompt", "instruction", "messages")
_TEXT_NAMES = ("text", "content", "completion", "message")
_PAIR_EXTRAS = ("weight", "score_gap", "p_chosen")
_OWN_COLUMN = "prefine_extra"
_SHOWN = 60


def prompts(rows: Iterable[Row]) -> Iterator[Prompt]:
    """One prompt a row: `prompt` or `instruction` (text or messages), or `messages`; other columns are metadata.

    Raises:
        DataError: The prompt is missing, empty or of a wrong type, or came before.
    """
    seen: dict[str, str] = {}
    for row in rows:
        prompt = _prompt(row, used=())
        _must_be_new(prompt.id, row.where, seen, "prompt", prompt.text)
        yield prompt


def completions(rows: Iterable[Row]) -> Iterator[tuple[Prompt, list[Completion]]]:
    """One prompt with its `completions` a row; each is a text, or an object with `text` whose rest is metadata.

    Raises:
        DataError: As for prompts, or the list is missing or empty, or a completion has no text.
    """
    seen: dict[str, str] = {}
    for row in rows:
        prompt = _prompt(row, used=("completions",))
        _must_be_new(prompt.id, row.where, seen, "prompt", prompt.text)
        if "completions" not in row.values:
            raise DataError(f"{row.where}: no column 'completions'; {_has(row.values)}; map it with columns")
        items = row.values["completions"]
        if not isinstance(items, list) or not items:
            raise DataError(f"{row.where}: completions must be a list with at least one item, got {_show(items)}")
        yield prompt, [_completion(prompt, i, item, f"{row.where}, completion {i}") for i, item in enumerate(items)]


def pairs(rows: Iterable[Row]) -> Iterator[PreferencePair]:
    """One pair a row: `prompt`, `chosen`, `rejected`, each a text or messages.

    Optional are `weight`, `score_gap` and `p_chosen`; other columns are metadata of the prompt. Rows of a `pairs/` of
    ours come back whole, with all that their `prefine_*` columns say.

    Raises:
        DataError: A field is missing, empty or of a wrong type, both answers are equal, or the pair came before.
    """
    seen: dict[str, str] = {}
    for row in rows:
        pair = _own_pair(row) if _OWN_COLUMN in row.values else _pair(row)
        _must_be_new(pair.id, row.where, seen, "pair", pair.prompt.text)
        yield pair


def _own_pair(row: Row) -> PreferencePair:
    """The pair in a row that stage `pair` wrote."""
    try:
        return pair_of(row.values)
    except KeyError as error:
        problem = f"no column {error.args[0]!r}"
    except (DataError, ValueError, TypeError) as error:
        problem = _reason(error)
    raise DataError(
        f"{row.where}: the prefine_* columns do not fit together ({problem}); restore them, or remove all of them to "
        "read prompt, chosen and rejected alone"
    )


def _pair(row: Row) -> PreferencePair:
    prompt = _prompt(row, used=("chosen", "rejected", *_PAIR_EXTRAS))
    sides = {}
    for index, side in enumerate(("chosen", "rejected")):
        if side not in row.values:
            raise DataError(f"{row.where}: no column {side!r}; {_has(row.values)}; map it with columns")
        sides[side] = _completion(prompt, index, {"text": row.values[side]}, f"{row.where}, {side}")
    if sides["chosen"].message == sides["rejected"].message:
        raise DataError(
            f"{row.where}: chosen and rejected are the same text {_show(sides['chosen'].text)}; "
            "a pair needs two different answers: remove the row"
        )
    extra = {name: row.values[name] for name in _PAIR_EXTRAS if row.values.get(name) is not None}
    try:
        return PreferencePair.model_validate({"prompt": prompt, **sides, **extra})
    except ValidationError as error:
        raise DataError(f"{row.where}: {_reason(error)}") from error


def _prompt(row: Row, *, used: tuple[str, ...]) -> Prompt:
    present = [name for name in _PROMPT_NAMES if name in row.values]
    if not present:
        raise DataError(
            f"{row.where}: no column 'prompt' (nor 'instruction' or 'messages'); {_has(row.values)}; "
            "map it with columns: {prompt: YOUR_COLUMN}"
        )
    if len(present) > 1:
        raise DataError(
            f"{row.where}: both {' and '.join(map(repr, present))} could be the prompt; map one with columns"
        )
    (name,) = present
    value = row.values[name]
    messages = _messages(value, f"{row.where}, {name}", role="user")
    if messages[-1].role == "assistant":
        raise DataError(
            f"{row.where}, {name}: the last message is the assistant's, so there is nothing to answer; "
            "end the prompt with a user turn"
        )
    metadata = {k: v for k, v in row.values.items() if k not in (name, "tools", *used)}
    try:
        return Prompt.make(messages, tools=row.values.get("tools"), source=row.where, metadata=metadata)
    except (ValidationError, ValueError) as error:
        raise DataError(f"{row.where}: {_reason(error)}") from error


def _completion(prompt: Prompt, index: int, item: Any, where: str) -> Completion:
    values = {"text": item} if isinstance(item, str) else item
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a text or an object with a text, got {_show(item)}")
    name = next((n for n in _TEXT_NAMES if n in values), None)
    if name is None:
        raise DataError(f"{where}: no field 'text' (nor {', '.join(_TEXT_NAMES[1:])}); {_has(values)}")
    messages = _messages(values[name], where, role="assistant")
    if len(messages) != 1 or messages[0].role != "assistant":
        raise DataError(
            f"{where}: an answer must be one assistant turn, got roles {[m.role for m in messages]}; "
            "move earlier turns into the prompt"
        )
    rest = {k: v for k, v in values.items() if k not in (name, "model", "finish_reason")}
    try:
        return Completion.model_validate(
            {
                "id": content_hash(prompt.id, index, str(values.get("model", "")), messages[0].content),
                "prompt_id": prompt.id,
                "sample_index": index,
                "message": messages[0],
                "model": values.get("model") or "",
                "finish_reason": values.get("finish_reason") or "unknown",
                "metadata": rest,
            }
        )
    except ValidationError as error:
        raise DataError(f"{where}: {_reason(error)}") from error


def _messages(value: Any, where: str, *, role: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    elif isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise DataError(
            f"{where}: expected a text or a list of messages (objects with role and content), got {_show(value)}"
        )
    try:
        messages = tuple(Message.model_validate(item) for item in value)
    except ValidationError as error:
        raise DataError(f"{where}: {_reason(error)}") from error
    for message in messages:
        if not message.content.strip() and not message.tool_calls:
            raise DataError(f"{where}: the text is empty ({_show(message.content)}); remove the row or fill it")
        try:
            message.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: character {error.start} is half of a surrogate pair ({message.content[error.start]!r}); "
                "the file was cut inside an emoji: repair or remove the row"
            ) from error
    return messages


def _must_be_new(key: str, where: str, seen: dict[str, str], what: str, text: str) -> None:
    if key in seen:
        raise DataError(
            f"{where}: the same {what} as in {seen[key]} ({_show(text)}); results are joined by content, "
            "so each may appear once: remove one"
        )
    seen[key] = where


def _has(values: dict[str, Any]) -> str:
    return f"there is {', '.join(sorted(map(str, values))) or 'nothing'}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']} (got {_show(e.get('input'))})" for e in error.errors()
        )
    return str(error)
