"""The language between a strategy and whoever answers it.

A strategy is a generator. It yields a round of asks (duels or ratings, completions by index), is
sent one answer per ask, in order (P(first is better), a rating, or None for a failed call), and
returns its outcome. It does no IO and knows no model, so the same code runs against an API, a
journal or a simulator.
"""

import inspect
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from prefine.errors import ConfigError

Guarantee = Literal["best", "worst", "order", "scores", "last_loser"]
AskKind = Literal["duels", "ratings"]


class Duel(NamedTuple):
    """Ask for P(first is better than second), shown in this order."""

    first: int
    second: int


class Rate(NamedTuple):
    """Ask for a score of one completion."""

    completion: int


@dataclass(frozen=True)
class Outcome:
    """What a strategy found, completions by index. What it does not guarantee is None.

    `order` is best first; `scores` has one value per completion, and `score_unit` is "log_odds"
    where the sigmoid of a gap is P(better).
    """

    champion: int | None = None
    worst: int | None = None
    last_loser: int | None = None
    order: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None
    standard_errors: tuple[float, ...] | None = None
    score_unit: Literal["log_odds"] | None = None
    cyclic_triads: int | None = None


Ask: TypeAlias = Duel | Rate
Answers: TypeAlias = list[float | None]
Strategy: TypeAlias = Generator[list[Ask], Answers, Outcome]
OrderPolicy: TypeAlias = Generator[list[Ask], Answers, bool | None]


def _none(m: int) -> int:
    """The ratings of a strategy that only duels."""
    return 0


def _told_what_it_takes(
    count: Callable[..., int], of: Callable[..., Strategy]
) -> Callable[..., int]:
    """The same function, called with all of the strategy's options; it is passed those that it names."""
    options, taken = (
        inspect.signature(of).parameters.keys(),
        inspect.signature(count).parameters.keys(),
    )

    def counted(m: int, **given: object) -> int:
        if unknown := given.keys() - options:
            raise TypeError(f"{of.__name__} takes no {', '.join(sorted(unknown))}")
        return count(m, **{name: value for name, value in given.items() if name in taken})

    return counted


@dataclass(frozen=True)
class StrategyFacts:
    """What is known of a strategy before it runs.

    `max_asks`, `max_ratings` and `rounds` are functions of the number of completions and of the
    strategy's options, given as keyword arguments (the same ones that the strategy takes). `asks`
    says what it asks for: a judge that only compares cannot serve a strategy that asks for ratings.
    `max_ratings` is how many of `max_asks` are ratings; the others are duels.
    """

    guarantees: frozenset[Guarantee]
    max_asks: Callable[..., int]
    rounds: Callable[..., int]
    asks: frozenset[AskKind] = frozenset({"duels"})
    max_ratings: Callable[..., int] = _none


S = TypeVar("S", bound=Callable[..., Strategy])


def strategy(
    *,
    guarantees: set[Guarantee],
    max_asks: Callable[..., int],
    rounds: Callable[..., int],
    asks: Iterable[AskKind] = ("duels",),
    max_ratings: Callable[..., int] | None = None,
) -> Callable[[S], S]:
    """Attach a strategy's facts to its function, where it is written.

    Args:
        guarantees: What its outcome always has, when every call is answered.
        max_asks: The most calls for m completions; takes m, and by keyword those of the strategy's
            options that matter.
        rounds: The most rounds, likewise.
        asks: What it asks for.
        max_ratings: How many of `max_asks` are ratings, likewise; where it asks for duels and for
            ratings.

    Raises:
        TypeError: It asks for duels and for ratings, and does not say how many are ratings.
    """
    kinds = frozenset(asks)
    if max_ratings is None and len(kinds) > 1:
        raise TypeError(
            "a strategy that asks for duels and for ratings declares max_ratings=…, too"
        )
    ratings = max_ratings or (max_asks if "ratings" in kinds else _none)

    def attach(function: S) -> S:
        counts = [_told_what_it_takes(count, function) for count in (max_asks, rounds, ratings)]
        facts = StrategyFacts(frozenset(guarantees), counts[0], counts[1], kinds, counts[2])
        function.facts = facts  # type: ignore[attr-defined]
        return function

    return attach


def facts_of(function: Callable[..., Strategy]) -> StrategyFacts:
    """The facts attached by `strategy`.

    Raises:
        ConfigError: The function was not declared as a strategy.
    """
    facts = getattr(function, "facts", None)
    if not isinstance(facts, StrategyFacts):
        raise ConfigError(
            f"rank.strategy.name: {function} does not state its facts; decorate it with "
            "prefine.ranking.strategy"
        )
    return facts


def duel_limit(name: str, m: int, limit: int | None, *, default: int) -> int:
    """How many duels a strategy with a limit asks for at most: each of m (m - 1), at the most.

    Raises:
        ValueError: The limit is too small for everyone but one to lose.
    """
    if limit is not None and limit < m - 1:
        raise ValueError(
            f"{name}'s limit must be at least {m - 1} for {m} completions, got {limit}"
        )
    return min(default if limit is None else limit, m * (m - 1))
