"""What a selector is: a pure function from one prompt's ranking to pairs of completion ids."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from prefine.ranking.base import Guarantee

F = TypeVar("F", bound=Callable[..., "list[Choice]"])


class Choice(NamedTuple):
    """One selected pair, by completion id."""

    chosen: str
    rejected: str


def selector(*, needs: set[Guarantee]) -> Callable[[F], F]:
    """Declare which guarantees of a strategy a selector needs, where it is written."""

    def attach(function: F) -> F:
        function.needs = frozenset(needs)  # type: ignore[attr-defined]
        return function

    return attach
