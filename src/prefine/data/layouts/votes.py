"""Two answers in columns of their own, and a vote that says which is better."""

from collections.abc import Mapping
from typing import Any

from prefine.data.cells import json_value
from prefine.data.import_report import UselessRow
from prefine.data.layouts.conversations import split
from prefine.data.layouts.fields import conversation, flag, preferred, said
from prefine.data.layouts.protocol import (
    PROMPT_NAMES,
    SourceRow,
    Values,
    is_missing,
    no_vote,
    optional_number,
    show,
)
from prefine.errors import DataError

_FIRST_IS_0 = {"0": True, "1": False, "true": False, "false": True}
_FIRST_IS_1 = {"1": True, "0": False, "true": True, "false": False}
_WINNERS = {
    "model_a": True,
    "model_b": False,
    "a": True,
    "b": False,
    "tie": None,
    "tie (bothbad)": None,
    "both_bad": None,
    "bothbad": None,
}
_ANNOTATORS = ("annotator1", "annotator2", "annotator3")


def pku_safe_rlhf(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `response_0` and `response_1`; `better_response_id` says which is more helpful."""
    return _by_vote(row, "response_0", "response_1", "better_response_id", _FIRST_IS_0)


def shp(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert the post `history` and two comments; `labels` is 1 if A is preferred."""
    values = _by_vote(row, "human_ref_A", "human_ref_B", "labels", _FIRST_IS_1)
    return {"prompt" if name == "history" else name: value for name, value in values.items()}


def webgpt(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `question` (with a `full_text`) and two answers with scores that add up to 0."""
    question = row.values["question"]
    if isinstance(question, str):
        question = json_value(question) or question
    if isinstance(question, dict):
        question = question.get("full_text")
    scores = [optional_number(row, name) for name in ("score_0", "score_1")]
    for name, score in zip(("score_0", "score_1"), scores, strict=True):
        if score is None:
            raise no_vote(row, name)
    gap = (scores[0] or 0) - (scores[1] or 0)
    why = f"score_0 {scores[0]} and score_1 {scores[1]}"
    first_wins = gap > 0 if gap else None
    values = preferred(row, "answer_0", "answer_1", first_wins=first_wins, why=why)
    return values | {"prompt": question, "score_gap": abs(gap)}


def two_outputs(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `output_1` and `output_2`; `preference` or `label` is nearer to the better one.

    AlpacaFarm and LLMBar have 1 and 2, AlpacaEval's annotations any number between them.
    """
    name = "preference" if "preference" in row.values else "label"
    vote = optional_number(row, name)
    if vote is None:
        raise no_vote(row, name)
    if vote and not 1 <= vote <= 2:
        raise DataError(
            f"{row.where}: {name} must be between 1 (the first is better) and 2, or 0 for a tie, "
            f"got {show(row.values[name])}"
        )
    first_wins = None if vote in (0, 1.5) else vote < 1.5
    why = f"{name} is {vote:g}"
    values = preferred(row, "output_1", "output_2", first_wins=first_wins, why=why)
    if values.keys().isdisjoint(PROMPT_NAMES):
        values["prompt"] = values.pop("input")
    return values


def pandalm(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `response1` and `response2` by the majority of the annotators (0 is a tie)."""
    allowed = {"1": True, "2": False, "0": None}
    names = [name for name in _ANNOTATORS if not is_missing(row.values.get(name))]
    votes = [said(row, name, allowed) for name in names]
    if not votes:
        raise no_vote(row, _ANNOTATORS[0])
    winner = next((vote for vote in (True, False) if votes.count(vote) * 2 > len(votes)), None)
    why = ", ".join(f"{name} says {show(row.values[name])}" for name in names)
    return preferred(row, "response1", "response2", first_wins=winner, why=why)


def arena_votes(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `prompt`, `response_a` and `response_b`, lists of turns, by `winner_model_a`.

    The turns are JSON texts of lists in the published table.
    """
    won = {name: flag(row.values.get(f"winner_{name}")) for name in ("model_a", "model_b")}
    if None in won.values():
        raise no_vote(row, next(f"winner_{name}" for name, value in won.items() if value is None))
    first_wins = None if won["model_a"] == won["model_b"] else won["model_a"]
    sides = {side: _turns_of(row, "prompt", f"response_{side}") for side in ("a", "b")}
    return _arena(row, sides["a"], sides["b"], first_wins, ("prompt", "response_a", "response_b"))


def arena_conversations(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `conversation_a` and `conversation_b` by the `winner`; `turn` says how many count."""
    first_wins = said(row, "winner", _WINNERS)
    names = ("conversation_a", "conversation_b")
    first, second = (
        _until_turn(row, conversation(row.values[name], f"{row.where}, {name}")) for name in names
    )
    return _arena(row, first, second, first_wins, names)


def _by_vote(
    row: SourceRow, first: str, second: str, name: str, allowed: Mapping[str, bool | None]
) -> Values:
    winner = said(row, name, allowed)
    return preferred(row, first, second, first_wins=winner, why=f"{name} is {row.values[name]}")


def _arena(
    row: SourceRow,
    first: list[Values],
    second: list[Values],
    first_wins: bool | None,
    used: tuple[str, ...],
) -> Values:
    if first_wins is None:
        raise UselessRow(
            "tie", f"{row.where}: neither won the vote, which is no preference: remove the row"
        )
    chosen, rejected = (first, second) if first_wins else (second, first)
    others = {name: value for name, value in row.values.items() if name not in used}
    return split(SourceRow(row.where, others | {"chosen": chosen, "rejected": rejected}))


def _until_turn(row: SourceRow, turns: list[Values]) -> list[Values]:
    """Return a conversation up to the answer to its question number `turn`, if that is said."""
    last = optional_number(row, "turn")
    asked = [place for place, turn in enumerate(turns) if turn.get("role") == "user"]
    return turns if last is None or len(asked) <= last else turns[: asked[int(last)]]


def _turns_of(row: SourceRow, questions: str, answers: str) -> list[Values]:
    """Return the turns of two lists of texts, which the published table has as JSON texts."""
    lists = []
    for name in (questions, answers):
        value = row.values[name]
        if isinstance(value, str):
            value = json_value(value) or [value]
        if not isinstance(value, list) or not all(isinstance(v, str | None) for v in value):
            raise DataError(f"{row.where}: {name} must be a list of texts, got {show(value)}")
        lists.append(value)
    asked, answered = lists
    if len(asked) != len(answered):
        raise DataError(
            f"{row.where}: {len(asked)} turns in {questions}, but {len(answered)} in {answers}; "
            "remove the row"
        )
    return [
        {"role": role, "content": content or ""}
        for exchange in zip(asked, answered, strict=True)
        for role, content in zip(("user", "assistant"), exchange, strict=True)
    ]
