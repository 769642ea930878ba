"""Strategies played in simulated worlds, one world after the other."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prefine.config.components import TABLES
from prefine.errors import ConfigError
from prefine.ranking.protocol import Ask, Duel, Outcome, Rate, Strategy
from prefine.simulator.gaps import GAPS
from prefine.simulator.worlds import Array, Worlds


@dataclass(frozen=True)
class Contestant:
    """A strategy with its options, made anew for every world.

    Attributes:
        name: As in a configuration.
        options: The options that were set, to print.
        make: Returns the strategy for a number of completions.
        selectors: Names of `GAPS` that fit its guarantees.
        max_asks: The most calls that it declares; one more is an error. None sets no limit.
        finds_best: It guarantees a champion; otherwise the first of its order stands in.
    """

    name: str
    options: tuple[tuple[str, object], ...]
    make: Callable[[int], Strategy]
    selectors: tuple[str, ...] = ()
    max_asks: int | None = None
    finds_best: bool = True


@dataclass(frozen=True)
class SimulatedGames:
    """The results of one strategy in W worlds.

    Attributes:
        calls: Duels and ratings [W].
        ratings: Ratings among them [W].
        rounds: [W].
        winner: Quality of the champion or, where none is guaranteed, of the first of the order; 0
            is the mean of all answers that could be sampled [W, sd].
        regret: Quality of the best minus that of the winner [W, sd].
        gaps: Quality of chosen minus rejected, by selector [W, sd]; NaN where it gives no pair.
    """

    calls: Array
    ratings: Array
    rounds: Array
    winner: Array
    regret: Array
    gaps: dict[str, Array]


def play(contestants: Sequence[Contestant], worlds: Worlds) -> list[SimulatedGames]:
    """Play every contestant in every world.

    Raises:
        ConfigError: A user's own strategy fails, breaks the rules of `play_one`, or names no
            champion and no order.
    """
    # Lists of Python floats: a strategy asks for one number at a time, which numpy is slow at.
    p_first, ratings = worlds.p_first.tolist(), worlds.ratings.tolist()
    qualities = worlds.quality.tolist()
    played = []
    for contestant in contestants:
        counts, winners, regrets = [], [], []
        gaps: dict[str, list[float | None]] = {name: [] for name in contestant.selectors}
        for table, rated, quality in zip(p_first, ratings, qualities, strict=True):
            outcome, leader, *count = _play(contestant, table, rated)
            counts.append(count)
            winners.append(quality[leader])
            regrets.append(max(quality) - quality[leader])
            for name, values in gaps.items():
                values.append(GAPS[name](outcome, quality))
        calls, asked_ratings, rounds = np.array(counts, dtype=np.float64).T
        found = {name: np.array(values, dtype=np.float64) for name, values in gaps.items()}
        qualities_found = np.array(winners), np.array(regrets)
        played.append(SimulatedGames(calls, asked_ratings, rounds, *qualities_found, found))
    return played


def _play(
    contestant: Contestant, table: Sequence[Sequence[float]], ratings: Sequence[float]
) -> tuple[Outcome, int, int, int, int]:
    """One world: the outcome, the index that it names best, and the counts of `play_one`."""
    try:
        outcome, calls, rated, rounds = play_one(
            contestant.make(len(ratings)), table, ratings, max_asks=contestant.max_asks
        )
        leader = outcome.champion
        if leader is None and outcome.order:
            leader = outcome.order[0]
        if leader is None:
            raise ValueError(
                "it found neither a champion nor an order, though every call was answered; there "
                "is nothing to compare"
            )
    except Exception as error:
        if contestant.name in TABLES["strategy"]:
            raise  # ours: a bug, whose traceback is wanted
        raise ConfigError(f"strategy {contestant.name!r}: {_reason(error)}") from error
    return outcome, leader, calls, rated, rounds


def _reason(error: Exception) -> str:
    """The error in somebody's strategy, and the line of theirs where it was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{kind}{error}{where}"


def play_one(
    strategy: Strategy,
    table: Sequence[Sequence[float]],
    ratings: Sequence[float],
    *,
    max_asks: int | None = None,
) -> tuple[Outcome, int, int, int]:
    """Answer one strategy from P(first) [M][M] and ratings [M].

    Returns: The outcome, and the number of calls, of ratings among them, and of rounds.

    Raises:
        ValueError: It asks for nothing, about what there is not, or more often than `max_asks`; or
            what it found is not about these completions.
    """
    calls = rated = rounds = 0
    try:
        asks = next(strategy)
        while True:
            check_asks(asks, len(table))
            rounds += 1
            calls += len(asks)
            if max_asks is not None and calls > max_asks:
                raise ValueError(
                    f"it asked {calls} times, and its max_asks says {max_asks} for {len(table)} "
                    "completions"
                )
            answers: list[float | None] = []
            for ask in asks:
                if type(ask) is Duel:
                    answers.append(table[ask[0]][ask[1]])
                else:
                    rated += 1
                    answers.append(ratings[ask[0]])
            asks = strategy.send(answers)
    except StopIteration as end:
        check_outcome(end.value, len(table))
        return end.value, calls, rated, rounds


def joined(parts: Sequence[SimulatedGames]) -> SimulatedGames:
    """The results in all worlds, from those in each chunk."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("calls", "ratings", "rounds", "winner", "regret")
    }
    gaps = {name: np.concatenate([part.gaps[name] for part in parts]) for name in parts[0].gaps}
    return SimulatedGames(**columns, gaps=gaps)


def check_asks(asks: Sequence[Ask], completions: int) -> None:
    """Raise ValueError unless a round asks something, and about these completions."""
    if not isinstance(asks, list | tuple) or not asks:
        raise ValueError(f"a round is a list of at least one Duel or Rate, got {asks!r}")
    for ask in asks:
        # A negative index would silently be somebody else.
        if type(ask) is Duel:
            first, second = ask
            if first == second or not (0 <= first < completions and 0 <= second < completions):
                raise ValueError(
                    f"{ask} is no duel of two of the completions 0 to {completions - 1}"
                )
        elif type(ask) is not Rate:
            raise ValueError(f"{ask!r} is neither a Duel nor a Rate")
        elif not 0 <= ask[0] < completions:
            raise ValueError(f"{ask} is none of the completions 0 to {completions - 1}")


def check_outcome(outcome: object, completions: int) -> None:
    """Raise ValueError, naming the field, unless an outcome is about these completions."""
    if not isinstance(outcome, Outcome):
        raise ValueError(f"it returned {outcome!r}, and not an Outcome")
    for name in ("champion", "worst", "last_loser"):
        index = getattr(outcome, name)
        if index is not None and not 0 <= index < completions:
            raise ValueError(
                f"its {name} {index} is none of the completions 0 to {completions - 1}"
            )
    if outcome.order is not None and sorted(outcome.order) != list(range(completions)):
        raise ValueError(
            f"its order {outcome.order} does not name each of {completions} completions once"
        )
    if outcome.scores is not None and len(outcome.scores) != completions:
        raise ValueError(
            f"its scores are {len(outcome.scores)}, and there are {completions} completions"
        )
