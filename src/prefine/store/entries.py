"""Rows in our own columns → prompts, completions and pairs, or an error that names the row and the remedy.

What is well-formed but worthless (empty, a repetition, a tie) is set aside on the `Screen`.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from prefine.errors import DataError
from prefine.records import Completion, Message, PreferencePair, Prompt, content_hash
from prefine.store.layouts.base import Row, has, show
from prefine.store.rows import pair_of
from prefine.store.screen import Screen, UselessRow

_PROMPT_NAMES = ("prompt", "instruction", "messages")
_TEXT_NAMES = ("text", "content", "completion", "message")
_PAIR_EXTRAS = ("weight", "score_gap", "p_chosen")
_OWN_COLUMN = "prefine_extra"


def prompts(rows: Iterable[Row], screen: Screen | None = None) -> Iterator[Prompt]:
    """One prompt a row: `prompt` or `instruction` (text or messages), or `messages`; other columns are metadata.

    Answers that are there are left out, so prompts can be read from completions and from pairs.

    Args:
        rows: In our own columns.
        screen: Where empty and repeated prompts are counted; without one they are left out in silence.

    Raises:
        DataError: The prompt is missing or of a wrong type, or no row is left.
    """
    screen = screen or Screen()
    seen: dict[str, str] = {}
    for row in rows:
        screen.read += 1
        try:
            own = _OWN_COLUMN in row.values
            prompt = _own_pair(row).prompt if own else _prompt(row, used=("completions", "chosen", "rejected"))
            _must_be_new(prompt.id, row.where, seen, "prompt", prompt.text)
        except UselessRow as useless:
            screen.drop(useless, row.where)
            continue
        screen.kept += 1
        yield prompt
    screen.require_some("prompts")


def completions(rows: Iterable[Row], screen: Screen | None = None) -> Iterator[tuple[Prompt, list[Completion]]]:
    """One prompt with its `completions` a row; each is a text, or an object with `text` whose rest is metadata.

    Args:
        rows: In our own columns.
        screen: Where empty and repeated prompts and empty answers are counted.

    Raises:
        DataError: As for prompts, or the list is missing, or a completion has no field with a text.
    """
    screen = screen or Screen()
    seen: dict[str, str] = {}
    for row in rows:
        screen.read += 1
        if "completions" not in row.values:
            raise DataError(f"{row.where}: no column 'completions'; {has(row.values)}; map it with columns")
        try:
            prompt = _prompt(row, used=("completions",))
            # The answers first: a malformed one must not hide behind a prompt that came before.
            found = _answers(prompt, row, screen)
            _must_be_new(prompt.id, row.where, seen, "prompt", prompt.text)
        except UselessRow as useless:
            screen.drop(useless, row.where)
            continue
        screen.kept += 1
        yield prompt, found
    screen.require_some("completions")


def pairs(rows: Iterable[Row], screen: Screen | None = None) -> Iterator[PreferencePair]:
    """One pair a row: `prompt`, `chosen`, `rejected`, each a text or messages.

    Optional are `weight`, `score_gap` and `p_chosen`; other columns are metadata of the prompt. Rows of a `pairs/` of
    ours come back whole, with all that their `prefine_*` columns say.

    Args:
        rows: In our own columns.
        screen: Where empty texts, equal answers, ties (`score_gap` 0) and repeated pairs are counted.

    Raises:
        DataError: A field is missing or of a wrong type, or no row is left.
    """
    screen = screen or Screen()
    seen: dict[str, str] = {}
    for row in rows:
        screen.read += 1
        try:
            pair = _own_pair(row) if _OWN_COLUMN in row.values else _pair(row)
            _must_be_new(pair.id, row.where, seen, "pair", pair.prompt.text)
        except UselessRow as useless:
            screen.drop(useless, row.where)
            continue
        screen.kept += 1
        yield pair
    screen.require_some("pairs")


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
    for side in ("chosen", "rejected"):
        if side not in row.values:
            remedy = "map it with columns"
            if "completions" in row.values:
                remedy = "these rows are read with completions: instead of pairs:, and a judge such as recorded"
            raise DataError(f"{row.where}: no column {side!r}; {has(row.values)}; {remedy}")
    prompt = _prompt(row, used=("chosen", "rejected", *_PAIR_EXTRAS))
    sides = {
        side: _completion(prompt, index, {"text": row.values[side]}, f"{row.where}, {side}")
        for index, side in enumerate(("chosen", "rejected"))
    }
    if sides["chosen"].message == sides["rejected"].message:
        raise UselessRow(
            "identical answers",
            f"{row.where}: chosen and rejected are the same text {show(sides['chosen'].text)}; "
            "a pair needs two different answers: remove the row",
        )
    extra = {name: row.values[name] for name in _PAIR_EXTRAS if row.values.get(name) is not None}
    try:
        pair = PreferencePair.model_validate({"prompt": prompt, **sides, **extra})
    except ValidationError as error:
        raise DataError(f"{row.where}: {_reason(error)}") from error
    if pair.score_gap == 0:
        raise UselessRow("tie", f"{row.where}: both answers are equally good, which is no preference: remove the row")
    return pair


def _prompt(row: Row, *, used: tuple[str, ...]) -> Prompt:
    present = [name for name in _PROMPT_NAMES if name in row.values]
    if not present:
        raise DataError(
            f"{row.where}: no column 'prompt' (nor 'instruction' or 'messages'); {has(row.values)}; "
            "map it with columns: {prompt: YOUR_COLUMN}"
        )
    if len(present) > 1:
        raise DataError(
            f"{row.where}: both {' and '.join(map(repr, present))} could be the prompt; map one with columns"
        )
    (name,) = present
    messages = _messages(row.values[name], f"{row.where}, {name}", role="user")
    if messages[-1].role == "assistant":
        raise DataError(
            f"{row.where}, {name}: the last message is the assistant's, so there is nothing to answer; "
            "end the prompt with a user turn"
        )
    metadata = {k: v for k, v in row.values.items() if k not in (name, "tools", "chat_template_kwargs", *used)}
    try:
        return Prompt.make(
            messages,
            tools=_structured(row.values.get("tools")),
            chat_template_kwargs=_structured(row.values.get("chat_template_kwargs")),
            source=row.where,
            metadata=metadata,
        )
    except (ValidationError, ValueError, TypeError) as error:
        raise DataError(f"{row.where}: {_reason(error)}") from error


def _structured(value: Any) -> Any:
    """A column that trainers also take as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _answers(prompt: Prompt, row: Row, screen: Screen) -> list[Completion]:
    """The answers with a text, numbered anew: an id must not depend on what was set aside before it."""
    items = row.values["completions"]
    if not isinstance(items, list):
        raise DataError(f"{row.where}: completions must be a list, got {show(items)}")
    found: list[Completion] = []
    for number, item in enumerate(items):
        where = row.places[number] if row.places else f"{row.where}, completion {number}"
        try:
            found.append(_completion(prompt, len(found), item, where))
        except UselessRow as useless:
            screen.drop(useless, where)
    if not found:
        raise UselessRow(
            "no answer left", f"{row.where}: completions has no text at all ({show(items)}); remove the row"
        )
    return found


def _completion(prompt: Prompt, index: int, item: Any, where: str) -> Completion:
    values = {"text": item} if isinstance(item, str) else item
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a text or an object with a text, got {show(item)}")
    name = next((n for n in _TEXT_NAMES if n in values), None)
    if name is None:
        raise DataError(f"{where}: no field 'text' (nor {', '.join(_TEXT_NAMES[1:])}); {has(values)}")
    messages = _messages(values[name], where, role="assistant")
    if len(messages) != 1 or messages[0].role != "assistant":
        raise DataError(
            f"{where}: an answer must be one assistant turn, got roles {[m.role for m in messages]}; "
            "move earlier turns into the prompt, or name a layout whose answers repeat the prompt"
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
            f"{where}: expected a text or a list of messages (objects with role and content), got {show(value)}"
        )
    try:
        messages = tuple(Message.model_validate(_filled(item)) for item in value)
    except ValidationError as error:
        raise DataError(f"{where}: {_reason(error)}") from error
    for message in messages:
        if not message.content.strip() and not message.tool_calls:
            raise UselessRow(
                "empty prompt" if role == "user" else "empty answer",
                f"{where}: the text is empty ({show(message.content)}); remove the row or fill it",
            )
        try:
            message.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: character {error.start} is half of a surrogate pair ({message.content[error.start]!r}); "
                "the file was cut inside an emoji: repair or remove the row"
            ) from error
    return messages


def _filled(message: dict[str, Any]) -> dict[str, Any]:
    """A message as tables hold it: a field that only other rows have is None here, and a call needs no text."""
    known = {k: v for k, v in message.items() if v is not None}
    if known.get("tool_calls"):
        known.setdefault("content", "")
    return known


def _must_be_new(key: str, where: str, seen: dict[str, str], what: str, text: str) -> None:
    if key in seen:
        raise UselessRow(
            f"duplicate {what}",
            f"{where}: the same {what} as in {seen[key]} ({show(text)}); results are joined by content, "
            "so each may appear once: remove one",
        )
    seen[key] = where


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']} (got {show(e.get('input'))})" for e in error.errors()
        )
    return str(error)
