"""The language between a strategy and whoever answers it.

A strategy is a generator. It yields a round of asks (duels or ratings, completions by index), is
sent one answer per ask, in order (P(first is better), a rating, or None for a failed call), and
returns its outcome. It does no IO and knows no model, so the same code runs against an API, a
journal or a simulator.
"""

import functools
import inspect
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

from prefine.errors import ConfigError

Guarantee = Literal["best", "worst", "order", "scores", "last_loser"]
AskKind = Literal["duels", "ratings"]


class Duel(NamedTuple):
    """Ask for P(first is better than second), shown in this order."""

    first: int
    second: int

    def swapped(self) -> "Duel":
        """Return the same two in the other order."""
        return Duel(self.second, self.first)


class Rate(NamedTuple):
    """Ask for a score of one completion."""

    completion: int


@dataclass(frozen=True)
class Outcome:
    """The result of a strategy, completions by index; a field that it does not guarantee is None.

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


def _no_ratings(m: int) -> int:
    """The ratings of a strategy that only duels."""
    return 0


@dataclass(frozen=True)
class StrategyFacts:
    """The declared properties of a strategy, known before it runs.

    Attributes:
        guarantees: The fields that its outcome has when every call was answered.
        max_asks: The most calls, as a function of the number of completions and, by keyword, of the
            strategy's options.
        rounds: The most rounds, likewise.
        asks: A judge that only compares cannot serve a strategy that asks for ratings.
        max_ratings: How many of `max_asks` are ratings, likewise; the others are duels.
    """

    guarantees: frozenset[Guarantee]
    max_asks: Callable[..., int]
    rounds: Callable[..., int]
    asks: frozenset[AskKind] = frozenset({"duels"})
    max_ratings: Callable[..., int] = _no_ratings


S = TypeVar("S", bound=Callable[..., Strategy])


def strategy(
    *,
    guarantees: set[Guarantee],
    max_asks: Callable[..., int],
    rounds: Callable[..., int],
    asks: Iterable[AskKind] = ("duels",),
    max_ratings: Callable[..., int] | None = None,
) -> Callable[[S], S]:
    """Declare a function as a strategy: attach its facts, and refuse fewer than two completions.

    The refusal comes when the function is called, also if it is a generator function.

    Args:
        guarantees: What its outcome always has, when every call is answered.
        max_asks: The most calls for m completions; takes m, and by keyword those of the strategy's
            options that matter.
        rounds: The most rounds, likewise.
        asks: What it asks for.
        max_ratings: How many of `max_asks` are ratings, likewise; required where it asks for duels
            and for ratings.

    Raises:
        TypeError: It asks for duels and for ratings, and does not say how many are ratings.
    """
    kinds = frozenset(asks)
    if max_ratings is None and len(kinds) > 1:
        raise TypeError(
            "a strategy that asks for duels and for ratings declares max_ratings=…, too"
        )
    ratings = max_ratings or (max_asks if "ratings" in kinds else _no_ratings)

    def attach(function: S) -> S:
        @functools.wraps(function)
        def checked(*args: Any, **options: Any) -> Strategy:
            completions = args[0] if args else options.get("num_completions", 2)
            if completions < 2:
                raise ValueError(
                    f"{function.__name__} needs at least 2 completions, got {completions}"
                )
            return function(*args, **options)

        checked.facts = StrategyFacts(  # type: ignore[attr-defined]
            frozenset(guarantees),
            _with_all_options(max_asks, function),
            _with_all_options(rounds, function),
            kinds,
            _with_all_options(ratings, function),
        )
        return cast(S, checked)

    return attach


def _with_all_options(
    count: Callable[..., int], function: Callable[..., Strategy]
) -> Callable[..., int]:
    """Let a count take all options of its strategy; it is passed those that it names."""
    known = inspect.signature(function).parameters.keys()
    named = inspect.signature(count).parameters.keys()

    def counted(m: int, **options: object) -> int:
        if unknown := options.keys() - known:
            raise TypeError(f"{function.__name__} takes no {', '.join(sorted(unknown))}")
        return count(m, **{name: value for name, value in options.items() if name in named})

    return counted


def facts_of(function: Callable[..., Strategy]) -> StrategyFacts:
    """Return the facts attached by `strategy`.

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
    """Return the most duels that a strategy with a limit asks for: m (m - 1), or fewer.

    Raises:
        ValueError: The limit is too small for everyone but one to lose.
    """
    if limit is not None and limit < m - 1:
        raise ValueError(
            f"{name}'s limit must be at least {m - 1} for {m} completions, got {limit}"
        )
    return min(default if limit is None else limit, m * (m - 1))
