"""One answer of one model a row: plain samples, AlpacaEval and Arena-Hard."""

from collections.abc import Mapping
from typing import Any

from prefine.data.layouts.fields import answer, conversation, flag, text
from prefine.data.layouts.protocol import (
    ANSWER_NAMES,
    HISTORY_NAMES,
    PROMPT_NAMES,
    SYSTEM_NAMES,
    SourceRow,
    Values,
    has,
    rest,
    show,
)
from prefine.errors import DataError

_LABELS = ("label", "kto_tag")
_PROMPT_COLUMNS = {
    *PROMPT_NAMES,
    *HISTORY_NAMES,
    "question",
    "input",
    "context",
    *SYSTEM_NAMES,
    "tools",
    "chat_template_kwargs",
}


def samples(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `prompt` or `instruction`, and the answer; other columns belong to the answer.

    A `label` that says whether the answer is wanted (TRL's unpaired preferences) is its grade, 1 or
    0.
    """
    name = next(name for name in ANSWER_NAMES if name in row.values)
    prompt = {key: value for key, value in row.values.items() if key in _PROMPT_COLUMNS}
    others = rest(row.values, name, *prompt)
    wanted = next((flag(others[label]) for label in _LABELS if label in others), None)
    if wanted is not None:
        others.setdefault("grade", int(wanted))
    if "question" in prompt and prompt.keys().isdisjoint(PROMPT_NAMES):
        prompt["prompt"] = prompt.pop("question")
    return prompt | {"completions": [others | {"text": row.values[name]}]}


def alpaca_eval(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `instruction`, `output` and the `generator` that wrote it."""
    written = {"text": answer(row, "output"), "model": text(row, "generator")}
    others = rest(row.values, "instruction", "output", "generator")
    return {"prompt": text(row, "instruction"), "completions": [others | written]}


def arena_hard_questions(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `turns` of the first version; later ones have a column `prompt`."""
    return rest(row.values, "turns") | {"prompt": _question(row)}


def arena_hard_answers(row: SourceRow, questions: Mapping[str, Any]) -> Values:
    """Convert `messages`; or `choices` or `answer`, whose questions are in another file."""
    values = row.values
    model = text(row, "model_id" if "model_id" in values else "model")
    if "messages" in values:
        where = f"{row.where}, messages"
        *before, last = conversation(values["messages"], where)
        if last.get("role") != "assistant" or not before:
            raise DataError(f"{where}: must be the question and the assistant's answer")
        prompt: Any = before
        texts = [_content(last.get("content"), where)]
    else:
        name = "question_id" if "question_id" in values else "uid"
        key = values[name]
        if not isinstance(key, str | int) or str(key) not in questions:
            raise DataError(
                f"{row.where}: {name} {show(key)} is not among the {len(questions):,} questions"
            )
        prompt = questions[str(key)]
        texts = _texts(row)
    others = rest(
        values, "uid", "question_id", "model", "model_id", "messages", "choices", "answer"
    )
    completions = [others | {"text": written, "model": model} for written in texts]
    return {"prompt": prompt, "completions": completions}


def question_of(row: SourceRow) -> tuple[str, Any]:
    """Return the id and the prompt of a row of the file of questions."""
    values = row.values
    key = values.get("uid", values.get("question_id"))
    if not isinstance(key, str | int) or not ("prompt" in values or "turns" in values):
        raise DataError(
            f"{row.where}: a question needs uid or question_id, and prompt or turns; {has(values)}"
        )
    return str(key), values["prompt"] if "prompt" in values else _question(row)


def _question(row: SourceRow) -> str:
    return _only_turn(row.values["turns"], f"{row.where}, turns")


def _texts(row: SourceRow) -> list[str]:
    if "choices" not in row.values:
        return [_content(row.values["answer"], row.where)]
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
    return _content(turns[0].get("content"), where)


def _content(value: Any, where: str) -> str:
    content = value.get("answer") if isinstance(value, dict) else value
    if not isinstance(content, str):
        raise DataError(f"{where}: expected a text, got {show(value)}")
    return content
