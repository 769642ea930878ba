"""Warnings of the known ways in which rounds go wrong, each with the round and its numbers."""

from collections.abc import Collection, Sequence
from functools import partial

from prefine.records import MetricValue
from prefine.rounds.figures import INITIAL, RoundFigures

GROWN, COLLAPSED = 0.25, 0.25
"""The share by which answers are longer, or less diverse, than the initial policy's, from which it
is a warning; the whole interval has to lie beyond it. Ours.
"""


def warnings_of(figures: Sequence[RoundFigures], gone: Collection[int] = ()) -> list[str]:
    """Return the warnings about rounds, in their order, the most serious first; each kind once.

    A kind of warning names the first round that calls for it.

    Args:
        figures: Of the rounds that have ended, in order.
        gone: The numbers of those whose model was deleted (`rounds.keep_models`).
    """
    found: list[str] = []
    for check in (partial(_exploited, gone=gone), _worse, _grown, _collapsed):
        said = (check(one) for one in figures)
        found += [text for text in said if text is not None][:1]
    return found


def _exploited(one: RoundFigures, *, gone: Collection[int]) -> str | None:
    """Gold, or a second judge, says that a round is worse than the best one before it."""
    best = "the initial policy" if one.best_before == INITIAL else f"round {one.best_before}"
    back = f"Go back to {best}"
    if one.best_before in gone:
        back = (
            f"The model of {best} was not kept; walk again in another --run-dir with "
            "rounds.keep_models: best to have it"
        )
    if one.gold_over_best is not None:
        if _above(one.gold_over_best) < 0:
            return (
                f"The judge is being exploited: by gold, round {one.round} is worse than {best}, "
                f"by {_text(one.gold_over_best, 3)}. {back}; more rounds "
                "against this judge make answers that please it, not better answers."
            )
        return None
    rate = _judged(one)
    if one.second_judge and rate is not None and _above(rate) < 50:
        return (
            "The judge of the training is being exploited: by the judge of the evaluation, round "
            f"{one.round} wins {_text(rate, 1)} % against {best}. {back}."
        )
    return None


def _worse(one: RoundFigures) -> str | None:
    """The judge that rounds are trained on says itself that one is worse than the best before."""
    rate = _judged(one)
    if rate is None or one.second_judge or _above(rate) >= 50:
        return None
    best = "the initial policy" if one.best_before == INITIAL else f"round {one.best_before}"
    return (
        f"Round {one.round} is worse than {best} by the judge itself: it wins {_text(rate, 1)} %. "
        "Lower train.learning_rate or train.epochs, or stop at the best round (rounds.stop)."
    )


def _grown(one: RoundFigures) -> str | None:
    change, before = one.length_change, one.length_initial
    if change is None or before is None or _below(change) <= GROWN * before.value:
        return None
    return (
        f"Answers grow: in round {one.round} they are longer than the initial policy's by "
        f"{_text(change, 0)} of {before.value:.0f} characters. Look whether the judge prefers "
        "length; pair.length_penalty and a length-normalised loss hold it."
    )


def _collapsed(one: RoundFigures) -> str | None:
    change, before = one.diversity_change, one.diversity_initial
    if change is None or before is None or _above(change) >= -COLLAPSED * before.value:
        return None
    return (
        f"Diversity collapses: in round {one.round} two answers to a prompt differ less than the "
        f"initial policy's, by {_text(change, 2)} of {before.value:.2f}. Later rounds will "
        "have little to choose from; train less, or with a higher beta or a budget."
    )


def _judged(one: RoundFigures) -> MetricValue | None:
    return next((c.win_rate for c in one.over_best if c.role == "judge"), None)


def _below(value: MetricValue) -> float:
    """The lower end of the interval; minus infinity without one, which decides nothing."""
    return float("-inf") if value.interval is None else value.interval[0]


def _above(value: MetricValue) -> float:
    """The upper end of the interval; infinity without one."""
    return float("inf") if value.interval is None else value.interval[1]


def _text(value: MetricValue, decimals: int) -> str:
    assert value.interval is not None, "without one nothing is warned of"
    low, high = value.interval
    return f"{value.value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
