"""The rounds that have ended: a row for each, and the warnings that they call for."""

from collections.abc import Sequence
from typing import Literal

from prefine.records import MetricValue, Record, Usage
from prefine.report.data import HeadToHead
from prefine.rounds.configs import RoundsPlan
from prefine.rounds.figures import INITIAL, RoundFigures, read_figures
from prefine.rounds.stopping import stopped_by
from prefine.rounds.warnings import warnings_of
from prefine.run.manifests import read_manifests

REPORT = "report.html"


class RoundSummary(Record):
    """A round: prompts that it sampled for, items that it trained on, and what was asked for it.

    `usage` holds the calls of its stages and of its comparison with other rounds, `seconds` their
    time.
    """

    name: str
    prompts: int
    items: int
    usage: Usage
    seconds: float
    figures: RoundFigures


class RoundsResult(Record):
    """All rounds that have ended, why no other follows, and the path of their report."""

    count: int
    stopped_by: str | None
    rounds: tuple[RoundSummary, ...]
    warnings: tuple[str, ...]
    report: str


def results(rounds: RoundsPlan) -> RoundsResult:
    """The rounds that have ended, in order."""
    linked = read_manifests(rounds.config.run_dir)
    found: list[RoundSummary] = []
    stopped = None
    for number in rounds.numbers:
        figures, name = read_figures(rounds, number), rounds.name(number)
        if figures is None or name not in linked:
            break
        stages = read_manifests(rounds.folder(number))
        asked = [*stages.values(), linked[name]]
        found.append(
            RoundSummary(
                name=name,
                prompts=linked[name].counts.taken,
                items=linked[name].counts.produced,
                usage=sum((one.usage for one in asked), Usage()),
                seconds=round(linked[name].wall_time_s, 1),
                figures=figures,
            )
        )
        if rounds.name(number + 1) not in linked:
            stopped = stopped_by([one.figures for one in found], rounds.settings.stop)
            break
    numbers = [one.figures.round for one in found]
    gone = {number for number in numbers if not (rounds.folder(number) / "model").is_dir()}
    return RoundsResult(
        count=rounds.settings.count,
        stopped_by=stopped,
        rounds=tuple(found),
        warnings=tuple(warnings_of([one.figures for one in found], gone)),
        report=str((rounds.config.run_dir / REPORT).resolve()),
    )


def rate(contests: Sequence[HeadToHead], role: Literal["judge", "gold"]) -> MetricValue | None:
    """The win rate by the judge or by gold, if there is one."""
    return next((one.win_rate for one in contests if one.role == role), None)


def name_of(number: int) -> str:
    """The name of a model in words: the initial policy is number 0."""
    return "the initial policy" if number == INITIAL else f"round {number}"


def cell(value: MetricValue | None, decimals: int = 1) -> str:
    """A value with its interval; nothing where there is none."""
    if value is None:
        return ""
    text = f"{value.value:.{decimals}f}"
    if value.interval is None:
        return text
    low, high = value.interval
    return f"{text} [{low:.{decimals}f}, {high:.{decimals}f}]"


HEADINGS = (
    "round",
    "prompts",
    "items",
    "judge: over initial [%]",
    "judge: over the round before [%]",
    "judge: over the best before [%]",
    "gold: over initial [%]",
    "gold: change to the best before",
    "judge and gold agree [%]",
    "length [characters]",
    "diversity",
    "fall of first answers [nats]",
    "calls",
    "cost",
    "seconds",
)


def rows_of(result: RoundsResult) -> list[tuple[str, ...]]:
    """The table of the rounds: `HEADINGS`, then a row each; columns without values are left out."""
    rows = []
    for one in result.rounds:
        figures = one.figures
        best = cell(rate(figures.over_best, "judge"))
        rows.append(
            (
                str(figures.round),
                f"{one.prompts:,}",
                f"{one.items:,}",
                cell(rate(figures.over_initial, "judge")),
                cell(rate(figures.over_previous, "judge")),
                best and f"{best} ({figures.best_before or 'initial'})",
                cell(rate(figures.over_initial, "gold")),
                cell(figures.gold_over_best, 3),
                cell(figures.agreement),
                cell(figures.length, 0),
                cell(figures.diversity, 2),
                cell(figures.fall, 2),
                f"{one.usage.calls:,}",
                f"{one.usage.cost:.4g}" if one.usage.cost else "",
                f"{one.seconds:,.0f}",
            )
        )
    shown = [i for i in range(len(HEADINGS)) if any(row[i] for row in rows)]
    return [tuple(row[i] for i in shown) for row in (HEADINGS, *rows)]


def lines_of(result: RoundsResult, *, columns: int | None = None) -> list[str]:
    """The table as lines to print: a line for each figure, a column for each round.

    Args:
        result: The rounds.
        columns: Of the terminal, see `beside_one_another`.
    """
    headings, *rounds = rows_of(result)
    lines = beside_one_another(headings, rounds, columns)
    if result.stopped_by is not None:
        lines.append(result.stopped_by)
    return lines


def beside_one_another(
    headings: Sequence[str], rounds: Sequence[Sequence[str]], columns: int | None
) -> list[str]:
    """Lines with a heading and a column for each round.

    Args:
        headings: One for each line.
        rounds: The texts of each round.
        columns: Of the terminal; rounds that do not fit into it follow below, with the headings
            again. None has no end.
    """
    width = max(map(len, headings))
    parts: list[list[list[str]]] = []
    left = 0
    for texts in rounds:
        size = max(map(len, texts))
        if not parts or (columns is not None and 2 + size > left):
            parts.append([[heading.ljust(width) for heading in headings]])
            left = 0 if columns is None else columns - width
        left -= 2 + size
        parts[-1].append([text.ljust(size) for text in texts])
    lines: list[str] = []
    for part in parts:
        lines += [""] if lines else []
        lines += ["  ".join(texts).rstrip() for texts in zip(*part, strict=True)]
    return lines
