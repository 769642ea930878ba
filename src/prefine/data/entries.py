"""Rows in our own columns → prompts, completions and pairs, or an error that names the row.

What is well-formed but worthless (empty, a repetition, a tie) is counted on the `ImportReport`.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from prefine.data.answer_rows import answers_of_row, prompt_of_row
from prefine.data.first_seen import FirstSeen
from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.layouts.protocol import SourceRow, show
from prefine.data.pair_rows import STORED_PAIR, pair_of_row, stored_pair
from prefine.records import Completion, PreferencePair, Prompt, content_hash

Item = TypeVar("Item")


def prompts(
    rows: Iterable[SourceRow], report: ImportReport | None = None, *, references: bool = False
) -> Iterator[Prompt]:
    """Yield one prompt a row: `prompt` or `instruction` (text or messages), or `messages`.

    Other columns are metadata, except answers: prompts can be read from completions and pairs.

    Args:
        rows: In our own columns.
        report: Counts empty and repeated prompts; without one they are left out in silence.
        references: Each row has a reference answer, too, which becomes metadata.

    Raises:
        DataError: The prompt is missing or of a wrong type, or no row is left; or a reference
            answer is wanted and missing.
    """
    read = _prompt_with_reference if references else _prompt_of_row
    useful = _useful(rows, report or ImportReport(), "prompt", read, lambda prompt: prompt)
    return (prompt for _, prompt in useful)


def completions(
    rows: Iterable[SourceRow], report: ImportReport | None = None, *, several_turns: bool = False
) -> Iterator[tuple[Prompt, list[Completion]]]:
    """Yield one prompt with its `completions` a row.

    Each completion is a text, or an object with `text` whose other fields are metadata.

    Args:
        rows: In our own columns.
        report: Counts empty and repeated prompts and empty answers.
        several_turns: Whether answers may have several turns, which no judge can be asked about.

    Raises:
        DataError: As for prompts, or the list is missing, or a completion has no field with a text.
    """
    report = report or ImportReport()
    read = partial(answers_of_row, several_turns=several_turns)
    useful = _useful(rows, report, "completion", read, lambda answers: answers[0])
    return (answers for _, answers in useful)


def pairs(
    rows: Iterable[SourceRow], report: ImportReport | None = None
) -> Iterator[PreferencePair]:
    """Yield one pair a row: `prompt`, `chosen`, `rejected`, each a text or messages.

    Optional are `weight`, `score_gap` (or two scores) and `p_chosen`; other columns are metadata of
    the prompt. Rows of our own `pairs/` come back whole, with all that their `prefine_*` columns
    say.

    Args:
        rows: In our own columns.
        report: Counts empty texts, equal answers, ties and repeated pairs; pairs that contradict
            one another are kept with a remark.

    Raises:
        DataError: A field is missing or of a wrong type, or no row is left.
    """
    report = report or ImportReport()
    preferred: dict[str, str] = {}
    for where, pair in _useful(rows, report, "pair", pair_of_row, lambda pair: pair.prompt):
        sides = [
            [message.chat() for message in one.messages] for one in (pair.chosen, pair.rejected)
        ]
        opposite = preferred.get(content_hash(pair.prompt.id, *reversed(sides)))
        if opposite is not None:
            report.remark(
                "contradictory pair",
                f"{where}: prefers the opposite of {opposite} ({show(pair.prompt.text)}): remove "
                "one, or both",
                where,
            )
        preferred.setdefault(content_hash(pair.prompt.id, *sides), where)
        yield pair


def _useful(
    rows: Iterable[SourceRow],
    report: ImportReport,
    what: str,
    read: Callable[[SourceRow, ImportReport], Item],
    prompt_of: Callable[[Item], Prompt],
) -> Iterator[tuple[str, Item]]:
    """Yield the place and the item of each row that is new and not worthless; count the others."""
    seen = FirstSeen()
    for row in rows:
        report.read += 1
        report.layouts[row.layout] += 1
        report.reasoned += row.reasoned
        try:
            if row.useless is not None:
                raise row.useless
            item = read(row, report)
            prompt = prompt_of(item)
            id_ = item.id if isinstance(item, PreferencePair) else prompt.id
            if (first := seen.get(id_)) is not None:
                repeated = "pair" if what == "pair" else "prompt"
                raise UselessRow(
                    f"duplicate {repeated}",
                    f"{row.where}: the same {repeated} as in {first} ({show(prompt.text)}); "
                    "results are joined by content, so each may appear once: remove one",
                )
        except UselessRow as useless:
            report.drop(useless, row.where)
            continue
        seen.add(id_, row.where)
        report.kept += 1
        yield row.where, item
    report.require_some(f"{what}s")


def _prompt_of_row(row: SourceRow, report: ImportReport) -> Prompt:
    """Return the prompt of a row, which may be a pair that stage `pair` wrote."""
    return stored_pair(row).prompt if STORED_PAIR in row.values else prompt_of_row(row, report)


def _prompt_with_reference(row: SourceRow, report: ImportReport) -> Prompt:
    # Here and not above: few inputs have reference answers.
    from prefine.data.reference_answers import with_reference

    return with_reference(prompt_of_row(row, report), row, report)
