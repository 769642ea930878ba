"""Write any source as JSON Lines in our own columns; reading that file gives the same ids."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from prefine.atomic import write_atomically
from prefine.data import entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow, Values
from prefine.data.layouts.table import MARK, has_own_columns
from prefine.data.pair_rows import pair_of_row
from prefine.errors import DataError
from prefine.records import Completion, Message, PreferencePair, Prompt
from prefine.run.item_rows import pair_row


def write_entries(rows: Iterator[SourceRow], entry: str, out: Path, report: ImportReport) -> str:
    """Write the usable rows as one of `ENTRIES`, in one atomic step.

    Returns: The layout that the rows came in.

    Raises:
        DataError: A row is malformed, or none is left.
        ConfigError: The file cannot be written.
        LimitError: The disk is full.
    """
    first = next(rows)
    written = ENTRIES[entry](chain([first], rows), report)

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for values in written:
                marked = values if has_own_columns(values) else values | {MARK: "prefine"}
                file.write(json.dumps(marked, ensure_ascii=False) + "\n")

    write_atomically(out, write)
    return first.layout


def _prompts(rows: Iterable[SourceRow], report: ImportReport) -> Iterator[Values]:
    return map(_prompt_values, entries.prompts(rows, report))


def _completions(rows: Iterable[SourceRow], report: ImportReport) -> Iterator[Values]:
    for prompt, answers in entries.completions(rows, report):
        yield _prompt_values(prompt) | {"completions": list(map(_answer_values, answers))}


def _pairs(rows: Iterable[SourceRow], report: ImportReport) -> Iterator[Values]:
    for pair in entries.pairs(rows, report):
        values = _pair_values(pair)
        # Pairs of ours have more than users' columns can say: token ids, log-probabilities, ids.
        yield values if _is_lossless(values, pair) else pair_row(pair)


ENTRIES = {"prompts": _prompts, "completions": _completions, "pairs": _pairs}


def _prompt_values(prompt: Prompt) -> Values:
    values = prompt.metadata | {"prompt": _messages(prompt.messages)}
    if prompt.tools is not None:
        values["tools"] = list(prompt.tools)
    if prompt.chat_template_kwargs:
        values["chat_template_kwargs"] = prompt.chat_template_kwargs
    return values


def _pair_values(pair: PreferencePair) -> Values:
    values = _prompt_values(pair.prompt)
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    plain = isinstance(values["prompt"], str) and all(
        _is_text(one.message) and not one.earlier_turns for one in sides.values()
    )
    for side, completion in sides.items():
        turns = [message.chat() for message in completion.messages]
        values[side] = completion.text if plain else turns
    if pair.weight != 1:
        values["weight"] = pair.weight
    extra = {"score_gap": pair.score_gap, "p_chosen": pair.p_chosen}
    return values | {name: value for name, value in extra.items() if value is not None}


def _is_lossless(values: Values, pair: PreferencePair) -> bool:
    try:
        return pair_of_row(SourceRow(pair.prompt.source, values), ImportReport()) == pair
    except DataError:
        return False


def _answer_values(answer: Completion) -> Values:
    message = answer.message
    values: Values = {"text": message.content} if _is_text(message) else {"message": message.chat()}
    if answer.model:
        values["model"] = answer.model
    if answer.finish_reason != "unknown":
        values["finish_reason"] = answer.finish_reason
    return answer.metadata | values


def _messages(messages: tuple[Message, ...]) -> str | list[Values]:
    """Return one user turn as a text, as everybody writes it."""
    if len(messages) == 1 and messages[0].role == "user" and _is_text(messages[0]):
        return messages[0].content
    return [message.chat() for message in messages]


def _is_text(message: Message) -> bool:
    return message.chat().keys() == {"role", "content"}
