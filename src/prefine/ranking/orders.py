"""Order policies: in which order, and how often, a strategy shows the two completions of one duel.

A policy is a sub-generator, `won = yield from lazy(champion, challenger)`. It returns True when the
challenger wins and False when the champion stays. A tie is no win: the champion stays. It returns
None when failed calls leave the question open: the duel is missing data, so the champion stays but
nobody has lost.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from prefine.ranking.protocol import Answers, Ask, Duel, OrderPolicy

T = TypeVar("T")
Order = Literal["single", "both", "lazy"]
SingleOrBoth = Literal["single", "both"]
Slot = Literal["first", "second"]
Duels: TypeAlias = Callable[[int, int], OrderPolicy]
"""A duel of champion and challenger, by index."""


class Policy(Protocol):
    """One duel between two completions, by index; `favoured` is the slot that the judge favours."""

    def __call__(self, champion: int, challenger: int, *, favoured: Slot = "first") -> OrderPolicy:
        """True: the challenger wins; False: the champion stays; None: no verdict."""
        ...


def favoured_slot(first_slot_bias: float) -> Slot:
    """The slot that a judge with this bias [logit] favours; the first when it favours neither."""
    return "first" if first_slot_bias >= 0 else "second"


def single(champion: int, challenger: int, *, favoured: Slot = "first") -> OrderPolicy:
    """Ask once; the champion is shown first to challengers of odd index, else second.

    The slot follows from the challenger's index alone, never from who is champion or how it got
    there. So a scan shows its champion first in every other duel, and a judge's slot preference
    helps champions and challengers equally often.

    Args:
        champion: Index of the one that stays unless it is beaten.
        challenger: Index of the other one.
        favoured: Not used: one order cannot be spent on the side that the judge favours without
            favouring one player.
    """
    return (
        yield from _ask(champion, challenger, champion_in="first" if challenger % 2 else "second")
    )


def both(champion: int, challenger: int, *, favoured: Slot = "first") -> OrderPolicy:
    """Ask both orders in one round; the challenger wins only if both of them say so.

    One order that does not go to the challenger decides, even if the other one failed. None: one
    order failed and the other one, if any, went to the challenger.

    Args:
        champion: Index of the one that stays unless it is beaten.
        challenger: Index of the other one.
        favoured: Not used: both orders are asked whatever they say.
    """
    p_champion_first, p_challenger_first = yield [
        Duel(champion, challenger),
        Duel(challenger, champion),
    ]
    return _unanimous(
        _challenger_wins(p_champion_first, champion_in="first"),
        _challenger_wins(p_challenger_first, champion_in="second"),
    )


def lazy(champion: int, challenger: int, *, favoured: Slot = "first") -> OrderPolicy:
    """Decide as `both` does, failed calls included, with the second order only where it matters.

    The first order shows the champion in the favoured slot, where it is likelier to stay and to
    settle the duel with one call. The second order follows if the first one went to the challenger
    or failed.

    Args:
        champion: Index of the one that stays unless it is beaten.
        challenger: Index of the other one.
        favoured: The slot that the judge favours.
    """
    one = yield from _ask(champion, challenger, champion_in=favoured)
    if one is False:
        return False
    other = yield from _ask(
        champion, challenger, champion_in="second" if favoured == "first" else "first"
    )
    return _unanimous(one, other)


class OrderFacts(NamedTuple):
    """A policy, and the most calls and rounds that one duel can take under it."""

    policy: Policy
    max_asks: int
    rounds: int


ORDERS: Mapping[Order, OrderFacts] = MappingProxyType(
    {
        "single": OrderFacts(single, 1, 1),
        "both": OrderFacts(both, 2, 1),
        "lazy": OrderFacts(lazy, 2, 2),
    }
)


def balanced(completions: int, order: Order, first_slot_bias: float) -> Duels:
    """The duels of a tournament under an order policy; `single` deals out its slots evenly.

    Asked once, a duel shows first whom fewer duels have shown first so far; where it is the same
    number, the champion to challengers of odd index. Somebody who has won from the worse slot is
    likely the better one, and would otherwise stand there again as often as not, which costs a
    knockout some of its champions.

    Args:
        completions: How many there are.
        order: The order policy.
        first_slot_bias: The judge's known preference for the first slot [logit]; only its sign
            matters here.
    """
    if order != "single":
        return partial(ORDERS[order].policy, favoured=favoured_slot(first_slot_bias))
    times_first = [0] * completions

    def duel(champion: int, challenger: int) -> OrderPolicy:
        lead = times_first[champion] - times_first[challenger] or (
            0.5 if challenger % 2 == 0 else -0.5
        )
        times_first[champion if lead < 0 else challenger] += 1
        return _ask(champion, challenger, champion_in="first" if lead < 0 else "second")

    return duel


def in_orders(duels: Sequence[Duel], order: str) -> list[Duel]:
    """The duels as they are if each is asked once ("single"); else in one order, then the other."""
    swapped = [] if order == "single" else [duel.swapped() for duel in duels]
    return [*duels, *swapped]


def together(
    steps: Sequence[Generator[list[Ask], Answers, T]],
) -> Generator[list[Ask], Answers, list[T]]:
    """Run several sub-generators in lock step, all in one round; return their results in order.

    Args:
        steps: Such as the order policies of duels that do not depend on each other. One that needs
            fewer rounds than the others waits for them.
    """
    found: dict[int, T] = {}
    running: list[tuple[int, list[Ask]]] = []
    for number, step in enumerate(steps):
        try:
            running.append((number, next(step)))
        except StopIteration as end:
            found[number] = end.value
    while running:
        answers = yield [ask for _, asks in running for ask in asks]
        still_running: list[tuple[int, list[Ask]]] = []
        start = 0
        for number, asks in running:
            end_of_step = start + len(asks)
            try:
                still_running.append((number, steps[number].send(answers[start:end_of_step])))
            except StopIteration as end:
                found[number] = end.value
            start = end_of_step
        running = still_running
    return [found[number] for number in range(len(steps))]


def _ask(champion: int, challenger: int, *, champion_in: Slot) -> OrderPolicy:
    """Ask one order; whether its answer goes to the challenger."""
    shown = Duel(champion, challenger) if champion_in == "first" else Duel(challenger, champion)
    (p_first,) = yield [shown]
    return _challenger_wins(p_first, champion_in=champion_in)


def _challenger_wins(p_first: float | None, *, champion_in: Slot) -> bool | None:
    if p_first is None:
        return None
    return p_first < 0.5 if champion_in == "first" else p_first > 0.5


def _unanimous(one: bool | None, other: bool | None) -> bool | None:
    """Three-valued "and": a no decides, whatever is unknown."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True
