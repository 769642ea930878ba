"""Order policies: every combination of answers, who is shown where, and what a failed call does."""

from itertools import product

import pytest

from prefine.ranking.orders import (
    ORDERS,
    Policy,
    Slot,
    balanced,
    both,
    favoured_slot,
    lazy,
    single,
    together,
)
from prefine.ranking.protocol import Answers, Duel, OrderPolicy, Outcome, Strategy
from prefine.ranking.run import drive

ANSWERS = (0.0, 0.3, 0.5, 0.8, 1.0, None)
SLOTS: tuple[Slot, ...] = ("first", "second")


def play(policy: OrderPolicy, p_champion_first: float | None, p_challenger_first: float | None):
    """The result of a duel of champion 0 and challenger 1, and the asks that it took."""
    asked: list[Duel] = []
    results: list[bool | None] = []

    def duel() -> Strategy:
        results.append((yield from policy))
        return Outcome()

    def answer(asks) -> Answers:
        asked.extend(ask for _, ask in asks)
        return [p_champion_first if ask == Duel(0, 1) else p_challenger_first for _, ask in asks]

    drive({"duel": duel()}, answer)
    return results[0], asked


@pytest.mark.parametrize(
    ("p_champion_first", "p_challenger_first"), list(product(ANSWERS, ANSWERS))
)
def test_both_needs_both_orders_for_the_challenger(p_champion_first, p_challenger_first):
    won, asked = play(both(0, 1), p_champion_first, p_challenger_first)
    votes = [
        None if p_champion_first is None else p_champion_first < 0.5,
        None if p_challenger_first is None else p_challenger_first > 0.5,
    ]
    assert asked == [Duel(0, 1), Duel(1, 0)]
    assert won is (False if False in votes else None if None in votes else True)


@pytest.mark.parametrize("favoured", SLOTS)
@pytest.mark.parametrize(
    ("p_champion_first", "p_challenger_first"), list(product(ANSWERS, ANSWERS))
)
def test_lazy_decides_as_both_and_asks_again_only_if_open(
    p_champion_first, p_challenger_first, favoured
):
    expected, _ = play(both(0, 1), p_champion_first, p_challenger_first)
    won, asked = play(lazy(0, 1, favoured=favoured), p_champion_first, p_challenger_first)
    assert won is expected
    assert asked[0] == (Duel(0, 1) if favoured == "first" else Duel(1, 0))
    if favoured == "first":
        settled = p_champion_first is not None and p_champion_first >= 0.5
    else:
        settled = p_challenger_first is not None and p_challenger_first <= 0.5
    assert len(asked) == (1 if settled else 2)


@pytest.mark.parametrize(
    ("p_first", "champion", "challenger", "expected"),
    [
        (0.4, 0, 1, True),
        (0.6, 0, 1, False),
        (0.4, 0, 2, False),
        (0.6, 0, 2, True),
        (0.5, 0, 1, False),
        (0.5, 0, 2, False),
        (None, 0, 1, None),
    ],
)
def test_single_reads_one_order(p_first, champion, challenger, expected):
    policy = single(champion, challenger)
    (shown,) = next(policy)
    assert shown == (Duel(champion, challenger) if challenger % 2 else Duel(challenger, champion))
    with pytest.raises(StopIteration) as end:
        policy.send([p_first])
    assert end.value.value is expected


def test_single_shows_the_champion_first_every_other_time_whoever_it_is():
    first = [
        next(single(champion, challenger))[0][0] == champion
        for challenger in range(1, 9)
        for champion in [0]
    ]
    later = [
        next(single(challenger - 1, challenger))[0][0] == challenger - 1
        for challenger in range(1, 9)
    ]
    assert first == later == [True, False] * 4


@pytest.mark.parametrize(("bias", "slot"), [(0.7, "first"), (0.0, "first"), (-0.1, "second")])
def test_favoured_slot_follows_the_sign_of_the_bias(bias, slot):
    assert favoured_slot(bias) == slot


def test_table_names_the_policies():
    policies: dict[str, Policy] = {name: facts.policy for name, facts in ORDERS.items()}
    assert policies == {"single": single, "both": both, "lazy": lazy}


def test_together_runs_in_lock_step_and_keeps_the_order():
    rounds: list[list[Duel]] = []
    results: list[list[bool | None]] = []

    def duels() -> Strategy:
        results.append((yield from together([lazy(0, 1), both(2, 3), single(4, 5), lazy(6, 7)])))
        return Outcome()

    def answer(asks) -> Answers:
        rounds.append([ask for _, ask in asks])
        return [{0: 0.0, 1: 1.0, 4: None, 6: 0.9}.get(ask.first, 0.5) for _, ask in asks]

    drive({"a": duels()}, answer)
    assert rounds == [[Duel(0, 1), Duel(2, 3), Duel(3, 2), Duel(4, 5), Duel(6, 7)], [Duel(1, 0)]]
    assert results == [[True, False, None, False]]


def test_together_of_nothing_asks_nothing():
    with pytest.raises(StopIteration) as end:
        next(together([]))
    assert end.value.value == []


def test_balanced_duels_show_first_whom_they_have_shown_first_less_often():
    duel = balanced(4, "single", 0.0)
    asked = [next(duel(*pair)) for pair in ((0, 1), (0, 2), (0, 2), (1, 3), (1, 3))]
    # 0 is one ahead of 2, then level: challengers of even index come first. 1 and 3 take turns.
    assert asked == [[Duel(0, 1)], [Duel(2, 0)], [Duel(2, 0)], [Duel(1, 3)], [Duel(3, 1)]]


@pytest.mark.parametrize("order", ["both", "lazy"])
def test_balanced_leaves_the_other_orders_as_they_are(order):
    assert next(balanced(2, order, -1.0)(0, 1)) == next(
        ORDERS[order].policy(0, 1, favoured="second")
    )
