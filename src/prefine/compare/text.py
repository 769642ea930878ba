"""A comparison as text for people, on 80 columns or more."""

import io
import json
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefine.compare.results import ComparedScore, PairedDifference, RunComparison
from prefine.records import MetricValue

NARROWEST, WIDEST = 80, 120
TITLES = {
    "gold_win_rate": "win rate over the baseline, by gold [%]",
    "judge_win_rate": "win rate over the baseline, by the judge [%]",
    "gold_score": "gold score of the trained answer",
    "answer_length": "length of the trained answer [characters]",
}
"""Each score with its unit."""
_DECIMALS = {"gold_score": 2}
_LEAST_VALUE = 10


def as_text(found: RunComparison, *, columns: int = NARROWEST) -> str:
    """Return the comparison in lines of at most `columns`, at least 80."""
    written = io.StringIO()
    width = max(NARROWEST, min(WIDEST, columns))
    console = Console(file=written, width=width, highlight=False, markup=False)
    console.print(_runs(found))
    console.print()
    if found.settings:
        console.print("Settings that differ")
        console.print(_settings(found, width))
    else:
        console.print("No settings differ.")
    if found.scores:
        console.print(
            f"\nOn the same {found.prompts:,} evaluation prompts; differences are to "
            f"{found.evaluated[0]}, with 95 % intervals{_corrected(found)}."
        )
    for score in found.scores:
        title = TITLES[score.name]
        console.print(f"\n{title}" + _where(score, found))
        console.print(_score(score, found.evaluated))
    if found.furthest_apart:
        console.print("\nPrompts furthest apart (--html shows the answers)")
        console.print(_furthest(found, width))
    for note in found.notes:
        console.print(f"note: {note}")
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip().splitlines())


def shown_value(value: Any) -> str:
    """Return a setting's value on one line; an en dash for none."""
    return "–" if value is None else json.dumps(value, ensure_ascii=False)


def figure(value: MetricValue | None, name: str, *, signed: bool = False) -> str:
    """Return a score or its difference with its interval; percentages without their unit."""
    if value is None:
        return ""
    # A difference needs one more than what it is a difference of.
    decimals = _DECIMALS.get(name, 1) + (signed and name in _DECIMALS)
    form = f"{'+' if signed else ''}.{decimals}f"
    text = f"{value.value:{form}}"
    if value.interval is None:
        return text
    low, high = value.interval
    return f"{text} [{low:.{decimals}f}, {high:.{decimals}f}]"


def p_text(p: float) -> str:
    """Return a p value: no smaller than its test can tell."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def verdict_text(one: PairedDifference) -> str:
    """Return what the corrected test says."""
    return one.decided or "undecided"


def _corrected(found: RunComparison) -> str:
    count = len(found.evaluated) - 1
    return "" if count == 1 else f"; the last p is corrected for {count} runs (Holm)"


def _where(score: ComparedScore, found: RunComparison) -> str:
    return "" if score.prompts == found.prompts else f", on {score.prompts:,} prompts"


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _runs(found: RunComparison) -> Table:
    table = _table("", "run", "status")
    for name in ("steps", "fall", "held-out fall"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found.runs:
        error = "" if one.held_out_fall_se is None else f" ± {one.held_out_fall_se:.2f}"
        unseen = "–" if one.held_out_fall is None else f"{one.held_out_fall:.2f}{error}"
        fall = "–" if one.fall is None else f"{one.fall:.2f}"
        table.add_row(one.letter, one.path, one.status, f"{one.steps:,}", fall, unseen)
    return table


def _settings(found: RunComparison, width: int) -> Table:
    letters = [one.letter for one in found.runs]
    longest = max(len(row.path) for row in found.settings)
    if width - longest < (_LEAST_VALUE + 1) * len(letters):
        # A column for each would have no room: a row for each value instead.
        table = _table("path", "", "value")
        for row in found.settings:
            for letter, value in zip(letters, row.values, strict=True):
                path = row.path if letter == letters[0] else ""
                table.add_row(path, letter, shown_value(value))
        return table
    table = _table("path", *letters)
    for row in found.settings:
        table.add_row(row.path, *map(shown_value, row.values))
    return table


def _score(score: ComparedScore, letters: Sequence[str]) -> Table:
    several = len(score.differences) > 1
    table = _table("", "mean", "difference")
    for name in ("+/=/-", "p", *(("Holm",) if several else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    first, *others = zip(letters, score.values, strict=True)
    table.add_row(first[0], figure(first[1], score.name), "first")
    for (letter, value), one in zip(others, score.differences, strict=True):
        table.add_row(
            letter,
            figure(value, score.name),
            figure(one.difference, score.name, signed=True),
            f"{one.above}/{one.same}/{one.below}",
            p_text(one.p),
            *((p_text(one.corrected),) if several else ()),
            verdict_text(one),
        )
    return table


def _furthest(found: RunComparison, width: int) -> Table:
    gold = any(value is not None for one in found.furthest_apart for value in one.gold)
    names = [f"{'gold' if gold else 'P'} {letter}" for letter in found.evaluated]
    table = _table()
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("prompt", no_wrap=True)
    # Cut here: the table would take room from the numbers first.
    room = width - sum(len(name) + 1 for name in names) - 1
    for one in found.furthest_apart:
        values = one.gold if gold else one.p_better
        prompt = Text(" ".join(one.prompt.split()))
        prompt.truncate(room, overflow="ellipsis")
        table.add_row(*("–" if value is None else f"{value:.2f}" for value in values), prompt)
    return table
