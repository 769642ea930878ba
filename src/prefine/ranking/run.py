"""Running many strategies side by side."""

import math
from collections.abc import Callable, Generator, Mapping

from prefine.ranking.protocol import Answers, Ask, Duel, Outcome, Strategy


def rounds(
    strategies: Mapping[str, Strategy],
) -> Generator[list[tuple[str, Ask]], Answers, dict[str, Outcome]]:
    """Advance strategies together, round by round, as one generator.

    It yields the asks of all strategies that are still running, each with its key, in the order of
    `strategies`; is sent one answer per ask, in the same order; and returns the outcomes by key.

    Args:
        strategies: Fresh strategies by key, such as a prompt's id.

    Raises:
        ValueError: The number of answers is wrong, or one is no probability (a duel) or no finite
            number (a rating).
    """
    outcomes: dict[str, Outcome] = {}
    waiting = {
        key: step
        for key, s in strategies.items()
        if (step := _advance(key, s, None, outcomes)) is not None
    }
    while waiting:
        asks = [(key, ask) for key, round_ in waiting.items() for ask in round_]
        answers = yield asks
        if len(answers) != len(asks):
            raise ValueError(f"{len(asks)} asks, but {len(answers)} answers")
        for (key, ask), value in zip(asks, answers, strict=True):
            _check(key, ask, value)
        start = 0
        still_waiting: dict[str, list[Ask]] = {}
        for key, round_ in waiting.items():
            step = _advance(key, strategies[key], answers[start : start + len(round_)], outcomes)
            start += len(round_)
            if step is not None:
                still_waiting[key] = step
        waiting = still_waiting
    return {key: outcomes[key] for key in strategies}


def drive(
    strategies: Mapping[str, Strategy], answer: Callable[[list[tuple[str, Ask]]], Answers]
) -> dict[str, Outcome]:
    """The outcome of each strategy, by key; all of them advance together, round by round.

    Args:
        strategies: Fresh strategies by key, such as a prompt's id.
        answer: Called once per round with the asks of all strategies that are still running, each
            with its key, in the order of `strategies`; returns one answer per ask, in the same
            order.

    Raises:
        ValueError: The number of answers is wrong, or one is no probability (a duel) or no finite
            number (a rating).
    """
    running = rounds(strategies)
    try:
        asks = next(running)
        while True:
            asks = running.send(answer(asks))
    except StopIteration as end:
        outcomes: dict[str, Outcome] = end.value
        return outcomes


def _advance(
    key: str, strategy: Strategy, answers: Answers | None, outcomes: dict[str, Outcome]
) -> list[Ask] | None:
    """The strategy's next round; or None when it has finished, its outcome being in `outcomes`."""
    try:
        return next(strategy) if answers is None else strategy.send(answers)
    except StopIteration as end:
        outcomes[key] = end.value
        return None


def _check(key: str, ask: Ask, value: float | None) -> None:
    # Every comparison with NaN is false, so without this a NaN would silently be a vote for the
    # champion.
    if value is not None and not (
        0 <= value <= 1 if isinstance(ask, Duel) else math.isfinite(value)
    ):
        raise ValueError(f"{key}: {ask} was answered by {value}")
