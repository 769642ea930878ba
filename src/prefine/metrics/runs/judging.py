"""Metrics of a run's judges: their agreement with gold, calibration, ties, cycles, length."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from prefine.metrics.judges import calibration, verdicts
from prefine.metrics.judges.agreement import rater_agreement
from prefine.metrics.protocol import Evidence, metric
from prefine.metrics.statistics.values import Array
from prefine.metrics.win_rates.win_rates import win_of
from prefine.records import Judgment, MetricValue


@metric("answers", "verdicts", "gold")
def judge_agreement(evidence: Evidence) -> list[MetricValue]:
    """The share of prompts on which judge (both orders averaged) and gold agree; Cohen's kappa."""
    p_after, truth, ids = _against_gold(evidence)
    found = rater_agreement(p_after, truth, prompt_ids=ids, **evidence.bootstrap)
    return [value for value in (found.agreement, found.kappa) if value is not None]


@metric("answers", "verdicts", "gold")
def judge_calibration(evidence: Evidence) -> list[MetricValue]:
    """The distance of the judge's probabilities from what gold says: calibration error, Brier."""
    p_after, truth, ids = _against_gold(evidence)
    known = ~np.isnan(p_after)
    p, outcome = p_after[known], truth[known]
    of = [id_ for id_, answered in zip(ids, known, strict=True) if answered]
    return [
        calibration.expected_calibration_error(p, outcome, prompt_ids=of, **evidence.bootstrap),
        calibration.brier_score(p, outcome, prompt_ids=of, **evidence.bootstrap),
    ]


@metric("judgments")
def verdict_rates(evidence: Evidence) -> list[MetricValue]:
    """The shares of ties and of failed judgments, and of verdicts for the first slot."""
    judgments = evidence.judgments
    p = np.array([one.p_first for one in judgments], dtype=np.float64)
    ids = [one.comparison.prompt_id for one in judgments]
    rates = verdicts.verdict_rates(p, prompt_ids=ids, **evidence.bootstrap)
    found = [rates.failures]
    if rates.ties is not None:
        known = ~np.isnan(p)
        of = [id_ for id_, answered in zip(ids, known, strict=True) if answered]
        first = verdicts.first_slot_rate(p[known], prompt_ids=of, **evidence.bootstrap)
        ranking_name = {"name": "ranking_first_slot_rate"}
        found = [rates.ties, rates.failures, first.model_copy(update=ranking_name)]
    return found


@metric("completions", "judgments")
def length_preference(evidence: Evidence) -> list[MetricValue]:
    """The share of judged comparisons whose longer answer wins, by characters."""
    lengths = {
        one.id: len(one.text) for _, completions in evidence.completions for one in completions
    }
    shown = [one.comparison for one in evidence.judgments]
    return [
        verdicts.length_preference(
            [one.p_first for one in evidence.judgments],
            [lengths[comparison.first] for comparison in shown],
            [lengths[comparison.second] for comparison in shown],
            prompt_ids=[comparison.prompt_id for comparison in shown],
            **evidence.bootstrap,
        )
    ]


@metric("judgments")
def cyclic_triads(evidence: Evidence) -> list[MetricValue]:
    """The share of triads of judged duels in which each answer loses to another one.

    Raises:
        ValueError: No triad was judged without a tie.
    """
    by_prompt: dict[str, list[Judgment]] = defaultdict(list)
    for one in evidence.judgments:
        by_prompt[one.comparison.prompt_id].append(one)
    tables = [_table(judgments) for judgments in by_prompt.values()]
    size = max(3, *(len(table) for table in tables))
    padded = np.full((len(tables), size, size), np.nan)
    for table, room in zip(tables, padded, strict=True):
        room[: len(table), : len(table)] = table
    rate = calibration.cyclic_triads(padded, **evidence.bootstrap).rate
    if rate is None:
        raise ValueError("no three answers to a prompt were all compared without a tie")
    return [rate]


def _table(judgments: Iterable[Judgment]) -> Array:
    """P(row is better than column) of a prompt's answers, the mean of both orders [M, M]."""
    places: dict[str, int] = {}
    said: dict[tuple[int, int], list[float]] = defaultdict(list)
    for one in judgments:
        ids = (one.comparison.first, one.comparison.second)
        first, second = (places.setdefault(id_, len(places)) for id_ in ids)
        if one.p_first is not None:
            said[first, second].append(one.p_first)
            said[second, first].append(1 - one.p_first)
    table = np.full((len(places), len(places)), np.nan)
    for place, values in said.items():
        table[place] = np.mean(values)
    return table


def _against_gold(evidence: Evidence) -> tuple[Array, Array, list[str]]:
    """P(after is better) by the judge [n], NaN without both verdicts; the same by gold; prompts."""
    said = {(one.comparison.first, one.comparison.second): one.p_first for one in evidence.verdicts}
    p_after, truth, ids = [], [], []
    for prompt, before, after in evidence.answers:
        forward, backward = said.get((after.id, before.id)), said.get((before.id, after.id))
        both = forward is not None and backward is not None
        p_after.append((forward + 1 - backward) / 2 if both else np.nan)  # type: ignore[operator]
        truth.append(win_of(evidence.gold[prompt.id]))
        ids.append(prompt.id)
    return np.array(p_after, dtype=np.float64), np.array(truth), ids
