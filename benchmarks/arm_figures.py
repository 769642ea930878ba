"""Wins of trials over the initial model as their lines keep them, and the figures of them."""

from collections.abc import Mapping, Sequence

from prefine.metrics.sweeps.seeds import mean_over_seeds
from prefine.records import MetricValue


def wins_of(gains: Mapping[str, float]) -> str:
    """A digit for each prompt, in the order of their ids: 0 lost, 1 tied, 2 won."""
    return "".join("012"[(gain > 0) - (gain < 0) + 1] for _, gain in sorted(gains.items()))


def shares(wins: str) -> list[float]:
    """The wins as numbers, a tie counting half."""
    return [int(one) / 2 for one in wins]


def win_rate(wins: Sequence[Sequence[float]]) -> str:
    """The mean over seeds and prompts [%] with its interval."""
    rate = mean_over_seeds("win rate", wins, scale=100)
    return f"gold win rate {rate.value:.1f} % {_interval(rate)}"


def difference(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> str:
    """Second minus first [points], paired by seed and prompt, with its interval."""
    table = [
        [b - a for a, b in zip(ours, theirs, strict=True)]
        for ours, theirs in zip(first, second, strict=True)
    ]
    change = mean_over_seeds("difference", table, scale=100)
    return f"{change.value:+.1f} points {_interval(change)}"


def _interval(metric: MetricValue) -> str:
    return "" if metric.interval is None else "[{:.1f}, {:.1f}]".format(*metric.interval)
