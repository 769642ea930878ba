"""Several answers to a prompt with grades, or one with a grade: lists, and HelpSteer."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from prefine.data.layouts.fields import answer, text
from prefine.data.layouts.marks import marked_turns
from prefine.data.layouts.protocol import SourceRow, Values, no_vote, optional_number, rest, show
from prefine.errors import DataError

_STRONGEST = 3


def ultrafeedback(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `instruction`, `models` and `completions`, graded by `overall_score`."""
    return rest(row.values, "instruction", "models", "completions") | {
        "prompt": text(row, "instruction"),
        "completions": _graded(row, "completions", text_name="response", grade="overall_score"),
    }


def nectar(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `prompt` (marked turns) and `answers`, each with its `rank`; 1 is the best."""
    return _without_answers(row) | {
        "prompt": row.values["prompt"],
        "completions": _graded(row, "answers", text_name="answer", rank="rank"),
    }


def stack_exchange(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `question` and `answers`, graded by `pm_score`, the rounded log of their votes."""
    return _without_answers(row) | {
        "prompt": text(row, "question"),
        "completions": _graded(row, "answers", text_name="text", grade="pm_score"),
    }


def nemo_ranked(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `context` and `completions`, each with its `rank`; the lowest is the best."""
    return rest(row.values, "context", "completions") | {
        "prompt": row.values["context"],
        "completions": _graded(row, "completions", text_name="completion", rank="rank"),
    }


def distilabel(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `generations`, a list of texts, and the lists `ratings` and models beside it."""
    ratings = "ratings" if "ratings" in row.values else "rating"
    models = "generation_models" if "generation_models" in row.values else "generation_model"
    texts, grades = _list(row, "generations"), _list(row, ratings)
    lists = {
        "text": texts,
        "grade": grades,
        "rationale": row.values.get("rationales", row.values.get("rationale")),
        "model": row.values.get(models),
    }
    count = len(texts)
    if len(grades) != count:
        raise DataError(
            f"{row.where}: {count} generations, but {len(grades)} {ratings}; give one for "
            "each, None where it is missing"
        )
    answers = []
    for place in range(count):
        found = {
            name: items[place]
            for name, items in lists.items()
            if isinstance(items, list) and len(items) == count
        }
        answers.append(_graded_answer(found, f"{row.where}, {ratings}"))
    name = next(name for name in ("instruction", "input", "prompt") if name in row.values)
    used = ("generations", ratings, "rationales", "rationale", models, name)
    return rest(row.values, *used) | {"prompt": row.values[name], "completions": answers}


def six_verdicts(values: Values) -> bool:
    """Return True if `answers` are four and `preference` has a verdict on each two of them."""
    answers, verdicts = values.get("answers"), values.get("preference")
    sizes = [len(one) if isinstance(one, list) else 0 for one in (answers, verdicts)]
    return sizes == [4, 6]


def qa_feedback(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `question` with `passages`, four `answers` and the six verdicts in `preference`.

    Verdicts are on 1-2, 1-3, 1-4, 2-3, 2-4 and 3-4: 1 for the first, 2 for the second, 0 for a tie.
    The grade of an answer is how many others it is better than, a tie counting half.
    """
    grades = [0.0] * 4
    verdicts = _list(row, "preference")
    for (first, second), verdict in zip(combinations(range(4), 2), verdicts, strict=True):
        if verdict not in (0, 1, 2):
            raise DataError(
                f"{row.where}: preference must have six of 0, 1 and 2, got {show(verdicts)}"
            )
        grades[first] += (0.5, 1.0, 0.0)[int(verdict)]
        grades[second] += (0.5, 0.0, 1.0)[int(verdict)]
    # The first part of a passage is its title, which the second repeats.
    passages = [" ".join(map(str, parts[1:])) for parts in row.values.get("passages") or []]
    return rest(row.values, "question", "answers", "passages") | {
        "prompt": "\n\n".join([text(row, "question"), *passages]),
        "completions": [
            {"text": said, "grade": grade}
            for said, grade in zip(_list(row, "answers"), grades, strict=True)
        ],
    }


def helpsteer(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert one answer with its five grades; `helpfulness` is the one that counts."""
    graded = rest(row.values, "prompt", "response", "helpfulness") | {
        "text": answer(row, "response"),
        "grade": row.values["helpfulness"],
    }
    return {
        "prompt": marked_turns(text(row, "prompt")),
        "completions": [_graded_answer(graded, row.where, name="helpfulness")],
    }


def ranked_answers(values: Values) -> bool:
    """Return True if `answers` or `completions` are objects with ranks."""
    items = values.get("answers", values.get("completions"))
    return isinstance(items, list) and any(isinstance(i, dict) and "rank" in i for i in items)


def voted_answers(values: Values) -> bool:
    """Return True if `answers` are objects with the votes of Stack Exchange."""
    items = values.get("answers")
    return isinstance(items, list) and any(isinstance(i, dict) and "pm_score" in i for i in items)


def _without_answers(row: SourceRow) -> Values:
    return rest(row.values, "prompt", "question", "answers")


def _list(row: SourceRow, name: str) -> list[Any]:
    items = row.values[name]
    if not isinstance(items, list):
        raise DataError(f"{row.where}: {name} must be a list, got {show(items)}")
    return items


def _graded(
    row: SourceRow, name: str, *, text_name: str, grade: str = "", rank: str = ""
) -> list[Values]:
    """Return the answers of a list of objects, each with its `grade`: minus its rank, if ranked."""
    answers = []
    for place, item in enumerate(_list(row, name)):
        where = f"{row.where}, completion {place}"
        if not isinstance(item, dict) or text_name not in item:
            raise DataError(f"{where}: expected an object with {text_name}, got {show(item)}")
        found = rest(item, text_name, grade) | {"text": item[text_name]}
        if rank:
            place_of = optional_number(SourceRow(where, item), rank)
            found["grade"] = None if place_of is None else -place_of
        else:
            found["grade"] = item.get(grade)
        answers.append(_graded_answer(found, where, name=grade or rank))
    return answers


def _graded_answer(found: Values, where: str, *, name: str = "grade") -> Values:
    """Return an answer with its grade as a number, or without it if it is missing.

    Only a judge that reads grades needs them, and it says which one is missing.
    """
    grade = optional_number(SourceRow(where, {name: found["grade"]}), name)
    return rest(found, "grade") | ({} if grade is None else {"grade": grade})


def helpsteer2_preference(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `response_1` and `response_2` with their `preference_strength`."""
    pair = _pair(row, "response_1", "response_2", "preference_strength")
    return rest(pair, "prompt") | {"prompt": marked_turns(text(row, "prompt"))}


def helpsteer3_preference(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `context` with `response1` and `response2`, and their `overall_preference`."""
    pair = _pair(row, "response1", "response2", "overall_preference")
    return rest(pair, "context") | {"prompt": row.values["context"]}


def _pair(row: SourceRow, first: str, second: str, name: str) -> Values:
    """Replace two answers and a strength from -3 (the first is much better) to 3 (the second)."""
    if (strength := optional_number(row, name)) is None:
        raise no_vote(row, name)
    if abs(strength) > _STRONGEST:
        raise DataError(
            f"{row.where}: {name} must be between -3 and 3, got {show(row.values[name])}"
        )
    better, worse = (first, second) if strength <= 0 else (second, first)
    return rest(row.values, first, second, name) | {
        "chosen": text(row, better),
        "rejected": text(row, worse),
        "score_gap": abs(strength),
    }
