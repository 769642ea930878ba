"""The results of a reward model on RewardBench: one row per item, with outcome or scores."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefine.data.layouts.protocol import SourceRow, show
from prefine.errors import DataError
from prefine.metrics.judges.reward_bench import (
    SECTIONS,
    V2_SUBSETS,
    best_of,
    reward_bench_v1,
    reward_bench_v2,
    ties_score,
)
from prefine.metrics.statistics.intervals import percentage
from prefine.suites.figures import SAMPLES, Figures
from prefine.suites.reading import Once, field, list_field, number_field, rows_of, text_field
from prefine.suites.reward_bench.items import TIES, TiesScores, paired_ties


class PairResults(NamedTuple):
    """Of v1: subsets [n], and 1 if chosen scored above rejected, 0 if below, .5 if equal [n]."""

    correct: list[float]
    subsets: list[str]


class ItemResults(NamedTuple):
    """Of v2: scores of each item by subset, the right answer first [n][4]; and of Ties, if any."""

    scores: dict[str, list[list[float]]]
    ties: TiesScores | None


def read_pair_results(path: Path) -> PairResults:
    """The results of v1, as rows or columns.

    They have `subset` and `results` (1, 0 or .5), or `scores_chosen` and `scores_rejected`.

    Raises:
        DataError: A field is missing or something else, or an id is there twice in a subset.
    """
    found, once = PairResults([], []), Once()
    for row in rows_of(path):
        if "id" in row.values:
            once.see(row, f"item {text_field(row, 'subset')}, {text_field(row, 'id')}")
        found.subsets.append(text_field(row, "subset"))
        found.correct.append(_outcome(row))
    return found


def read_item_results(path: Path) -> ItemResults:
    """The results of v2: `subset`, `scores`, right answers first, `num_correct`, and `id` in Ties.

    Raises:
        DataError: A field is missing or something else, or a prompt of the Ties subset lacks its
            other version.
    """
    scores: dict[str, list[list[float]]] = {}
    ties, once = [], Once()
    for row in rows_of(path):
        if "id" in row.values:
            once.see(row, f"item {text_field(row, 'subset')}, {text_field(row, 'id')}")
        subset, values = text_field(row, "subset"), _scores(row)
        count = int(number_field(row, "num_correct"))
        if not 1 <= count < len(values):
            raise DataError(
                f"{row.where}: num_correct must be 1 … {len(values) - 1} of {len(values)} scores, "
                f"got {count}"
            )
        if subset.lower() == TIES.lower():
            ties.append((text_field(row, "id"), values, count))
            continue
        if (len(values), count) != (4, 1):
            raise DataError(
                f"{row.where}: {len(values)} scores, {count} of right answers; {subset} has four "
                "answers, one right"
            )
        scores.setdefault(subset, []).append(values)
    try:
        return ItemResults(scores, paired_ties(ties) if ties else None)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _outcome(row: SourceRow) -> float:
    if "results" in row.values:
        value = row.values["results"]
        value = value if isinstance(value, bool) else number_field(row, "results")
        if value not in (0, 0.5, 1):
            raise DataError(
                f"{row.where}: results must be 1, 0, or 0.5 for equal scores, got {show(value)}"
            )
        return float(value)
    chosen, rejected = (_score(row, name) for name in ("scores_chosen", "scores_rejected"))
    return 0.5 if chosen == rejected else float(chosen > rejected)


def _score(row: SourceRow, name: str) -> float:
    value = _single(field(row, name))
    return float(number_field(row._replace(values={**row.values, name: value}), name))


def _scores(row: SourceRow) -> list[float]:
    values = field(row, "scores")
    if isinstance(values, list):
        row = row._replace(values={**row.values, "scores": [_single(value) for value in values]})
    return [float(value) for value in list_field(row, "scores", int | float, of="numbers")]


def _single(value: Any) -> Any:
    """The item of a list of one: models with one output write each score as such a list."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def figures(path: Path) -> Iterator[Figures]:
    """Results on the pairs of RewardBench; the overall score where all subsets are there."""
    rows = read_pair_results(path)
    wanted = [subset for group in SECTIONS.values() for subset in group]
    absent = [subset for subset in wanted if subset not in rows.subsets]
    subsets = [
        percentage(
            subset,
            [hit for hit, of in zip(rows.correct, rows.subsets, strict=True) if of == subset],
        )
        for subset in dict.fromkeys(rows.subsets)
    ]
    if absent or len(subsets) > len(wanted):
        yield Figures(
            "RewardBench",
            tuple(subsets),
            (_partial(absent, sorted(set(rows.subsets) - set(wanted))),),
        )
        return
    board = reward_bench_v1(rows.correct, rows.subsets, samples=SAMPLES)
    yield Figures("RewardBench", (board.overall, *board.sections.values(), *subsets))


def figures_2(path: Path) -> Iterator[Figures]:
    """Results on RewardBench 2; the overall score where all subsets are there."""
    rows = read_item_results(path)
    absent = sorted(set(V2_SUBSETS) - set(rows.scores) - ({"Ties"} if rows.ties else set()))
    more = sorted(set(rows.scores) - set(V2_SUBSETS))
    if rows.ties is not None and not absent and not more:
        board = reward_bench_v2(rows.scores, *rows.ties, samples=SAMPLES)
        yield Figures("RewardBench 2", (board.overall, *board.subsets.values()))
        return
    subsets = [percentage(subset, best_of(scores)) for subset, scores in rows.scores.items()]
    if rows.ties is not None:
        subsets.append(ties_score(*rows.ties, samples=SAMPLES))
    yield Figures("RewardBench 2", tuple(subsets), (_partial(absent, more),))


def _partial(absent: Sequence[str], more: Sequence[str]) -> str:
    parts = [f"without {', '.join(absent)}"] if absent else []
    parts += [f"with {', '.join(more)}, of no section"] if more else []
    return f"no overall score: {' and '.join(parts)}"
