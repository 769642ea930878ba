"""The figures of one model or judge, and those that all files of verdicts have."""

from collections.abc import Sequence
from typing import NamedTuple

from prefine.metrics.judges.verdicts import order_agreement, slot_preference, verdict_rates
from prefine.records import MetricValue

SAMPLES = 1000
"""Bootstrap samples of every figure."""


class Figures(NamedTuple):
    """The metrics of one model or judge.

    Attributes:
        of: Its name.
        metrics: Its metrics.
        notes: Warnings and counts to read beside them.
    """

    of: str
    metrics: tuple[MetricValue, ...]
    notes: tuple[str, ...] = ()


def habits(
    of: str,
    p_one: Sequence[float | None],
    p_one_swapped: Sequence[float | None],
    *,
    prompt_ids: Sequence[str] | None = None,
) -> Figures:
    """The habits of a judge that was asked in both orders; P(answer 1 is better) in both."""
    groups = prompt_ids if prompt_ids is not None else [str(place) for place in range(len(p_one))]
    rates = verdict_rates([*p_one, *p_one_swapped], samples=SAMPLES, prompt_ids=[*groups, *groups])
    metrics: list[MetricValue] = []
    notes = []
    try:
        for measure in (order_agreement, slot_preference):
            metrics += measure(p_one, p_one_swapped, samples=SAMPLES, prompt_ids=prompt_ids)
    except ValueError as error:
        notes.append(f"no agreement of orders: {error}")
    return Figures(of, (*metrics, *filter(None, rates)), tuple(notes))
