"""Judgments of ours as JSON Lines, one `judgment.model_dump_json()` a line."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from prefine.data.layouts.protocol import show
from prefine.errors import DataError
from prefine.metrics.judges.verdicts import first_slot_rate, swap_consistency, verdict_rates
from prefine.records import Comparison, Judgment, MetricValue
from prefine.suites.figures import SAMPLES, Figures
from prefine.suites.reading import Once, rows_of


def read_judgments(path: Path) -> dict[str, list[Judgment]]:
    """Judgments by judge.

    Raises:
        DataError: A row is no judgment, or one is there twice; the message has the row.
    """
    found: dict[str, list[Judgment]] = {}
    once = Once()
    for row in rows_of(path):
        try:
            one = Judgment.model_validate(row.values)
        except ValidationError as error:
            (first, *_) = error.errors()
            where = ".".join(map(str, first["loc"])) or "judgment"
            raise DataError(
                f"{row.where}: {where}: {first['msg']} (got {show(first['input'])}); a row is a "
                "Judgment of ours"
            ) from error
        shown = one.comparison
        key = (one.judge, one.sample_index, shown.prompt_id, shown.first, shown.second)
        once.see(row, f"judgment {', '.join(map(str, key))}")
        found.setdefault(one.judge, []).append(one)
    return found


def figures(path: Path) -> Iterator[Figures]:
    """The figures of each judge in a file of judgments."""
    for judge, rows in read_judgments(path).items():
        metrics: list[MetricValue] = []
        p_first = [one.p_first for one in rows]
        if known := [p for p in p_first if p is not None]:
            answered = _prompts(one for one in rows if one.p_first is not None)
            metrics.append(first_slot_rate(known, samples=SAMPLES, prompt_ids=answered))
        pairs = list(_both_orders(rows))
        once = len(rows) - 2 * len(pairs)
        notes = [f"{once:,} judgments were asked in one order only"] if once else []
        try:
            consistency = swap_consistency(
                [one.p_first for one, _ in pairs],
                [other.p_first for _, other in pairs],
                samples=SAMPLES,
                prompt_ids=_prompts(one for one, _ in pairs),
            )
            metrics.append(consistency)
        except ValueError as error:
            notes.append(f"no consistency: {error}")
        rates = verdict_rates(p_first, samples=SAMPLES, prompt_ids=_prompts(rows))
        yield Figures(judge, (*metrics, *filter(None, rates)), tuple(notes))


def _prompts(rows: Iterable[Judgment]) -> list[str]:
    return [one.comparison.prompt_id for one in rows]


def _both_orders(rows: Iterable[Judgment]) -> Iterator[tuple[Judgment, Judgment]]:
    """The pairs that were asked in both orders, in the order of their second judgments."""
    waiting: dict[tuple[int, Comparison], Judgment] = {}
    for one in rows:
        other = waiting.pop((one.sample_index, one.comparison.swapped()), None)
        if other is None:
            waiting[one.sample_index, one.comparison] = one
        else:
            yield other, one
