"""Answers, judgments and rankings ↔ rows of the Parquet tables."""

import json
from collections.abc import Iterable
from typing import TypeAlias

from prefine.records import (
    Completion,
    Judgment,
    Prompt,
    Ranking,
    Score,
)
from prefine.run.item_rows import NOT_STORED, TableRow, json_text, visible
from prefine.run.tables import parse

Groups: TypeAlias = list[tuple[Prompt, list[Completion]]]
"""Prompts with their completions."""


def completion_row(completion: Completion, prompt: Prompt) -> TableRow:
    """A completion as a row; the prompt travels with it, so that a table can be read alone."""
    return answer_row(completion) | {"prompt": prompt.model_dump_json(exclude_none=True)}


def answer_row(completion: Completion) -> TableRow:
    """A completion as a row without its prompt."""
    row = completion.model_dump(mode="json", exclude=NOT_STORED)
    row["text"] = completion.text
    row["message"] = completion.message.model_dump_json(exclude_none=True)
    row["sampling"] = json_text(row["sampling"])
    row["metadata"] = json_text(row["metadata"])
    return row


def prompt_row(prompt: Prompt) -> TableRow:
    """A prompt as a row; its other columns are its metadata, as our files have them."""
    return dict(prompt.metadata) | {"prompt": visible(prompt.messages), "id": prompt.id}


def completion_rows(groups: Groups) -> list[TableRow]:
    """All completions as rows."""
    return [completion_row(one, prompt) for prompt, completions in groups for one in completions]


def completion_of(row: TableRow) -> tuple[Prompt, Completion]:
    """The records of a row."""
    # Answers of several turns are in pairs only: no judge is asked about them.
    not_here = {*NOT_STORED, "earlier_turns"}
    values = {name: row[name] for name in Completion.model_fields if name not in not_here}
    for field in ("message", "sampling", "metadata"):
        values[field] = json.loads(row[field])
    where = f"completion {row['id']}"
    prompt = parse(Prompt, json.loads(row["prompt"]), where=where)
    return prompt, parse(Completion, values, where=where)


def grouped_completions(rows: Iterable[TableRow]) -> Groups:
    """The completions of each prompt, in the order in which prompts first appear."""
    groups: dict[str, tuple[Prompt, list[Completion]]] = {}
    for row in rows:
        prompt, completion = completion_of(row)
        groups.setdefault(prompt.id, (prompt, []))[1].append(completion)
    return list(groups.values())


def judgment_row(answer: Judgment | Score, prompt_id: str) -> TableRow:
    """A judge's comparison or rating of answers to a prompt as a row, with the judge's own words.

    What it cost stands in the journal.
    """
    row: TableRow = {
        "prompt_id": prompt_id,
        "judge": answer.judge,
        "raw_text": answer.raw_text,
        "error": answer.error,
    }
    if isinstance(answer, Score):
        return row | {"first": answer.completion_id, "sample_index": 0, "score": answer.value}
    return row | {
        "first": answer.comparison.first,
        "second": answer.comparison.second,
        "sample_index": answer.sample_index,
        "p_first": answer.p_first,
    }


def joint_judgment_row(answer: Judgment) -> TableRow:
    """A judge's comparison of answers to two prompts as a row."""
    row = judgment_row(answer, answer.comparison.prompt_id)
    return row | {"second_prompt_id": answer.comparison.second_prompt_id}


def joint_judgment_of(row: TableRow) -> Judgment:
    """The record of a row."""
    found = judgment_of(row)
    assert isinstance(found, Judgment), "a rating is of one prompt"
    comparison = found.comparison.model_copy(update={"second_prompt_id": row["second_prompt_id"]})
    return found.model_copy(update={"comparison": comparison})


def judgment_of(row: TableRow) -> Judgment | Score:
    """The record of a row."""
    values = {name: row[name] for name in ("judge", "raw_text", "error")}
    where = f"judgment of prompt {row['prompt_id']}"
    if row["second"] is None:
        rating = values | {"completion_id": row["first"], "value": row["score"]}
        return parse(Score, rating, where=where)
    comparison = {name: row[name] for name in ("prompt_id", "first", "second")}
    values |= {name: row[name] for name in ("sample_index", "p_first")}
    return parse(Judgment, values | {"comparison": comparison}, where=where)


def ranking_of(row: TableRow) -> Ranking:
    """The record of a row."""
    return parse(Ranking, row, where=f"ranking of prompt {row['prompt_id']}")
