"""Any source → one JSON Lines file in our own columns; reading that file again gives the same ids."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from prefine.atomic import write_atomically
from prefine.data import entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.own import MARK
from prefine.data.layouts.protocol import SourceRow
from prefine.data.layouts.table import has_own_columns
from prefine.errors import DataError
from prefine.records import Completion, Message, PreferencePair, Prompt
from prefine.run.rows import pair_row

Values = dict[str, Any]


def write_entries(rows: Iterator[SourceRow], entry: str, out: Path, screen: ImportReport) -> str:
    """Write the rows that can be used, as one of `ENTRIES`, whole or not at all.

    Returns: The layout that the rows came in.

    Raises:
        DataError: A row is malformed, or none is left.
        ConfigError: The file cannot be written.
        LimitError: The disk is full.
    """
    first = next(rows)
    values = ENTRIES[entry](chain([first], rows), screen)
    write_atomically(out, lambda temporary: _write(temporary, values))
    return first.layout


def _write(path: Path, values: Iterator[Values]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for one in values:
            file.write(
                json.dumps(
                    one if has_own_columns(one) else one | {MARK: "prefine"}, ensure_ascii=False
                )
                + "\n"
            )


def _prompts(rows: Iterable[SourceRow], screen: ImportReport) -> Iterator[Values]:
    for prompt in entries.prompts(rows, screen):
        yield prompt_values(prompt)


def _completions(rows: Iterable[SourceRow], screen: ImportReport) -> Iterator[Values]:
    for prompt, answers in entries.completions(rows, screen):
        yield prompt_values(prompt) | {
            "completions": [_answer_values(answer) for answer in answers]
        }


def _pairs(rows: Iterable[SourceRow], screen: ImportReport) -> Iterator[Values]:
    for pair in entries.pairs(rows, screen):
        values = pair_values(pair)
        # Pairs of ours have more than users' columns can say: token ids, log-probabilities, ids.
        yield values if _says_all(values, pair) else pair_row(pair)


def prompt_values(prompt: Prompt) -> Values:
    """A prompt as a row."""
    own: Values = {"prompt": _turns(prompt.messages)}
    if prompt.tools is not None:
        own["tools"] = list(prompt.tools)
    if prompt.chat_template_kwargs:
        own["chat_template_kwargs"] = prompt.chat_template_kwargs
    return prompt.metadata | own


def pair_values(pair: PreferencePair) -> Values:
    """A pair as a row."""
    values = prompt_values(pair.prompt)
    values |= {"chosen": [pair.chosen.message.chat()], "rejected": [pair.rejected.message.chat()]}
    if isinstance(values["prompt"], str) and not any(
        set(message.chat()) - {"role", "content"}
        for message in (pair.chosen.message, pair.rejected.message)
    ):
        values |= {"chosen": pair.chosen.text, "rejected": pair.rejected.text}
    extra = {"weight": pair.weight, "score_gap": pair.score_gap, "p_chosen": pair.p_chosen}
    return values | {k: v for k, v in extra.items() if v is not None and (k, v) != ("weight", 1.0)}


def _says_all(values: Values, pair: PreferencePair) -> bool:
    try:
        again = entries.pair_in(SourceRow(pair.prompt.source, values), ImportReport())
    except DataError:
        return False
    return again == pair


def _answer_values(answer: Completion) -> Values:
    own: Values = {"text": answer.text}
    if set(answer.message.chat()) != {"role", "content"}:
        own = {"message": answer.message.chat()}
    if answer.model:
        own["model"] = answer.model
    if answer.finish_reason != "unknown":
        own["finish_reason"] = answer.finish_reason
    return answer.metadata | own


def _turns(messages: tuple[Message, ...]) -> str | list[Values]:
    """One user turn is a text, as everybody writes it."""
    if (
        len(messages) == 1
        and set(messages[0].chat()) == {"role", "content"}
        and messages[0].role == "user"
    ):
        return messages[0].content
    return [message.chat() for message in messages]


ENTRIES = {"prompts": _prompts, "completions": _completions, "pairs": _pairs}
