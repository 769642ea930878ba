"""The table of layouts, and the recognition of a row's layout."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from prefine.data.answer_texts import without_reasoning
from prefine.data.cells import plain
from prefine.data.import_report import UselessRow
from prefine.data.layouts.marks import has_marks, repeat_the_prompt
from prefine.data.layouts.prompts import with_whole_prompt
from prefine.data.layouts.protocol import (
    ANSWER_NAMES,
    PROMPT_NAMES,
    Layout,
    SourceRow,
    Values,
    has,
    rest,
)
from prefine.data.messages import refuse_media
from prefine.errors import DataError

_STORED_PAIR = "prefine_extra"
MARK = "prefine_layout"
"""The column that says that a row has our own columns."""


class _Module:
    """The functions of a module of layouts; it is imported for the first row that needs one."""

    def __init__(self, name: str) -> None:
        self._name = f"prefine.data.layouts.{name}"

    def __getattr__(self, function: str) -> Callable[..., Any]:
        return lambda *values: getattr(import_module(self._name), function)(*values)


answers, chats, conversations = _Module("answers"), _Module("chats"), _Module("conversations")
graded, trainers, votes = _Module("graded"), _Module("trainers"), _Module("votes")


def _columns(*alternatives: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(alternative.split()) for alternative in alternatives)


def _without(*names: str) -> Callable[[Values], bool]:
    return lambda values: values.keys().isdisjoint(names)


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
        fits=lambda values: not repeat_the_prompt(values),
    ),
    Layout(
        "trl_implicit",
        _columns("chosen rejected"),
        conversations.trl_implicit,
        fits=lambda values: not has_marks(values),
    ),
    Layout(
        "anthropic_hh",
        _columns("chosen rejected"),
        conversations.anthropic_hh,
        fits=has_marks,
    ),
    Layout("ultrafeedback", _columns("instruction models completions"), graded.ultrafeedback),
    Layout(
        "ultrafeedback_binarized",
        _columns("prompt chosen rejected"),
        conversations.binarized,
        fits=repeat_the_prompt,
    ),
    Layout(
        "samples",
        _columns(
            *(
                f"{prompt} {name}"
                for prompt in ("prompt", "instruction", "system_prompt question")
                for name in ANSWER_NAMES
            )
        ),
        answers.samples,
        fits=lambda values: (
            values.keys().isdisjoint({"chosen", "rejected", "completions"})
            and not trainers.outputs_are_two(values)
        ),
        grouped=True,
    ),
    Layout(
        "sharegpt",
        _columns("conversations", "conversation", "messages"),
        chats.chat,
        fits=chats.is_chat,
        grouped=True,
    ),
    Layout(
        "sharegpt_preference",
        _columns("conversations chosen rejected"),
        chats.chat_preference,
        fits=_without(*PROMPT_NAMES),
    ),
    Layout(
        "llama_factory",
        _columns("instruction output"),
        trainers.llama_factory,
        fits=trainers.outputs_are_two,
    ),
    Layout(
        "openai_preference",
        _columns("input preferred_output non_preferred_output"),
        trainers.openai_preference,
    ),
    Layout(
        "openrlhf",
        _columns("context_messages", "context_messages chosen rejected"),
        trainers.context_messages,
        fits=_without(*PROMPT_NAMES),
    ),
    Layout(
        "nemo",
        _columns(
            "prompt chosen_response rejected_response",
            "instruction chosen_response rejected_response",
        ),
        trainers.named_responses,
    ),
    Layout(
        "nemo_ranked",
        _columns("context completions"),
        graded.nemo_ranked,
        fits=graded.ranked_answers,
    ),
    Layout(
        "orca",
        _columns(
            "system question chosen rejected",
            "input chosen rejected",
            "system input chosen rejected",
        ),
        trainers.orca,
        fits=_without(*PROMPT_NAMES),
    ),
    Layout(
        "distilabel",
        _columns(
            *(
                f"{prompt} generations {ratings}"
                for prompt in ("instruction", "input", "prompt")
                for ratings in ("ratings", "rating")
            )
        ),
        graded.distilabel,
        fits=_without("chosen", "rejected", "completions"),
    ),
    Layout("nectar", _columns("prompt answers"), graded.nectar, fits=graded.ranked_answers),
    Layout(
        "stack_exchange",
        _columns("question answers"),
        graded.stack_exchange,
        fits=graded.voted_answers,
    ),
    Layout(
        "qa_feedback",
        _columns("question answers preference"),
        graded.qa_feedback,
        fits=graded.six_verdicts,
    ),
    Layout(
        "pku_safe_rlhf",
        _columns("prompt response_0 response_1 better_response_id"),
        votes.pku_safe_rlhf,
    ),
    Layout("shp", _columns("history human_ref_A human_ref_B labels"), votes.shp),
    Layout("webgpt", _columns("question answer_0 answer_1 score_0 score_1"), votes.webgpt),
    Layout(
        "two_outputs",
        _columns(
            *(
                f"{prompt} output_1 output_2 {vote}"
                for prompt in ("instruction", "input", "prompt")
                for vote in ("preference", "label")
            )
        ),
        votes.two_outputs,
    ),
    Layout("pandalm", _columns("instruction response1 response2 annotator1"), votes.pandalm),
    Layout(
        "arena_votes",
        _columns("prompt response_a response_b winner_model_a winner_model_b"),
        votes.arena_votes,
    ),
    Layout(
        "arena_conversations",
        _columns("conversation_a conversation_b winner"),
        votes.arena_conversations,
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
if TYPE_CHECKING:
    LayoutName = str
else:
    # The names of the table, so that a new layout is one line.
    LayoutName = Literal[("auto", *BY_NAME)]


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
        DataError: A column is missing, a field is not what the layout says, or there are pictures.
    """
    if layout.name != "prefine" and layout.columns_in(row.values) is None:
        nearest = max(layout.columns, key=lambda columns: len(columns & row.values.keys()))
        missing = sorted(nearest - row.values.keys())
        raise DataError(
            f"{row.where}: no column {' and '.join(map(repr, missing))}, which the layout "
            f"{layout.name} needs; {has(row.values)}; map it with columns, or name another layout"
        )
    refuse_media(row.values, row.where)
    try:
        values = layout.convert(row, questions)
    except UselessRow as useless:
        return SourceRow(row.where, {}, layout.name, useless=useless)
    if MARK not in row.values:
        values = with_whole_prompt(
            values, row.where, made_prompt=layout.name not in _KEEPS_THE_PROMPT
        )
    places = (row.where,) * len(values.get("completions", ())) if layout.grouped else ()
    return SourceRow(row.where, values, layout.name, places)


def as_read(row: SourceRow) -> SourceRow:
    """Return a row with plain cells; what prefine wrote itself is taken as it stands."""
    return row if is_as_written(row.values) else plain(row)


def is_as_written(values: Values) -> bool:
    """Return True for a row that prefine wrote: it stands as it is to be read."""
    return MARK in values or _STORED_PAIR in values


def has_own_columns(values: Values) -> bool:
    """Return True if a row would be read as it is."""
    row = SourceRow("", values)
    try:
        layout = recognise(row)
        read = without_reasoning(convert(layout, as_read(row), {}))
        return layout.name == "prefine" and read.values == values
    except DataError:
        return False
