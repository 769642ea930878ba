"""The pair of one row in our own columns, or an error that names the row."""

import re
from typing import Any

from pydantic import ValidationError

from prefine.data.answer_rows import (
    TEXT_NAMES,
    completion_of_item,
    prompt_of_row,
    remark_repeated_prompt,
)
from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.layouts.protocol import (
    SourceRow,
    has,
    is_missing,
    is_no_number,
    no_vote,
    optional_number,
    show,
)
from prefine.data.messages import reason
from prefine.errors import DataError
from prefine.records import PreferencePair
from prefine.run.item_rows import pair_of

STORED_PAIR = "prefine_extra"
"""The column of the pairs that stage `pair` wrote."""

_PAIR_EXTRAS = ("weight", "score_gap", "p_chosen")
_SCORE = re.compile(
    r"(?:(?:avg_)?(?:score|rating|reward)[_-](?:chosen|rejected)|"
    r"(?:chosen|rejected)[_-](?:avg_)?(?:score|rating|reward))\Z"
)
_EQUALLY_GOOD = "both answers are equally good, which is no preference: remove the row"


def pair_of_row(row: SourceRow, report: ImportReport) -> PreferencePair:
    """Return the pair of one row.

    Raises:
        UselessRow: It teaches nothing.
        DataError: It is malformed.
    """
    if STORED_PAIR in row.values:
        return stored_pair(row)
    row = _with_two_sides(row)
    prompt = prompt_of_row(row, report, used=_PAIR_EXTRAS)
    # A null is what a generator writes where a call failed: an empty answer, which is counted.
    sides = {
        side: {"text": "" if is_missing(row.values[side]) else row.values[side]}
        for side in ("chosen", "rejected")
    }
    chosen, rejected = (
        completion_of_item(prompt, place, item, f"{row.where}, {side}", report)
        for place, (side, item) in enumerate(sides.items())
    )
    remark_repeated_prompt(prompt, [chosen, rejected], row.where, report)
    if chosen.messages == rejected.messages:
        raise UselessRow(
            "identical answers",
            f"{row.where}: chosen and rejected are the same text {show(chosen.text)}; a pair needs "
            "two different answers: remove the row",
        )
    extra = {
        name: row.values[name] for name in _PAIR_EXTRAS if not is_no_number(row.values.get(name))
    }
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


def stored_pair(row: SourceRow) -> PreferencePair:
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
    texts = [next((one[name] for name in TEXT_NAMES if name in one), None) for one in sides]
    gap = {"score_gap": abs(grades[0] - grades[1])}
    return row._replace(values=row.values | gap | {"chosen": texts[0], "rejected": texts[1]})


def _has_grade(answer: Any) -> bool:
    return isinstance(answer, dict) and "grade" in answer


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
