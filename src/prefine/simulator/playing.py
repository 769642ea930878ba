"""Strategies played against simulated worlds, one world after the other, and what came of each."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prefine.config.components import TABLES
from prefine.errors import ConfigError
from prefine.ranking.protocol import Duel, Outcome, Strategy
from prefine.simulator import rules
from prefine.simulator.gaps import GAPS
from prefine.simulator.rules import check_asks, check_outcome
from prefine.simulator.worlds import Array, JudgeModel, Worlds, draw_worlds

WORLDS_PER_CHUNK = 250
"""Worlds that are drawn, and held, together: a few MB at M = 32."""
_FULL_CHUNKS = (
    32  # up to so many completions; a chunk of more would take a core more than a few seconds
)


@dataclass(frozen=True)
class Contestant:
    """A strategy with its options, ready to be made anew for every world.

    Attributes:
        name: What the registry calls it.
        options: What was set, for people to read.
        make: The number of completions → the strategy.
        selectors: Names of `GAPS` that fit what it guarantees.
        max_asks: Calls that it says it needs at most; it is stopped at the first one more. None
            does not ask.
    """

    name: str
    options: tuple[tuple[str, object], ...]
    make: Callable[[int], Strategy]
    selectors: tuple[str, ...] = ()
    max_asks: int | None = None


@dataclass(frozen=True)
class SimulatedGames:
    """What came of W worlds: calls [W], ratings among them [W], rounds [W], regret [W] and gaps by selector [W].

    Regret is what the champion lacks in quality [sd]; where none is guaranteed, what the first of
    the order does. A gap is NaN where the selector would give no pair.
    """

    calls: Array
    ratings: Array
    rounds: Array
    regret: Array
    gaps: dict[str, Array]


def chunks_of(
    judge: JudgeModel, completions: int, worlds: int, seed: int
) -> Iterator[Callable[[], Worlds]]:
    """The worlds of a seed, drawn chunk by chunk when called for.

    Each chunk has its own random stream, so worlds do not depend on who draws them, on the
    strategies, or on how many more there are.
    """
    size = worlds_per_chunk(completions)
    for number, start in enumerate(range(0, worlds, size)):
        yield _Chunk(judge, completions, min(size, worlds - start), (seed, number))


def worlds_per_chunk(completions: int) -> int:
    """How many worlds are played between two steps of the progress; it depends on M alone, as worlds depend on it."""
    return max(1, WORLDS_PER_CHUNK * _FULL_CHUNKS**2 // max(completions, _FULL_CHUNKS) ** 2)


@dataclass(frozen=True)
class _Chunk:
    judge: JudgeModel
    completions: int
    count: int
    seed: tuple[int, int]

    def __call__(self) -> Worlds:
        # All of a chunk is drawn before it is cut, so that the last one begins like a full one.
        drawn = draw_worlds(
            self.judge,
            self.completions,
            worlds_per_chunk(self.completions),
            np.random.default_rng(self.seed),
        )
        return Worlds(
            drawn.quality[: self.count], drawn.p_first[: self.count], drawn.ratings[: self.count]
        )


def play(contestants: Sequence[Contestant], worlds: Worlds) -> list[SimulatedGames]:
    """Play every contestant in every world.

    Raises:
        ConfigError: A user's own strategy fails, breaks the rules of `play_one`, or names no
            champion and no order.
    """
    # Lists of Python floats: a strategy asks for one number at a time, which numpy is slow at.
    tables, ratings, qualities = (
        worlds.p_first.tolist(),
        worlds.ratings.tolist(),
        worlds.quality.tolist(),
    )
    played = []
    for contestant in contestants:
        gaps = [(name, GAPS[name]) for name in contestant.selectors]
        counts, regrets = [], []
        widths: dict[str, list[float | None]] = {name: [] for name, _ in gaps}
        for table, rated, quality in zip(tables, ratings, qualities, strict=True):
            outcome, leader, *count = _play(contestant, table, rated)
            counts.append(count)
            regrets.append(max(quality) - quality[leader])
            for name, gap in gaps:
                widths[name].append(gap(outcome, quality))
        calls, asked_ratings, rounds = np.array(counts, dtype=np.float64).T
        found = {name: np.array(values, dtype=np.float64) for name, values in widths.items()}
        played.append(SimulatedGames(calls, asked_ratings, rounds, np.array(regrets), found))
    return played


def _play(
    contestant: Contestant, table: Sequence[Sequence[float]], ratings: Sequence[float]
) -> tuple[Outcome, int, int, int, int]:
    """One world: the outcome, whom it takes for the best, and the counts of `play_one`."""
    try:
        outcome, calls, rated, rounds = play_one(
            contestant.make(len(ratings)), table, ratings, max_asks=contestant.max_asks
        )
        leader = (
            outcome.champion
            if outcome.champion is not None
            else outcome.order[0]
            if outcome.order
            else None
        )
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
    """What went wrong in somebody's strategy, and in which line of theirs."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename not in (__file__, rules.__file__)
    ]
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return f"{kind}{error}" + (
        f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    )


def play_one(
    strategy: Strategy,
    table: Sequence[Sequence[float]],
    ratings: Sequence[float],
    *,
    max_asks: int | None = None,
) -> tuple[Outcome, int, int, int]:
    """Answer one strategy from a table of P(first) [M][M] and ratings [M]: outcome, calls, ratings, rounds.

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
    """What came of all worlds, from what came of each chunk."""
    return SimulatedGames(
        calls=np.concatenate([part.calls for part in parts]),
        ratings=np.concatenate([part.ratings for part in parts]),
        rounds=np.concatenate([part.rounds for part in parts]),
        regret=np.concatenate([part.regret for part in parts]),
        gaps={name: np.concatenate([part.gaps[name] for part in parts]) for name in parts[0].gaps},
    )
