"""The end of rounds before the last one: when they bring no gain any more."""

from collections.abc import Sequence

from prefine.config.rounds import StopConfig
from prefine.rounds.figures import RoundFigures

_NO_GAIN = 50.0


def stopped_by(figures: Sequence[RoundFigures], settings: StopConfig | None) -> str | None:
    """Return why no round follows the ones that have ended, in words; None if one may.

    Args:
        figures: Of the rounds that have ended, in order.
        settings: The section `rounds.stop`.
    """
    if settings is None or len(figures) < settings.no_gain:
        return None
    last = figures[-settings.no_gain :]
    if any(_gains(one) for one in last):
        return None
    rounds = "a round" if settings.no_gain == 1 else f"{settings.no_gain} rounds in a row"
    return (
        f"stopped after round {last[-1].round}: {rounds} without a judged win rate over the round "
        "before that is clear of 50 % (rounds.stop.no_gain)"
    )


def _gains(one: RoundFigures) -> bool:
    """Return True if a round is better than the one before by the judge, interval included."""
    rate = next((c.win_rate for c in one.over_previous if c.role == "judge"), None)
    return rate is not None and rate.interval is not None and rate.interval[0] > _NO_GAIN
