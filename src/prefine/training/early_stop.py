"""Alarms of over-optimised likelihoods on held-out answers, and the end of training on them."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from prefine.config.training import EarlyStopConfig
from prefine.errors import DataError, NumericsError
from prefine.metrics.rewards.likelihood_indicators import IndicatorReading, Watch, watch

Alarm = Literal["collapse", "diffusion", "turn"]
_ALARMS: tuple[Alarm, ...] = ("collapse", "diffusion", "turn")
_COUNT = "readings_on."


class EarlyStop:
    """Reads the alarms of over-optimisation, see `likelihood_indicators.watch`, and stops on them.

    An alarm stops training when it has been on at `patience` readings in a row. The first reading
    only starts the averages, so the earliest stop is at reading number `patience` + 1. If several
    alarms are due, the first one of the settings wins.

    Args:
        settings: The section `early_stop`.
        probes: What the readings are of, for messages.
    """

    def __init__(self, settings: EarlyStopConfig, *, probes: str = "pairs") -> None:
        self._settings, self._probes = settings, probes
        self._watch: Watch | None = None
        self._readings_on = dict.fromkeys(_ALARMS, 0)

    @property
    def stopped_by(self) -> Alarm | None:
        """The alarm that is due; a stopped training stays stopped when it is resumed."""
        return next(
            (
                alarm
                for alarm in self._settings.alarms
                if self._readings_on[alarm] >= self._settings.patience
            ),
            None,
        )

    @property
    def alarms(self) -> dict[Alarm, bool]:
        """The alarms that are on at the newest reading, whether or not they stop training."""
        return {alarm: count > 0 for alarm, count in self._readings_on.items()}

    def read(self, row: Any) -> None:
        """Take in an evaluation row of the probes.

        Raises:
            DataError: It has no margin.
            NumericsError: A figure is not finite.
        """
        if row.margin is None:
            raise DataError(
                "train.early_stop: all held-out answers have the same label, so there is no "
                "margin to watch; hold out answers of both labels, or take early_stop out"
            )
        self.update(IndicatorReading(row.top_entropy_renormalised, row.top_mass, row.margin))

    def update(self, reading: IndicatorReading) -> None:
        """Take in one more reading of the same probes.

        Raises:
            NumericsError: The reading is not finite.
        """
        if bad := [name for name, value in reading._asdict().items() if not math.isfinite(value)]:
            raise NumericsError(
                f"evaluation during training: {', '.join(bad)} of the probe {self._probes} is not "
                "finite; lower the learning rate, or go back to an earlier checkpoint"
            )
        now = self._watch = watch(
            self._watch,
            reading,
            keep=self._settings.keep,
            entropy_fall=self._settings.entropy_fall,
            mass_fall=self._settings.mass_fall,
        )
        for alarm, count in self._readings_on.items():
            self._readings_on[alarm] = count + 1 if getattr(now, alarm) else 0

    def state_dict(self) -> dict[str, float]:
        """Everything it remembers, as numbers for a checkpoint; empty before the first reading."""
        if self._watch is None:
            return {}
        counts = {_COUNT + alarm: count for alarm, count in self._readings_on.items()}
        return {name: float(value) for name, value in {**vars(self._watch), **counts}.items()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Resume from a state; an empty one is the start."""
        self._watch = None
        if state:
            # An older checkpoint does not know where the entropy began: it may turn from now on.
            older = {"first_entropy": state["highest_entropy"], "turn": 0.0}
            known = {**older, **state}
            values: dict[str, Any] = {field.name: known[field.name] for field in fields(Watch)}
            values |= {alarm: bool(values[alarm]) for alarm in _ALARMS}
            self._watch = Watch(**values)
        self._readings_on = {alarm: int(state.get(_COUNT + alarm, 0)) for alarm in _ALARMS}
