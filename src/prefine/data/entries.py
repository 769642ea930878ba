"""Rows in our own columns → prompts, completions and pairs, or an error that names the row.

What is well-formed but worthless (empty, a repetition, a tie) is counted on the `ImportReport`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.layouts.protocol import PROMPT_NAMES, SourceRow, has, number, rest, show
from prefine.data.messages import messages_of, reason, storable, structured
from prefine.errors import DataError
from prefine.records import Completion, PreferencePair, Prompt, content_hash
from prefine.run.rows import pair_of

Item = TypeVar("Item")
Answers = tuple[Prompt, list[Completion]]

_TEXT_NAMES = ("text", "content", "completion", "message")
_PAIR_EXTRAS = ("weight", "score_gap", "p_chosen")
_STORED_PAIR = "prefine_extra"
_SCORE = re.compile(
    r"(?:(?:avg_)?(?:score|rating)[_-](?:chosen|rejected)|"
    r"(?:chosen|rejected)[_-](?:avg_)?(?:score|rating))\Z"
)
_EQUALLY_GOOD = "both answers are equally good, which is no preference: remove the row"
# Arguments of `apply_chat_template` itself, or given by us.
_RESERVED = {
    "conversation",
    "messages",
    "tools",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "tokenizer_kwargs",
    "return_assistant_tokens_mask",
    "sanitize_control_tokens",
}


def prompts(rows: Iterable[SourceRow], report: ImportReport | None = None) -> Iterator[Prompt]:
    """Yield one prompt a row: `prompt` or `instruction` (text or messages), or `messages`.

    Other columns are metadata, except answers: prompts can be read from completions and pairs.

    Args:
        rows: In our own columns.
        report: Counts empty and repeated prompts; without one they are left out in silence.

    Raises:
        DataError: The prompt is missing or of a wrong type, or no row is left.
    """
    useful = _useful(
        rows, report or ImportReport(), "prompt", _prompt_of_row, lambda prompt: prompt
    )
    return (prompt for _, prompt in useful)


def completions(
    rows: Iterable[SourceRow], report: ImportReport | None = None
) -> Iterator[tuple[Prompt, list[Completion]]]:
    """Yield one prompt with its `completions` a row.

    Each completion is a text, or an object with `text` whose other fields are metadata.

    Args:
        rows: In our own columns.
        report: Counts empty and repeated prompts and empty answers.

    Raises:
        DataError: As for prompts, or the list is missing, or a completion has no field with a text.
    """
    report = report or ImportReport()
    useful = _useful(rows, report, "completion", _answers_of_row, lambda answers: answers[0])
    return (answers for _, answers in useful)


def pairs(
    rows: Iterable[SourceRow], report: ImportReport | None = None
) -> Iterator[PreferencePair]:
    """Yield one pair a row: `prompt`, `chosen`, `rejected`, each a text or messages.

    Optional are `weight`, `score_gap` (or two scores) and `p_chosen`; other columns are metadata of
    the prompt. Rows of our own `pairs/` come back whole, with all that their `prefine_*` columns
    say.

    Args:
        rows: In our own columns.
        report: Counts empty texts, equal answers, ties and repeated pairs; pairs that contradict
            one another are kept with a remark.

    Raises:
        DataError: A field is missing or of a wrong type, or no row is left.
    """
    report = report or ImportReport()
    preferred: dict[str, str] = {}
    for where, pair in _useful(rows, report, "pair", pair_of_row, lambda pair: pair.prompt):
        sides = [pair.chosen.message.chat(), pair.rejected.message.chat()]
        opposite = preferred.get(content_hash(pair.prompt.id, *reversed(sides)))
        if opposite is not None:
            report.remark(
                "contradictory pair",
                f"{where}: prefers the opposite of {opposite} ({show(pair.prompt.text)}): remove "
                "one, or both",
                where,
            )
        preferred.setdefault(content_hash(pair.prompt.id, *sides), where)
        yield pair


def _useful(
    rows: Iterable[SourceRow],
    report: ImportReport,
    what: str,
    read: Callable[[SourceRow, ImportReport], Item],
    prompt_of: Callable[[Item], Prompt],
) -> Iterator[tuple[str, Item]]:
    """Yield the place and the item of each row that is new and not worthless; count the others."""
    seen: dict[str, str] = {}
    for row in rows:
        report.read += 1
        try:
            if row.useless is not None:
                raise row.useless
            item = read(row, report)
            prompt = prompt_of(item)
            id_ = item.id if isinstance(item, PreferencePair) else prompt.id
            if id_ in seen:
                repeated = "pair" if what == "pair" else "prompt"
                raise UselessRow(
                    f"duplicate {repeated}",
                    f"{row.where}: the same {repeated} as in {seen[id_]} ({show(prompt.text)}); "
                    "results are joined by content, so each may appear once: remove one",
                )
        except UselessRow as useless:
            report.drop(useless, row.where)
            continue
        seen[id_] = row.where
        report.kept += 1
        yield row.where, item
    report.require_some(f"{what}s")


def pair_of_row(row: SourceRow, report: ImportReport) -> PreferencePair:
    """Return the pair of one row.

    Raises:
        UselessRow: It teaches nothing.
        DataError: It is malformed.
    """
    if _STORED_PAIR in row.values:
        return _stored_pair(row)
    for side in ("chosen", "rejected"):
        if side not in row.values:
            remedy = "map it with columns, or add it to this row if the others have it"
            if "completions" in row.values:
                remedy = (
                    "these rows are read with completions: (import: --as completions), and a "
                    "judge such as recorded"
                )
            raise DataError(f"{row.where}: no column {side!r}; {has(row.values)}; {remedy}")
    prompt = _prompt(row, report, used=("chosen", "rejected", *_PAIR_EXTRAS))
    chosen, rejected = (
        _completion(prompt, index, {"text": row.values[side]}, f"{row.where}, {side}", report)
        for index, side in enumerate(("chosen", "rejected"))
    )
    if chosen.message == rejected.message:
        raise UselessRow(
            "identical answers",
            f"{row.where}: chosen and rejected are the same text {show(chosen.text)}; a pair needs "
            "two different answers: remove the row",
        )
    extra = {name: row.values[name] for name in _PAIR_EXTRAS if row.values.get(name) is not None}
    if "score_gap" not in extra and (gap := _score_gap(row)) is not None:
        extra["score_gap"] = gap
    tie = UselessRow("tie", f"{row.where}: {_EQUALLY_GOOD}")
    if extra.get("p_chosen") in (0.5, "0.5"):
        raise tie
    try:
        pair = PreferencePair.model_validate(
            {"prompt": prompt, "chosen": chosen, "rejected": rejected, **extra}
        )
    except ValidationError as error:
        raise DataError(f"{row.where}: {reason(error)}") from error
    if pair.score_gap == 0:
        raise tie
    if pair.score_gap is not None and pair.score_gap < 0:
        raise DataError(
            f"{row.where}: score_gap {pair.score_gap} says that the rejected answer is better; "
            "swap the sides or remove the row"
        )
    return pair


def _stored_pair(row: SourceRow) -> PreferencePair:
    """Return the pair of a row that stage `pair` wrote."""
    try:
        return pair_of(row.values)
    except KeyError as error:
        problem = f"no column {error.args[0]!r}"
    except (DataError, ValueError, TypeError) as error:
        problem = reason(error)
    raise DataError(
        f"{row.where}: the prefine_* columns do not fit together ({problem}); restore them, or "
        "remove all of them to read prompt, chosen and rejected alone"
    )


def _score_gap(row: SourceRow) -> float | None:
    """Return the score of the chosen answer minus that of the rejected one, if there are scores."""
    for name in filter(_SCORE.match, row.values):
        chosen = name.replace("rejected", "chosen")
        rejected = name.replace("chosen", "rejected")
        if missing := {chosen, rejected} - row.values.keys():
            raise DataError(
                f"{row.where}: no column {missing.pop()!r} beside {name!r}; {has(row.values)}; "
                f"add it, or map {name!r} to a name of another kind with columns"
            )
        if row.values[chosen] is None and row.values[rejected] is None:
            continue
        gap = number(row, chosen) - number(row, rejected)
        says = f"{row.where}: {chosen} {row.values[chosen]} and {rejected} {row.values[rejected]}"
        if gap == 0:
            raise UselessRow("tie", f"{says}: {_EQUALLY_GOOD}")
        if gap < 0:
            raise UselessRow(
                "scores say the opposite", f"{says}: swap the sides, or remove the row"
            )
        return gap
    return None


def _prompt_of_row(row: SourceRow, report: ImportReport) -> Prompt:
    if _STORED_PAIR in row.values:
        return _stored_pair(row).prompt
    return _prompt(row, report, used=("completions", "chosen", "rejected"))


def _prompt(row: SourceRow, report: ImportReport, *, used: tuple[str, ...]) -> Prompt:
    present = [name for name in PROMPT_NAMES if name in row.values]
    if not present:
        raise DataError(
            f"{row.where}: no column 'prompt' (nor 'instruction' or 'messages'); "
            f"{has(row.values)}; map it with columns: {{prompt: YOUR_COLUMN}}"
        )
    if len(present) > 1:
        raise DataError(
            f"{row.where}: both {' and '.join(map(repr, present))} could be the prompt; map one "
            f"with columns, such as {{prompt: {present[0]}}}, and the other becomes metadata"
        )
    (name,) = present
    messages = messages_of(row.values[name], f"{row.where}, {name}", role="user", report=report)
    if messages[-1].role == "assistant" and row.values.get("prefill") not in (True, "true", "True"):
        raise DataError(
            f"{row.where}, {name}: the last message is the assistant's, so there is nothing to "
            "answer; end the prompt with a user turn, or add a column prefill: true if the answer "
            "goes on from there"
        )
    arguments = structured(row.values.get("chat_template_kwargs"))
    if isinstance(arguments, dict) and (reserved := sorted(_RESERVED & arguments.keys())):
        raise DataError(
            f"{row.where}: chat_template_kwargs has {', '.join(reserved)}, which prefine sets "
            "itself; only arguments of the template itself belong there, such as enable_thinking: "
            "remove it"
        )
    metadata = rest(row.values, name, "tools", "chat_template_kwargs", *used)
    try:
        return Prompt.make(
            messages,
            tools=structured(row.values.get("tools")),
            chat_template_kwargs=arguments,
            source=row.where,
            metadata=storable(metadata, row.where, report),
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"{row.where}: {reason(error)}") from error


def _answers_of_row(row: SourceRow, report: ImportReport) -> Answers:
    if "completions" not in row.values:
        raise DataError(
            f"{row.where}: no column 'completions'; {has(row.values)}; map it with columns"
        )
    prompt = _prompt(row, report, used=("completions",))
    items = row.values["completions"]
    if not isinstance(items, list):
        raise DataError(f"{row.where}: completions must be a list, got {show(items)}")
    # Numbered without the empty ones: an id must not depend on what was dropped before it.
    found: list[Completion] = []
    for place, item in enumerate(items):
        where = row.places[place] if row.places else f"{row.where}, completion {place}"
        try:
            found.append(_completion(prompt, len(found), item, where, report))
        except UselessRow as useless:
            report.drop(useless, where)
    if not found:
        raise UselessRow(
            "no answer left",
            f"{row.where}: completions has no text at all ({show(items)}); remove the row",
        )
    return prompt, found


def _completion(
    prompt: Prompt, index: int, item: Any, where: str, report: ImportReport
) -> Completion:
    values = {"text": item} if isinstance(item, str) else item
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a text or an object with a text, got {show(item)}")
    name = next((name for name in _TEXT_NAMES if name in values), None)
    if name is None:
        raise DataError(
            f"{where}: no field 'text' (nor {', '.join(_TEXT_NAMES[1:])}); {has(values)}"
        )
    messages = messages_of(values[name], where, role="assistant", report=report)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise DataError(
            f"{where}: an answer must be one assistant turn, got roles "
            f"{[message.role for message in messages]}; move earlier turns into the prompt, or "
            "name a layout whose answers repeat the prompt"
        )
    (message,) = messages
    model = values.get("model") or ""
    metadata = rest(values, name, "model", "finish_reason")
    try:
        return Completion.model_validate(
            {
                "id": content_hash(prompt.id, index, str(model), message.chat()),
                "prompt_id": prompt.id,
                "sample_index": index,
                "message": message,
                "model": model,
                "finish_reason": values.get("finish_reason") or "unknown",
                "metadata": storable(metadata, where, report),
            }
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {reason(error)}") from error
