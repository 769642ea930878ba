"""What a reward model made of RewardBench: one row per item, with the outcome or the scores."""

from pathlib import Path
from typing import Any, NamedTuple

from prefine.data.layouts.protocol import SourceRow, show
from prefine.errors import DataError
from prefine.suites.reading import Once, field, number_field, rows_of, text_field
from prefine.suites.reward_bench import TIES, TiesScores, paired_ties


class PairResults(NamedTuple):
    """Of v1: whether chosen scored above rejected (1, 0, or .5 for equal scores) [n], and each pair's subset."""

    correct: list[float]
    subsets: list[str]


class ItemResults(NamedTuple):
    """Of v2: scores of each item by subset, the right answer first [n][4], and those of the Ties subset, if any."""

    scores: dict[str, list[list[float]]]
    ties: TiesScores | None


def read_pair_results(path: Path) -> PairResults:
    """Rows, or columns, with `subset` and `results` (1, 0 or .5), or `scores_chosen` and `scores_rejected`.

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
    """Rows with `subset`, `scores` (the right answers first), `num_correct`, and in the Ties subset `id`.

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
    value = field(row, name)
    # Models with one output write each score as a list of one.
    if isinstance(value, list) and len(value) == 1:
        row = row._replace(values={**row.values, name: value[0]})
    return float(number_field(row, name))


def _scores(row: SourceRow) -> list[float]:
    values: Any = field(row, "scores")
    if not isinstance(values, list) or not values:
        raise DataError(
            f"{row.where}: scores must be a list of numbers, one for each answer; got "
            f"{show(values)}"
        )
    # Models with one output write each score as a list of one.
    flat = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in values]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in flat):
        raise DataError(
            f"{row.where}: scores must be numbers, one for each answer; got {show(values)}"
        )
    return [float(value) for value in flat]
