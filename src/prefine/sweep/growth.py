"""Win rates over the share of the data: the curve they grow along, and where it ends."""

import json
from collections.abc import Sequence

from pydantic import JsonValue

from prefine.config.sweep import Setting
from prefine.metrics.statistics.values import Array
from prefine.metrics.sweeps.saturation import LEAST_RUNS, LEAST_SIZES, saturation
from prefine.records import Record

FRACTION = "pair.fraction"


class Growth(Record):
    """The curve limit - factor * n^-power through win rates [%]; see `saturation`.

    It is of settings that differ in the share of the data alone; `others` are their other
    values. An end of the interval is None where there is no end.
    """

    others: dict[str, JsonValue]
    limit: float
    factor: float
    power: float
    interval: tuple[float | None, float | None]

    @property
    def identified(self) -> bool:
        """True if the results bound the limit on both sides."""
        return None not in self.interval

    def at(self, size: float) -> float:
        """The win rate that the curve has with so many items [%]."""
        return float(self.limit - self.factor * size**-self.power)


def growths(settings: Sequence[Setting], means: Array, sizes: Array) -> list[Growth]:
    """A curve for each group of settings that differ in the share of the data alone.

    Args:
        settings: The K settings.
        means: Mean score of each trial [K, S], in [0, 1].
        sizes: Number of items that each trial was trained on [K, S].
    """
    groups: dict[str, list[int]] = {}
    for index, setting in enumerate(settings):
        if FRACTION in setting:
            groups.setdefault(json.dumps(_others(setting), sort_keys=True), []).append(index)
    found = []
    for members in groups.values():
        x, y = sizes[members].ravel(), 100 * means[members].ravel()
        if len(set(x.tolist())) < LEAST_SIZES or len(x) < LEAST_RUNS:
            continue
        curve = saturation(x, y)
        low, high = (end if abs(end) < float("inf") else None for end in curve.interval)
        found.append(
            Growth(
                others=_others(settings[members[0]]),
                limit=curve.limit,
                factor=curve.factor,
                power=curve.power,
                interval=(low, high),
            )
        )
    return found


def is_of(growth: Growth, values: Setting) -> bool:
    """Return True if the curve goes through the win rate of a setting with these values."""
    return FRACTION in values and _others(values) == growth.others


def _others(setting: Setting) -> dict[str, JsonValue]:
    return {path: value for path, value in setting.items() if path != FRACTION}
