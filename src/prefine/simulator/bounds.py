"""What the settings of a simulation may be, for whoever sets them: the Python API and the command."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import NamedTuple

from prefine.errors import ConfigError


class Bounds(NamedTuple):
    """From `low` to `high`, both allowed unless `above`, which leaves out `low`; `whole` numbers only."""

    low: float
    high: float = math.inf
    above: bool = False
    whole: bool = False

    def hold(self, value: object) -> bool:
        """Whether the value is a number within them."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number = float(value)
        # NaN is in no range.
        return (
            (self.low < number if self.above else self.low <= number)
            and number <= self.high
            and math.isfinite(number)
        )

    def __str__(self) -> str:
        kind = "a whole number " if self.whole else ""
        if self.high == math.inf:
            return f"{kind}{'above' if self.above else 'of at least' if self.whole else 'at least'} {self.low:g}"
        lower, upper = ("above", "and at most") if self.above else ("from", "to")
        return f"{kind}{lower} {self.low:g} {upper} {self.high:,}"


BOUNDS: Mapping[str, Bounds] = {
    "completions": Bounds(2, 128, whole=True),
    "accuracy": Bounds(0.5, 1, above=True),
    "first_slot_bias": Bounds(-10, 10),
    "order_noise": Bounds(0, 1),
    "duel": Bounds(0, above=True),
    "rating": Bounds(0, above=True),
    "worlds": Bounds(2, 1_000_000, whole=True),
    "seed": Bounds(0, whole=True),
    "max_calls": Bounds(0, above=True),
    "max_cost": Bounds(0, above=True),
    "processes": Bounds(1, whole=True),
}
"""By name: arguments of `simulate`, and attributes of `JudgeModel` and `Prices`."""


def check(name: str, value: object, *, where: str | None = None) -> None:
    """Nothing, if the value is allowed for this setting.

    Args:
        name: One of `BOUNDS`, or "verdicts".
        value: What was given.
        where: What the user calls it, such as an option of the command; by default the name.

    Raises:
        ConfigError: It is not; the message has the value and what is allowed.
    """
    if name == "verdicts":
        if value not in ("hard", "soft"):
            raise ConfigError(
                f"{where or name} {value}: choose hard (one of the two) or soft (a probability)"
            )
    elif not BOUNDS[name].hold(value):
        raise ConfigError(f"{where or name} {value}: must be {BOUNDS[name]}")
