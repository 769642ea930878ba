"""Judgments of ours as JSON Lines, one `judgment.model_dump_json()` a line."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from prefine.data.layouts.protocol import show
from prefine.errors import DataError
from prefine.metrics.judges.verdicts import first_slot_rate, swap_consistency, verdict_rates
from prefine.records import Judgment, MetricValue
from prefine.suites.figures import SAMPLES, Figures
from prefine.suites.reading import Once, rows_of


@dataclass
class JudgeRows:
    """The verdicts of one judge, as the metrics take them; None is no verdict.

    Attributes:
        p_first: P(first is better) of each judgment [n].
        prompt_ids: Its prompt [n].
        both: P(first is better) of the pairs that were asked in both orders, in one of them [k].
        swapped: The same in the other order [k].
        both_prompt_ids: Prompts of these pairs [k].
        once: How many judgments lack the other order.
    """

    p_first: list[float | None] = field(default_factory=list)
    prompt_ids: list[str] = field(default_factory=list)
    both: list[float | None] = field(default_factory=list)
    swapped: list[float | None] = field(default_factory=list)
    both_prompt_ids: list[str] = field(default_factory=list)
    once: int = 0


def read_judgments(path: Path) -> dict[str, JudgeRows]:
    """Judgments by judge.

    Raises:
        DataError: A row is no judgment, or one is there twice; the message has the row.
    """
    found: dict[str, JudgeRows] = {}
    unmatched: dict[tuple[str, int, str, str, str], Judgment] = {}
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
        rows = found.setdefault(one.judge, JudgeRows())
        rows.p_first.append(one.p_first)
        rows.prompt_ids.append(shown.prompt_id)
        other = unmatched.pop(
            (one.judge, one.sample_index, shown.prompt_id, shown.second, shown.first), None
        )
        if other is None:
            unmatched[key] = one
            continue
        rows.both.append(other.p_first)
        rows.swapped.append(one.p_first)
        rows.both_prompt_ids.append(shown.prompt_id)
    for judge, *_ in unmatched:
        found[judge].once += 1
    return found


def figures(path: Path) -> Iterator[Figures]:
    """The figures of each judge in a file of judgments."""
    for judge, rows in read_judgments(path).items():
        metrics: list[MetricValue] = []
        known = [
            (p, prompt)
            for p, prompt in zip(rows.p_first, rows.prompt_ids, strict=True)
            if p is not None
        ]
        if known:
            p_first, prompts = [p for p, _ in known], [prompt for _, prompt in known]
            metrics.append(first_slot_rate(p_first, samples=SAMPLES, prompt_ids=prompts))
        notes = [f"{rows.once:,} judgments were asked in one order only"] if rows.once else []
        try:
            metrics.append(
                swap_consistency(
                    rows.both,
                    rows.swapped,
                    samples=SAMPLES,
                    prompt_ids=rows.both_prompt_ids,
                )
            )
        except ValueError as error:
            notes.append(f"no consistency: {error}")
        rates = verdict_rates(rows.p_first, samples=SAMPLES, prompt_ids=rows.prompt_ids)
        yield Figures(judge, (*metrics, *filter(None, rates)), tuple(notes))
