"""The language between a strategy and whoever answers it.

A strategy is a generator. It yields a round of asks (duels or ratings, completions by index), is sent one
answer per ask, in order (P(first is better), a rating, or None for a failed call), and returns its outcome.
It does no IO and knows no model, so the same code runs against an API, a journal or a simulator.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from prefine.errors import ConfigError

Guarantee = Literal["best", "worst", "order", "scores", "last_loser"]


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

    `order` is best first; `scores` has one value per completion.
    """

    champion: int | None = None
    worst: int | None = None
    last_loser: int | None = None
    order: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None
    standard_errors: tuple[float, ...] | None = None
    cyclic_triads: int | None = None


Ask: TypeAlias = Duel | Rate
Answers: TypeAlias = list[float | None]
Strategy: TypeAlias = Generator[list[Ask], Answers, Outcome]
OrderPolicy: TypeAlias = Generator[list[Ask], Answers, bool | None]


@dataclass(frozen=True)
class StrategyFacts:
    """What is known of a strategy before it runs.

    `max_asks` and `rounds` are functions of the number of completions and of the strategy's options, given as
    keyword arguments (the same ones that the strategy takes).
    """

    guarantees: frozenset[Guarantee]
    max_asks: Callable[..., int]
    rounds: Callable[..., int]


S = TypeVar("S", bound=Callable[..., Strategy])


def strategy(
    *, guarantees: set[Guarantee], max_asks: Callable[..., int], rounds: Callable[..., int]
) -> Callable[[S], S]:
    """Attach a strategy's facts to its function, where it is written."""

    def attach(function: S) -> S:
        function.facts = StrategyFacts(frozenset(guarantees), max_asks, rounds)  # type: ignore[attr-defined]
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
            f"rank.strategy.name: {function} does not state its facts; decorate it with prefine.ranking.base.strategy"
        )
    return facts
