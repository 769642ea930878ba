"""Answers in the forms of AlpacaEval and Arena-Hard: one answer of one model a row."""

from collections.abc import Mapping
from typing import Any

from prefine.data.layouts.protocol import (
    SourceRow,
    Values,
    answer,
    conversation,
    has,
    rest,
    show,
    text,
)
from prefine.errors import DataError


def alpaca_eval(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """`instruction`, `output` and the `generator` that wrote it."""
    own = rest(row.values, "instruction", "output", "generator")
    written = own | {"text": answer(row, "output"), "model": text(row, "generator")}
    return {"prompt": text(row, "instruction"), "completions": [written]}


def arena_hard_questions(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """`turns` of the first version; later ones have a column `prompt`."""
    return rest(row.values, "turns") | {
        "prompt": _only_turn(row.values["turns"], f"{row.where}, turns")
    }


def arena_hard_answers(row: SourceRow, questions: Mapping[str, Any]) -> Values:
    """`messages` with question and answer; or `choices` or `answer`, whose questions are in another file."""
    name = "question_id" if "question_id" in row.values else "uid"
    model = text(row, "model_id" if "model_id" in row.values else "model")
    own = rest(
        row.values, "uid", "question_id", "model", "model_id", "messages", "choices", "answer"
    )
    if "messages" in row.values:
        *before, last = conversation(row.values["messages"], f"{row.where}, messages")
        if last.get("role") != "assistant" or not before:
            raise DataError(
                f"{row.where}, messages: must be the question and the assistant's answer"
            )
        prompt: Any = before
        texts = [_answer(last.get("content"), f"{row.where}, messages")]
    else:
        key = row.values[name]
        if not isinstance(key, str | int) or str(key) not in questions:
            raise DataError(
                f"{row.where}: {name} {show(key)} is not among the {len(questions):,} questions"
            )
        prompt = questions[str(key)]
        texts = _texts(row)
    return {"prompt": prompt, "completions": [own | {"text": one, "model": model} for one in texts]}


def question_of(row: SourceRow) -> tuple[str, Any]:
    """The id and the prompt of a row of the file of questions."""
    values = row.values
    key = values.get("uid", values.get("question_id"))
    if not isinstance(key, str | int) or not ("prompt" in values or "turns" in values):
        raise DataError(
            f"{row.where}: a question needs uid or question_id, and prompt or turns; {has(values)}"
        )
    prompt = (
        values["prompt"]
        if "prompt" in values
        else _only_turn(values["turns"], f"{row.where}, turns")
    )
    return str(key), prompt


def _texts(row: SourceRow) -> list[str]:
    if "choices" not in row.values:
        return [_answer(row.values["answer"], row.where)]
    choices = row.values["choices"]
    if not isinstance(choices, list) or not choices:
        raise DataError(
            f"{row.where}: choices must be a list with at least one item, got {show(choices)}"
        )
    found = []
    for number, choice in enumerate(choices):
        where = f"{row.where}, choice {number}"
        if not isinstance(choice, dict):
            raise DataError(f"{where}: expected an object with turns, got {show(choice)}")
        found.append(_only_turn(choice.get("turns"), where))
    return found


def _only_turn(turns: Any, where: str) -> str:
    if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], dict):
        raise DataError(f"{where}: expected exactly one turn with content, got {show(turns)}")
    return _answer(turns[0].get("content"), where)


def _answer(value: Any, where: str) -> str:
    content = value.get("answer") if isinstance(value, dict) else value
    if not isinstance(content, str):
        raise DataError(f"{where}: expected a text, got {show(value)}")
    return content
