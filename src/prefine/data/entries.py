"""Rows in our own columns → prompts, completions and pairs, or an error that names the row.

What is well-formed but worthless (empty, a repetition, a tie) is counted on the `ImportReport`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.layouts.protocol import (
    PROMPT_NAMES,
    SourceRow,
    has,
    is_missing,
    no_vote,
    optional_number,
    rest,
    show,
)
from prefine.data.messages import messages_of, reason, refuse_media, storable, structured
from prefine.errors import DataError
from prefine.records import Completion, PreferencePair, Prompt, content_hash
from prefine.run.rows import pair_of

Item = TypeVar("Item")
Answers = tuple[Prompt, list[Completion]]

_ANSWERS = ("completions", "chosen", "rejected")
_REPEATS = "all answers begin with the prompt"
_TEXT_NAMES = ("text", "content", "completion", "message")
_PAIR_EXTRAS = ("weight", "score_gap", "p_chosen")
_STORED_PAIR = "prefine_extra"
_SCORE = re.compile(
    r"(?:(?:avg_)?(?:score|rating|reward)[_-](?:chosen|rejected)|"
    r"(?:chosen|rejected)[_-](?:avg_)?(?:score|rating|reward))\Z"
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
        sides = [
            [message.chat() for message in one.messages] for one in (pair.chosen, pair.rejected)
        ]
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
        report.layouts[row.layout] += 1
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
    row = _with_two_sides(row)
    prompt = _prompt(row, report, used=_PAIR_EXTRAS)
    chosen, rejected = (
        _completion(prompt, index, {"text": row.values[side]}, f"{row.where}, {side}", report)
        for index, side in enumerate(("chosen", "rejected"))
    )
    _remark_repeated_prompt(prompt, [chosen, rejected], row.where, report)
    if chosen.messages == rejected.messages:
        raise UselessRow(
            "identical answers",
            f"{row.where}: chosen and rejected are the same text {show(chosen.text)}; a pair needs "
            "two different answers: remove the row",
        )
    extra = {name: row.values[name] for name in _PAIR_EXTRAS if row.values.get(name) is not None}
    if "score_gap" not in extra and (gap := _score_gap(row, report)) is not None:
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


def _with_two_sides(row: SourceRow) -> SourceRow:
    """Return the row with chosen and rejected; of two answers with grades, the higher is chosen.

    Raises:
        UselessRow: The two grades are equal, or one is missing.
        DataError: There are no two sides.
    """
    missing = [side for side in ("chosen", "rejected") if side not in row.values]
    if not missing:
        return row
    answers = row.values.get("completions")
    graded = isinstance(answers, list) and any(_has_grade(one) for one in answers)
    if not isinstance(answers, list) or not graded or len(answers) != 2 or len(missing) != 2:
        remedy = "map it with columns, or add it to this row if the others have it"
        if "completions" in row.values:
            remedy = (
                "two answers with different grades are a pair; others are read with completions: "
                "(import: --as completions), and a judge such as recorded"
            )
        raise DataError(f"{row.where}: no column {missing[0]!r}; {has(row.values)}; {remedy}")
    grades = [
        optional_number(SourceRow(row.where, one), "grade") if isinstance(one, dict) else None
        for one in answers
    ]
    if grades[0] is None or grades[1] is None:
        raise no_vote(row._replace(values={"grade": None}), "grade")
    if grades[0] == grades[1]:
        raise UselessRow("tie", f"{row.where}: both grades are {grades[0]}: {_EQUALLY_GOOD}")
    sides = answers if grades[0] > grades[1] else answers[::-1]
    texts = [next((one[name] for name in _TEXT_NAMES if name in one), None) for one in sides]
    gap = {"score_gap": abs(grades[0] - grades[1])}
    return row._replace(values=row.values | gap | {"chosen": texts[0], "rejected": texts[1]})


def _has_grade(answer: Any) -> bool:
    return isinstance(answer, dict) and "grade" in answer


def _remark_repeated_prompt(
    prompt: Prompt, answers: list[Completion], where: str, report: ImportReport
) -> None:
    """Count a row whose answers all begin with the text of the prompt.

    One answer may well quote its question, and any number may begin with one word.
    """
    asked = prompt.text.strip()
    if len(answers) < 2 or len(asked.split()) < 2:
        return
    if all(answer.text.lstrip().startswith(asked) for answer in answers):
        report.remark(
            "both answers begin with the prompt" if len(answers) == 2 else _REPEATS,
            f"{where}: the answers begin with the prompt's text {show(asked)}, which would be "
            "trained on as if the model had written it: cut it off",
            where,
        )


def _score_gap(row: SourceRow, report: ImportReport) -> float | None:
    """Return the score of the chosen answer minus that of the rejected one, if there are scores.

    A pair with one score is kept without a gap, and counted: few losses read it.
    """
    scores = filter(_SCORE.match, row.values)
    pairs_of_names = dict.fromkeys(
        (name.replace("rejected", "chosen"), name.replace("chosen", "rejected")) for name in scores
    )
    for names in pairs_of_names:
        for name, other in (names, names[::-1]):
            if name not in row.values:
                raise DataError(
                    f"{row.where}: no column {name!r} beside {other!r}; {has(row.values)}; "
                    f"add it, or map {other!r} to a name of another kind with columns"
                )
        says = f"{row.where}: " + " and ".join(f"{one} {row.values[one]}" for one in names)
        chosen, rejected = (optional_number(row, one) for one in names)
        if chosen is None and rejected is None:
            continue
        if chosen is None or rejected is None:
            report.remark(
                "without a score_gap: one of two scores is missing",
                f"{says}: fill the missing one, or remove both",
                row.where,
            )
            continue
        if chosen == rejected:
            raise UselessRow("tie", f"{says}: {_EQUALLY_GOOD}")
        if chosen < rejected:
            raise UselessRow(
                "scores say the opposite", f"{says}: swap the sides, or remove the row"
            )
        return chosen - rejected
    return None


def _prompt_of_row(row: SourceRow, report: ImportReport) -> Prompt:
    if _STORED_PAIR in row.values:
        return _stored_pair(row).prompt
    return _prompt(row, report)


def _prompt(row: SourceRow, report: ImportReport, *, used: tuple[str, ...] = ()) -> Prompt:
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
    refuse_media(row.values, row.where)
    metadata = rest(row.values, name, "tools", "chat_template_kwargs", *_ANSWERS, *used)
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
    prompt = _prompt(row, report)
    items = row.values["completions"]
    if not isinstance(items, list):
        raise DataError(f"{row.where}: completions must be a list, got {show(items)}")
    # Numbered without the empty ones: an id must not depend on what was dropped before it.
    found: list[Completion] = []
    for place, item in enumerate(items):
        where = row.places[place] if row.places else f"{row.where}, completion {place}"
        try:
            answer = _completion(prompt, len(found), _null_as_empty(item), where, report)
            if answer.earlier_turns:
                raise UselessRow(
                    "answer of several turns",
                    f"{where}: an answer of {len(answer.messages)} turns cannot be judged; pairs "
                    "may have them: read the rows as pairs, or move earlier turns into the prompt",
                )
            found.append(answer)
        except UselessRow as useless:
            report.drop(useless, where)
    if not found:
        raise UselessRow(
            "no answer left",
            f"{row.where}: completions has no text at all ({show(items)}); remove the row",
        )
    _remark_repeated_prompt(prompt, found, row.where, report)
    return prompt, found


def _null_as_empty(item: Any) -> Any:
    """Return an answer with an empty text for the null that a generator writes of a failed call."""
    if is_missing(item):
        return ""
    if not isinstance(item, dict):
        return item
    name = next((name for name in _TEXT_NAMES if name in item), None)
    return item if name is None or not is_missing(item[name]) else item | {name: ""}


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
    *earlier, message = messages_of(values[name], where, role="assistant", report=report)
    if (earlier or [message])[0].role != "assistant" or message.role != "assistant":
        raise DataError(
            f"{where}: an answer must be one assistant turn, or turns that begin and end with one, "
            f"got roles {[turn.role for turn in (*earlier, message)]}; move earlier turns into the "
            "prompt, or name a layout whose answers repeat the prompt"
        )
    turns = [turn.chat() for turn in (*earlier, message)]
    model = values.get("model") or ""
    metadata = rest(values, name, "model", "finish_reason")
    try:
        return Completion.model_validate(
            {
                "id": content_hash(prompt.id, index, str(model), turns if earlier else turns[0]),
                "prompt_id": prompt.id,
                "sample_index": index,
                "message": message,
                "earlier_turns": earlier,
                "model": model,
                "finish_reason": values.get("finish_reason") or "unknown",
                "metadata": storable(metadata, where, report),
            }
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {reason(error)}") from error
