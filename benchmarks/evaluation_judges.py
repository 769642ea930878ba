"""LLMBar's recorded judges: published figures, slot preference, rating against comparing.

PREFINE_TEST_DATA=… python benchmarks/evaluation_judges.py
"""

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from line import Line
from prefine.metrics.judges.agreement import rater_agreement
from prefine.metrics.judges.calibration import cyclic_triads, expected_calibration_error
from prefine.metrics.judges.reward_bench import best_of, reward_bench_v1, weighted_subsets
from prefine.metrics.judges.verdicts import (
    labelled_accuracy,
    length_preference,
    order_agreement,
    slot_preference,
    verdict_rates,
)
from prefine.metrics.statistics.intervals import mean_value
from prefine.records import MetricValue
from prefine.suites.llmbar import read_instances

JUDGES = ("GPT-4", "ChatGPT", "Falcon")
ADVERSARIAL = ("Neighbor", "GPTInst", "GPTOut", "Manual")
SUBSETS = ("Natural", *ADVERSARIAL)
# What a judge was asked to do with both answers at once, and with one answer at a time, under the
# same prompt.
RATED = (
    ("Vanilla_NoRules", "Rating_NoRules"),
    ("Vanilla", "Rating"),
    ("Metrics", "Rating_Metrics"),
    ("Reference", "Rating_Reference"),
    ("Metrics_Reference", "Rating_Metrics_Reference"),
)
P_ONE = {0: None, 1: 1.0, 2: 0.0}


class Verdicts(NamedTuple):
    """Labels, P(answer 1 is better) in both orders, and ratings if there were any; by pair."""

    ids: list[int]
    labels: list[int]
    one: list[float | None]
    other: list[float | None]
    ratings: list[tuple[str | None, str | None]]


Recorded = dict[tuple[str, str, str], Verdicts]


def rows() -> Iterator[Line]:
    """All rows; those on recorded data only where it is."""
    data = Path(os.environ.get("PREFINE_TEST_DATA", ""))
    if (data / "llmbar").is_dir():
        recorded = _recorded(data / "llmbar")
        yield from published(data / "llmbar", recorded)
        yield from known(recorded)
        yield from habits(data / "llmbar", recorded)
        yield from rating_against_comparing(recorded)
    else:
        yield Line("LLMBar's recorded judges", "PREFINE_TEST_DATA is not set: not measured")
    yield from bad_input()


def published(data: Path, recorded: Recorded) -> Iterator[Line]:
    """Every accuracy and agreement that was published for the three judges."""
    with (data / "published_statistics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    worst: dict[str, float] = {}
    for row in table:
        found = recorded[row["dataset"], row["judge"], row["strategy"]]
        accuracy = labelled_accuracy(found.labels, found.one, found.other, samples=2)
        agreement = order_agreement(found.one, found.other, samples=2)
        for name, metric in (
            ("acc_orig", accuracy.original),
            ("acc_swap", accuracy.swapped),
            ("acc_avg", accuracy.mean),
            ("acc_both", accuracy.both),
            ("agree", agreement.all_pairs),
        ):
            worst[name] = max(worst.get(name, 0.0), abs(metric.value - float(row[f"pub_{name}"])))
    for name, gap in worst.items():
        figure = f"largest difference {gap:.1e} over {len(table)} rows, limit 1e-9"
        yield Line(f"LLMBar, published {name}", figure, gap <= 1e-9)


def known(recorded: Recorded) -> Iterator[Line]:
    """The figures of EVALUATION §3: plain comparing, without rules in the prompt."""
    for judge, natural, adversarial in (("GPT-4", 93.5, 73.1), ("ChatGPT", 79.0, 32.0)):
        found = _accuracy(recorded, judge, "Vanilla_NoRules")
        value, mean = found["Natural"].value, _adversarial(recorded, judge, "Vanilla_NoRules").value
        figure = f"{value:.1f} and {mean:.1f}, expected {natural} and {adversarial}"
        ok = round(value, 1) == natural and round(mean, 1) == adversarial
        yield Line(f"{judge}, Natural and adversarial accuracy", figure, ok)
    slots, agreement = _slots(recorded, "Falcon", "Vanilla_NoRules")
    figure = (
        f"pick_first {slots.pick_first.value / 100:.3f}, agreement "
        f"{agreement.all_pairs.value / 100:.3f}"
    )
    ok = (round(slots.pick_first.value, 1), round(agreement.all_pairs.value, 1)) == (76.7, 44.2)
    yield Line("Falcon, expected .767 and .442", figure, ok)


def habits(data: Path, recorded: Recorded) -> Iterator[Line]:
    """Slots, agreement, kappas, failures and length of the three judges, plain comparing."""
    pairs = {
        (pair.subset, int(str(pair.metadata["index"]))): pair
        for pair in read_instances(data / "llmbar.jsonl")
    }
    for judge in JUDGES:
        slots, agreement = _slots(recorded, judge, "Vanilla_NoRules")
        found = _joined(recorded, judge, "Vanilla_NoRules")
        yield Line(
            f"{judge}: first slot, both contradictions",
            f"pick_first {_short(slots.pick_first)}, first twice {_short(slots.first_twice)}, "
            f"second twice {_short(slots.second_twice)}",
        )
        yield Line(
            f"{judge}: agreement with and without None",
            f"{_short(agreement.all_pairs)} of {agreement.all_pairs.n}, "
            f"{_short(agreement.answered)} of {agreement.answered.n}",
        )
        labels = [1.0 if label == 1 else 0.0 for label in found.labels]
        kappas = [
            rater_agreement(one, other).kappa
            for one, other in ((found.one, labels), (found.other, labels), (found.one, found.other))
        ]
        shown = ", ".join("none" if kappa is None else f"{kappa.value:.3f}" for kappa in kappas)
        yield Line(f"{judge}: kappa with labels (two orders), of orders", shown)
        rates = verdict_rates([*found.one, *found.other])
        ties = "none" if rates.ties is None else f"{rates.ties.value:.2f} %"
        yield Line(
            f"{judge}: ties, failures",
            f"{ties}, {rates.failures.value:.2f} % of {rates.failures.n}",
        )
        sides = [
            pairs[subset, index]
            for subset in SUBSETS
            for index in recorded[subset, judge, "Vanilla_NoRules"].ids
        ]
        lengths = [[len(pair.one.text) for pair in sides], [len(pair.two.text) for pair in sides]]
        judged, truth = (
            length_preference(_mean_of_orders(found), *lengths),
            length_preference(labels, *lengths),
        )
        yield Line(
            f"{judge}: the longer answer wins, by the labels", f"{_short(judged)}, {_short(truth)}"
        )
    for one, two in (("GPT-4", "ChatGPT"), ("GPT-4", "Falcon"), ("ChatGPT", "Falcon")):
        sides_ = [_joined(recorded, judge, "Vanilla_NoRules") for judge in (one, two)]
        agreement_ = rater_agreement(*(_mean_of_orders(side) for side in sides_))
        kappa = "none" if agreement_.kappa is None else f"{agreement_.kappa.value:.3f}"
        figure = (
            f"agreement {_short(agreement_.agreement)}, kappa {kappa}, {agreement_.missing} missing"
        )
        yield Line(f"{one} and {two}, mean of both orders", figure)


def rating_against_comparing(recorded: Recorded) -> Iterator[Line]:
    """Accuracy of rating each answer minus accuracy of comparing, by subset and judge.

    LLMBar's records give equal ratings to the second slot in both orders, so that each counts half
    in the mean.
    """
    for judge in JUDGES:
        for comparing, rating in RATED:
            if ("Natural", judge, rating) not in recorded:
                continue
            parts, gaps, groups = [], [], []
            for subset in SUBSETS:
                pair, rated = recorded[subset, judge, comparing], recorded[subset, judge, rating]
                ours, theirs = _right(rated), _right(pair)
                gap = mean_value("gap", 100 * (ours - theirs), samples=2000, seed=0)
                low, high = gap.interval or (np.nan, np.nan)
                ties = sum(one is not None and one == other for one, other in rated.ratings)
                parts.append(
                    f"{subset} {100 * ours.mean():.1f} - {100 * theirs.mean():.1f} = "
                    f"{gap.value:+.1f} "
                    f"[{low:+.1f}, {high:+.1f}], {ties} equal"
                )
                if subset in ADVERSARIAL:
                    gaps.append((ours - theirs + 1) / 2)
                    groups += [subset] * len(ours)
            mean = weighted_subsets(
                "gap", np.concatenate(gaps), groups, dict.fromkeys(ADVERSARIAL, 1.0)
            )
            low, high = mean.interval or (np.nan, np.nan)
            for part in parts:
                yield Line(f"{judge}, {rating} - {comparing}"[:52], part)
            figure = f"{2 * mean.value - 100:+.1f} [{2 * low - 100:+.1f}, {2 * high - 100:+.1f}]"
            yield Line(f"{judge}, {rating}: adversarial mean"[:52], figure)


class Bad(NamedTuple):
    """A call that must be refused, and a word that the message must have."""

    what: str
    call: Callable[[], Any]
    word: str


def bad_input() -> Iterator[Line]:
    """Every kind of bad input: the message, or what is counted."""
    for bad in (
        Bad(
            "different numbers of pairs",
            lambda: labelled_accuracy([1, 2], [1.0, 0.0], [1.0]),
            "2 p_one, 1 p_one_swapped",
        ),
        Bad("a label that is none", lambda: labelled_accuracy([0], [1.0], [1.0]), "1 or 2"),
        Bad("a verdict that is none", lambda: labelled_accuracy([1], [2.0], [1.0]), "[0, 1]"),
        Bad("NaN probability", lambda: expected_calibration_error([np.nan], [1]), "must be finite"),
        Bad("NaN score", lambda: best_of([[1, np.nan]]), "must be finite"),
        Bad("mirrored cells disagree", lambda: cyclic_triads(np.full((3, 3), 0.9)), "add up to 1"),
        Bad("a subset is missing", lambda: reward_bench_v1([1.0], ["donotanswer"]), "no item of"),
        Bad("no pair", lambda: labelled_accuracy([], [], []), "no pair"),
    ):
        try:
            bad.call()
        except ValueError as error:
            yield Line(f"bad input: {bad.what}", str(error)[:90], bad.word in str(error))
        else:
            yield Line(f"bad input: {bad.what}", "accepted without a word", False)
    one = labelled_accuracy([1], [1.0], [0.0]).mean
    yield Line("bad input: one row", f"n = {one.n}, no interval", one.interval is None)
    failures = verdict_rates([None, 1.0, 0.5]).failures
    figure = f"{failures.value:.1f} % of {failures.n} counted as failures"
    yield Line("bad input: unparsed verdict", figure, failures.n == 3)


def _recorded(data: Path) -> Recorded:
    found: Recorded = {}
    for row in pq.read_table(data / "verdicts.parquet").to_pylist():
        entry = found.setdefault(
            (row["dataset"], row["judge"], row["strategy"]), Verdicts([], [], [], [], [])
        )
        entry.ids.append(row["index"])
        entry.labels.append(row["label"])
        entry.one.append(P_ONE[row["winner_orig"]])
        entry.other.append(P_ONE[row["winner_swap"]])
        entry.ratings.append((row["score_1"], row["score_2"]))
    return found


def _joined(recorded: Recorded, judge: str, strategy: str) -> Verdicts:
    parts = [recorded[subset, judge, strategy] for subset in SUBSETS]
    return Verdicts(*([entry for part in parts for entry in part[k]] for k in range(5)))


def _right(found: Verdicts) -> Any:
    labels = np.array([1.0 if label == 1 else 0.0 for label in found.labels])
    return sum(np.array(side, dtype=np.float64) == labels for side in (found.one, found.other)) / 2


def _accuracy(recorded: Recorded, judge: str, strategy: str) -> dict[str, MetricValue]:
    found = {}
    for subset in SUBSETS:
        entry = recorded[subset, judge, strategy]
        found[subset] = labelled_accuracy(entry.labels, entry.one, entry.other, samples=2).mean
    return found


def _adversarial(recorded: Recorded, judge: str, strategy: str) -> MetricValue:
    values = {subset: _right(recorded[subset, judge, strategy]) for subset in ADVERSARIAL}
    groups = [subset for subset, part in values.items() for _ in part]
    return weighted_subsets(
        "adversarial", np.concatenate([*values.values()]), groups, dict.fromkeys(ADVERSARIAL, 1.0)
    )


def _slots(recorded: Recorded, judge: str, strategy: str) -> tuple[Any, Any]:
    found = _joined(recorded, judge, strategy)
    return slot_preference(found.one, found.other), order_agreement(found.one, found.other)


def _mean_of_orders(found: Verdicts) -> Any:
    return np.mean([np.array(side, dtype=np.float64) for side in (found.one, found.other)], axis=0)


def _short(metric: MetricValue) -> str:
    low, high = metric.interval or (np.nan, np.nan)
    return f"{metric.value:.1f} % [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    for line in rows():
        print(line, flush=True)
