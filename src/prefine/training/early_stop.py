"""Stopping when the probes say that likelihood is over-optimised."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal

from prefine.errors import NumericsError
from prefine.metrics.rewards.likelihood_indicators import IndicatorReading, Watch, watch

Alarm = Literal["collapse", "diffusion"]
ALARMS: tuple[Alarm, ...] = ("collapse", "diffusion")

_COUNT = "readings_on."


class EarlyStop:
    """Decides after each reading whether training should stop; see `likelihood_indicators.watch` for the alarms.

    An alarm stops training when it has been on at `patience` readings in a row. The first reading
    only starts the averages, so the earliest stop is at reading number `patience` + 1.

    Args:
        alarms: Which alarms stop it, the first one winning where several are due.
        patience: Readings in a row, at least 1.
        keep: How much of a moving average each reading keeps, in [0, 1).
        entropy_fall: Share of its height by which H_k may fall, in [0, 1].
        mass_fall: The same of mass_k, in [0, 1].

    Raises:
        ValueError: No alarm, one that does not exist, or a patience below 1.
    """

    def __init__(
        self,
        alarms: tuple[Alarm, ...] = ALARMS,
        *,
        patience: int = 2,
        keep: float = 0.9,
        entropy_fall: float = 0.2,
        mass_fall: float = 0.05,
    ) -> None:
        if not alarms or not set(alarms) <= set(ALARMS):
            raise ValueError(f"alarms must be some of {', '.join(ALARMS)}; got {alarms!r}")
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self._alarms, self._patience = alarms, patience
        self._keep, self._entropy_fall, self._mass_fall = keep, entropy_fall, mass_fall
        self._watch: Watch | None = None
        self._on = dict.fromkeys(ALARMS, 0)

    @property
    def watch(self) -> Watch | None:
        """Averages, heights and alarms after the last reading; None before the first."""
        return self._watch

    @property
    def stopped_by(self) -> Alarm | None:
        """The alarm that is due, also after `load_state_dict`: a training that was stopped stays so when resumed."""
        return next((alarm for alarm in self._alarms if self._on[alarm] >= self._patience), None)

    def update(self, reading: IndicatorReading) -> Alarm | None:
        """Take in one more reading of the same probes.

        Returns: The alarm that stops training, or None.

        Raises:
            NumericsError: The reading is not finite.
            ValueError: `keep`, `entropy_fall` or `mass_fall` are out of range.
        """
        if bad := [
            name for name, value in reading._asdict().items() if not abs(value) < float("inf")
        ]:
            raise NumericsError(
                f"evaluation during training: {', '.join(bad)} of the probe pairs is not finite; "
                "lower the learning rate, or go back to an earlier checkpoint"
            )
        self._watch = watch(
            self._watch,
            reading,
            keep=self._keep,
            entropy_fall=self._entropy_fall,
            mass_fall=self._mass_fall,
        )
        now = {"collapse": self._watch.collapse, "diffusion": self._watch.diffusion}
        self._on = {alarm: self._on[alarm] + 1 if now[alarm] else 0 for alarm in ALARMS}
        return self.stopped_by

    def state_dict(self) -> dict[str, float]:
        """All that it remembers, as numbers for a checkpoint; empty before the first reading."""
        if self._watch is None:
            return {}
        return {name: float(value) for name, value in vars(self._watch).items()} | {
            _COUNT + alarm: float(count) for alarm, count in self._on.items()
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state; an empty one is the start."""
        if not state:
            self._watch, self._on = None, dict.fromkeys(ALARMS, 0)
            return
        averages = {
            field.name: state[field.name] for field in fields(Watch) if field.name not in ALARMS
        }
        self._watch = Watch(
            **averages, collapse=bool(state["collapse"]), diffusion=bool(state["diffusion"])
        )
        self._on = {alarm: int(state[_COUNT + alarm]) for alarm in ALARMS}
