"""The table of layouts, and the recognition of a row's layout."""

from collections.abc import Mapping
from typing import Any, Literal

from prefine.data.import_report import UselessRow
from prefine.data.layouts import answers, conversations, graded
from prefine.data.layouts.prompts import with_whole_prompt
from prefine.data.layouts.protocol import Layout, SourceRow, Values, has, rest
from prefine.errors import DataError

MARK = "prefine_layout"
"""The column that says that a row has our own columns."""

LayoutName = Literal[
    "auto",
    "prefine",
    "trl_implicit",
    "anthropic_hh",
    "ultrafeedback",
    "ultrafeedback_binarized",
    "samples",
    "helpsteer",
    "helpsteer2_preference",
    "helpsteer3_preference",
    "alpaca_eval",
    "arena_hard_answers",
    "arena_hard_questions",
]


def _columns(*alternatives: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(alternative.split()) for alternative in alternatives)


LAYOUTS = (
    Layout(
        "prefine",
        _columns(
            "prompt chosen rejected",
            "instruction chosen rejected",
            "messages chosen rejected",
            "prompt completions",
            "instruction completions",
            "messages completions",
        ),
        lambda row, _: rest(row.values, MARK),
        fits=lambda values: not conversations.repeat_the_prompt(values),
    ),
    Layout(
        "trl_implicit",
        _columns("chosen rejected"),
        conversations.trl_implicit,
        fits=lambda values: not conversations.has_marks(values),
    ),
    Layout(
        "anthropic_hh",
        _columns("chosen rejected"),
        conversations.anthropic_hh,
        fits=conversations.has_marks,
    ),
    Layout("ultrafeedback", _columns("instruction models completions"), graded.ultrafeedback),
    Layout(
        "ultrafeedback_binarized",
        _columns("prompt chosen rejected"),
        conversations.binarized,
        fits=conversations.repeat_the_prompt,
    ),
    Layout(
        "samples",
        _columns(
            *(
                f"{prompt} {name}"
                for prompt in ("prompt", "instruction")
                for name in answers.ANSWER_NAMES
            )
        ),
        answers.samples,
        fits=lambda values: not values.keys() & {"chosen", "rejected", "completions"},
        grouped=True,
    ),
    Layout("helpsteer", _columns("prompt response helpfulness"), graded.helpsteer, grouped=True),
    Layout(
        "helpsteer2_preference",
        _columns("prompt response_1 response_2 preference_strength"),
        graded.helpsteer2_preference,
    ),
    Layout(
        "helpsteer3_preference",
        _columns("context response1 response2 overall_preference"),
        graded.helpsteer3_preference,
    ),
    Layout(
        "alpaca_eval", _columns("instruction output generator"), answers.alpaca_eval, grouped=True
    ),
    Layout(
        "arena_hard_answers",
        _columns("uid model messages", "question_id model_id choices", "uid model answer"),
        answers.arena_hard_answers,
        grouped=True,
        needs_questions=True,
    ),
    Layout("arena_hard_questions", _columns("question_id turns"), answers.arena_hard_questions),
)
_KEEPS_THE_PROMPT = {"prefine", "samples"}
BY_NAME = {layout.name: layout for layout in LAYOUTS}


def recognise(row: SourceRow) -> Layout:
    """Return the layout of a row, by the names of its columns; our own where none is recognised.

    A layout gives way to another one that needs the same columns and more.

    Raises:
        DataError: Two layouts fit.
    """
    if MARK in row.values:
        return BY_NAME["prefine"]
    matches = {
        layout: columns
        for layout in LAYOUTS
        if (columns := layout.columns_in(row.values)) is not None and layout.fits(row.values)
    }
    found = [
        layout
        for layout, columns in matches.items()
        if not any(columns < other for other in matches.values())
    ]
    if len(found) > 1:
        names = [layout.name for layout in found]
        raise DataError(
            f"{row.where}: the columns fit {' and '.join(names)} ({has(row.values)}); "
            f"say which it is with layout: {names[-1]}"
        )
    return found[0] if found else BY_NAME["prefine"]


def convert(layout: Layout, row: SourceRow, questions: Mapping[str, Any]) -> SourceRow:
    """Return the row in our own columns; `useless` is set if it is well-formed but cannot be used.

    Raises:
        DataError: A column is missing, or a field is not what the layout says.
    """
    if layout.name != "prefine" and layout.columns_in(row.values) is None:
        nearest = max(layout.columns, key=lambda columns: len(columns & row.values.keys()))
        missing = sorted(nearest - row.values.keys())
        raise DataError(
            f"{row.where}: no column {' and '.join(map(repr, missing))}, which the layout "
            f"{layout.name} needs; {has(row.values)}; map it with columns, or name another layout"
        )
    try:
        values = layout.convert(row, questions)
    except UselessRow as useless:
        return SourceRow(row.where, {}, layout.name, useless=useless)
    if MARK not in row.values:
        values = with_whole_prompt(values, made_prompt=layout.name not in _KEEPS_THE_PROMPT)
    places = (row.where,) * len(values["completions"]) if layout.grouped else ()
    return SourceRow(row.where, values, layout.name, places)


def has_own_columns(values: Values) -> bool:
    """Return True if a row would be read as it is."""
    row = SourceRow("", values)
    try:
        layout = recognise(row)
        return layout.name == "prefine" and convert(layout, row, {}).values == values
    except DataError:
        return False
