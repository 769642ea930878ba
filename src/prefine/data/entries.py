"""Rows in our own columns → prompts, completions and pairs, or an error that names the row and the remedy.

What is well-formed but worthless (empty, a repetition, a tie) is set aside on the `ImportReport`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.layouts.protocol import PROMPT_NAMES, SourceRow, has, show
from prefine.data.messages import messages_of, reason, storable, structured
from prefine.data.preferences import score_gap
from prefine.errors import DataError
from prefine.records import Completion, PreferencePair, Prompt, content_hash
from prefine.run.rows import pair_of

_TEXT_NAMES = ("text", "content", "completion", "message")
_PAIR_EXTRAS = ("weight", "score_gap", "p_chosen")
_OWN_COLUMN = "prefine_extra"
# What `apply_chat_template` itself takes, or is given by us.
_RESERVED = {
    *(
        "conversation",
        "messages",
        "tools",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
    ),
    *(
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "tokenizer_kwargs",
    ),
    *("return_assistant_tokens_mask", "sanitize_control_tokens"),
}


def prompts(rows: Iterable[SourceRow], screen: ImportReport | None = None) -> Iterator[Prompt]:
    """One prompt a row: `prompt` or `instruction` (text or messages), or `messages`; other columns are metadata.

    Answers that are there are left out, so prompts can be read from completions and from pairs.

    Args:
        rows: In our own columns.
        screen: Where empty and repeated prompts are counted; without one they are left out in
            silence.

    Raises:
        DataError: The prompt is missing or of a wrong type, or no row is left.
    """
    screen = screen or ImportReport()
    seen: dict[str, str] = {}
    for row in rows:
        screen.read += 1
        try:
            prompt = _prompt_in(row, screen)
            _must_be_new(prompt.id, row.where, seen, "prompt", prompt.text)
        except UselessRow as useless:
            screen.drop(useless, row.where)
            continue
        screen.kept += 1
        yield prompt
    screen.require_some("prompts")


def completions(
    rows: Iterable[SourceRow], screen: ImportReport | None = None
) -> Iterator[tuple[Prompt, list[Completion]]]:
    """One prompt with its `completions` a row; each is a text, or an object with `text` whose rest is metadata.

    Args:
        rows: In our own columns.
        screen: Where empty and repeated prompts and empty answers are counted.

    Raises:
        DataError: As for prompts, or the list is missing, or a completion has no field with a text.
    """
    screen = screen or ImportReport()
    seen: dict[str, str] = {}
    for row in rows:
        screen.read += 1
        try:
            _must_be_of_use(row)
            if "completions" not in row.values:
                raise DataError(
                    f"{row.where}: no column 'completions'; {has(row.values)}; map it with columns"
                )
            prompt = _prompt(row, screen, used=("completions",))
            # The answers first: a malformed one must not hide behind a prompt that came before.
            found = _answers(prompt, row, screen)
            _must_be_new(prompt.id, row.where, seen, "prompt", prompt.text)
        except UselessRow as useless:
            screen.drop(useless, row.where)
            continue
        screen.kept += 1
        yield prompt, found
    screen.require_some("completions")


def pairs(
    rows: Iterable[SourceRow], screen: ImportReport | None = None
) -> Iterator[PreferencePair]:
    """One pair a row: `prompt`, `chosen`, `rejected`, each a text or messages.

    Optional are `weight`, `score_gap` (or two scores) and `p_chosen`; other columns are metadata of
    the prompt. Rows of a `pairs/` of ours come back whole, with all that their `prefine_*` columns
    say.

    Args:
        rows: In our own columns.
        screen: Where empty texts, equal answers, ties and repeated pairs are counted; pairs that
            contradict one another are kept with a remark.

    Raises:
        DataError: A field is missing or of a wrong type, or no row is left.
    """
    screen = screen or ImportReport()
    seen: dict[str, str] = {}
    preferred: dict[str, str] = {}
    for row in rows:
        screen.read += 1
        try:
            pair = pair_in(row, screen)
            _must_be_new(pair.id, row.where, seen, "pair", pair.prompt.text)
            _remark_contradiction(pair, row.where, preferred, screen)
        except UselessRow as useless:
            screen.drop(useless, row.where)
            continue
        screen.kept += 1
        yield pair
    screen.require_some("pairs")


def pair_in(row: SourceRow, screen: ImportReport) -> PreferencePair:
    """The pair of one row.

    Raises:
        UselessRow: It teaches nothing.
        DataError: It is malformed.
    """
    _must_be_of_use(row)
    return _own_pair(row) if _OWN_COLUMN in row.values else _pair(row, screen)


def _prompt_in(row: SourceRow, screen: ImportReport) -> Prompt:
    _must_be_of_use(row)
    if _OWN_COLUMN in row.values:
        return _own_pair(row).prompt
    return _prompt(row, screen, used=("completions", "chosen", "rejected"))


def _must_be_of_use(row: SourceRow) -> None:
    if row.useless is not None:
        raise row.useless


def _remark_contradiction(
    pair: PreferencePair, where: str, preferred: dict[str, str], screen: ImportReport
) -> None:
    sides = [pair.chosen.message.chat(), pair.rejected.message.chat()]
    if (opposite := preferred.get(content_hash(pair.prompt.id, *reversed(sides)))) is not None:
        says = (
            f"{where}: prefers the opposite of {opposite} ({show(pair.prompt.text)}): remove "
            "one, or both"
        )
        screen.remark(UselessRow("contradictory pair", says), where)
    preferred.setdefault(content_hash(pair.prompt.id, *sides), where)


def _own_pair(row: SourceRow) -> PreferencePair:
    """The pair in a row that stage `pair` wrote."""
    try:
        return pair_of(row.values)
    except KeyError as error:
        problem = f"no column {error.args[0]!r}"
    except (DataError, ValueError, TypeError) as error:
        problem = reason(error)
    raise DataError(
        f"{row.where}: the prefine_* columns do not fit together ({problem}); restore them, or "
        "remove all of them to "
        "read prompt, chosen and rejected alone"
    )


def _pair(row: SourceRow, screen: ImportReport) -> PreferencePair:
    for side in ("chosen", "rejected"):
        if side not in row.values:
            remedy = "map it with columns, or add it to this row if the others have it"
            if "completions" in row.values:
                remedy = (
                    "these rows are read with completions: (import: --as completions), and a "
                    "judge such as recorded"
                )
            raise DataError(f"{row.where}: no column {side!r}; {has(row.values)}; {remedy}")
    prompt = _prompt(row, screen, used=("chosen", "rejected", *_PAIR_EXTRAS))
    sides = {
        side: _completion(prompt, index, {"text": row.values[side]}, f"{row.where}, {side}", screen)
        for index, side in enumerate(("chosen", "rejected"))
    }
    if sides["chosen"].message == sides["rejected"].message:
        raise UselessRow(
            "identical answers",
            f"{row.where}: chosen and rejected are the same text {show(sides['chosen'].text)}; "
            "a pair needs two different answers: remove the row",
        )
    extra = {name: row.values[name] for name in _PAIR_EXTRAS if row.values.get(name) is not None}
    if "score_gap" not in extra and (gap := score_gap(row)) is not None:
        extra["score_gap"] = gap
    if extra.get("p_chosen") in (0.5, "0.5"):
        raise _tie(row)
    try:
        pair = PreferencePair.model_validate({"prompt": prompt, **sides, **extra})
    except ValidationError as error:
        raise DataError(f"{row.where}: {reason(error)}") from error
    if pair.score_gap == 0:
        raise _tie(row)
    if pair.score_gap is not None and pair.score_gap < 0:
        raise DataError(
            f"{row.where}: score_gap {pair.score_gap} says that the rejected answer is better; "
            "swap the sides or "
            "remove the row"
        )
    return pair


def _tie(row: SourceRow) -> UselessRow:
    return UselessRow(
        "tie", f"{row.where}: both answers are equally good, which is no preference: remove the row"
    )


def _prompt(row: SourceRow, screen: ImportReport, *, used: tuple[str, ...]) -> Prompt:
    present = [name for name in PROMPT_NAMES if name in row.values]
    if not present:
        raise DataError(
            f"{row.where}: no column 'prompt' (nor 'instruction' or 'messages'); "
            f"{has(row.values)}; "
            "map it with columns: {prompt: YOUR_COLUMN}"
        )
    if len(present) > 1:
        raise DataError(
            f"{row.where}: both {' and '.join(map(repr, present))} could be the prompt; map one "
            "with columns, "
            f"such as {{prompt: {present[0]}}}, and the other becomes metadata"
        )
    (name,) = present
    messages = messages_of(row.values[name], f"{row.where}, {name}", role="user", screen=screen)
    if messages[-1].role == "assistant" and row.values.get("prefill") not in (True, "true", "True"):
        raise DataError(
            f"{row.where}, {name}: the last message is the assistant's, so there is nothing to "
            "answer; "
            "end the prompt with a user turn, or add a column prefill: true if the answer goes on "
            "from there"
        )
    arguments = structured(row.values.get("chat_template_kwargs"))
    if isinstance(arguments, dict) and (reserved := sorted(_RESERVED & arguments.keys())):
        raise DataError(
            f"{row.where}: chat_template_kwargs has {', '.join(reserved)}, which prefine sets "
            "itself; only arguments "
            "of the template itself belong there, such as enable_thinking: remove it"
        )
    metadata = {
        k: v
        for k, v in row.values.items()
        if k not in (name, "tools", "chat_template_kwargs", *used)
    }
    try:
        return Prompt.make(
            messages,
            tools=structured(row.values.get("tools")),
            chat_template_kwargs=arguments,
            source=row.where,
            metadata=storable(metadata, row.where, screen),
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"{row.where}: {reason(error)}") from error


def _answers(prompt: Prompt, row: SourceRow, screen: ImportReport) -> list[Completion]:
    """The answers with a text, numbered anew: an id must not depend on what was set aside before it."""
    items = row.values["completions"]
    if not isinstance(items, list):
        raise DataError(f"{row.where}: completions must be a list, got {show(items)}")
    found: list[Completion] = []
    for number, item in enumerate(items):
        where = row.places[number] if row.places else f"{row.where}, completion {number}"
        try:
            found.append(_completion(prompt, len(found), item, where, screen))
        except UselessRow as useless:
            screen.drop(useless, where)
    if not found:
        raise UselessRow(
            "no answer left",
            f"{row.where}: completions has no text at all ({show(items)}); remove the row",
        )
    return found


def _completion(
    prompt: Prompt, index: int, item: Any, where: str, screen: ImportReport
) -> Completion:
    values = {"text": item} if isinstance(item, str) else item
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a text or an object with a text, got {show(item)}")
    name = next((n for n in _TEXT_NAMES if n in values), None)
    if name is None:
        raise DataError(
            f"{where}: no field 'text' (nor {', '.join(_TEXT_NAMES[1:])}); {has(values)}"
        )
    messages = messages_of(values[name], where, role="assistant", screen=screen)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise DataError(
            f"{where}: an answer must be one assistant turn, got roles "
            f"{[m.role for m in messages]}; "
            "move earlier turns into the prompt, or name a layout whose answers repeat the prompt"
        )
    rest = {k: v for k, v in values.items() if k not in (name, "model", "finish_reason")}
    try:
        return Completion.model_validate(
            {
                "id": content_hash(
                    prompt.id, index, str(values.get("model") or ""), messages[0].chat()
                ),
                "prompt_id": prompt.id,
                "sample_index": index,
                "message": messages[0],
                "model": values.get("model") or "",
                "finish_reason": values.get("finish_reason") or "unknown",
                "metadata": storable(rest, where, screen),
            }
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {reason(error)}") from error


def _must_be_new(key: str, where: str, seen: dict[str, str], what: str, text: str) -> None:
    if key in seen:
        raise UselessRow(
            f"duplicate {what}",
            f"{where}: the same {what} as in {seen[key]} ({show(text)}); results are joined by "
            "content, "
            "so each may appear once: remove one",
        )
    seen[key] = where
