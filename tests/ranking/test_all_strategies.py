"""What every strategy of the table promises: its guarantees, its limits, and that it ends
whatever it is answered.
"""

import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.config.components import TABLES, lookup
from prefine.ranking.protocol import Ask, Duel, Outcome, Rate, StrategyFacts, facts_of

# Options without a default, by strategy; a strategy should rather have vetted settings.
REQUIRED: dict[str, dict[str, Any]] = {}
FIELDS = {
    "best": "champion",
    "worst": "worst",
    "order": "order",
    "scores": "scores",
    "last_loser": "last_loser",
}
BIASES = (-1.0, 0.0, 1.0)


class Case(NamedTuple):
    """A strategy of the table under some of its options."""

    name: str
    options: dict[str, Any]

    @property
    def facts(self) -> StrategyFacts:
        return facts_of(lookup("strategy", self.name, where="test"))

    def play(self, m: int, answer: Callable[[Ask], float | None]) -> "Game":
        """Run it to its end, checking every ask."""
        strategy = lookup("strategy", self.name, where="test")(m, **self.options)
        asks: list[Ask] = []
        rounds = 0
        answers: list[float | None] | None = None
        while True:
            try:
                asked = next(strategy) if answers is None else strategy.send(answers)
            except StopIteration as end:
                return Game(end.value, asks, rounds)
            assert asked, "an empty round"
            asks += asked
            rounds += 1
            assert len(asks) <= self.facts.max_asks(m, **self.options)
            assert rounds <= self.facts.rounds(m, **self.options)
            for ask in asked:
                assert ("ratings" if isinstance(ask, Rate) else "duels") in self.facts.asks
                assert all(type(index) is int and 0 <= index < m for index in ask)
                assert len(set(ask)) == len(ask), "a duel with itself"
            answers = [answer(ask) for ask in asked]


class Game(NamedTuple):
    """What came out, and everything that was asked."""

    outcome: Outcome
    asks: list[Ask]
    rounds: int


def label(case: Case) -> str:
    """Its name in pytest's list."""
    return "-".join([case.name, *(f"{key}={value}" for key, value in case.options.items())])


def cases() -> Iterator[Case]:
    """Every strategy, with every choice of its options that are choices, and every kind of slot
    bias.
    """
    for name in TABLES["strategy"]:
        strategy = lookup("strategy", name, where="test")
        required = REQUIRED.get(name, {})
        parameters = inspect.signature(strategy).parameters
        hints = get_type_hints(strategy)
        variants: list[dict[str, Any]] = [required]
        for option in parameters:
            choices = BIASES if option == "first_slot_bias" else get_args(hints[option])
            if all(isinstance(choice, str | float) for choice in choices):
                variants = [
                    variant | {option: choice}
                    for variant in variants
                    for choice in choices or (None,)
                ]
                variants = [
                    {key: value for key, value in variant.items() if value is not None}
                    for variant in variants
                ]
        yield from (Case(name, variant) for variant in variants)


CASES = list(cases())
each_case = pytest.mark.parametrize("case", CASES, ids=label)
exact = pytest.mark.parametrize(
    "case", [case for case in CASES if "best" in case.facts.guarantees], ids=label
)
permutations = st.integers(2, 12).flatmap(lambda m: st.permutations(range(m)))


def noiseless(quality: list[int], p_better: float = 1.0) -> Callable[[Ask], float]:
    """A judge that knows the qualities and says so with P(better); its ratings are the
    qualities.
    """

    def answer(ask: Ask) -> float:
        if isinstance(ask, Rate):
            return float(quality[ask.completion])
        return p_better if quality[ask.first] > quality[ask.second] else 1 - p_better

    return answer


def check_lawful(case: Case, m: int, outcome: Outcome) -> None:
    """Nothing that is not guaranteed is set, and what is set goes together."""
    for guarantee, field in FIELDS.items():
        assert guarantee in case.facts.guarantees or getattr(outcome, field) is None, field
    assert outcome.standard_errors is None or outcome.scores is not None
    for values in (outcome.scores, outcome.standard_errors):
        assert values is None or (len(values) == m and np.isfinite(values).all())
    for one, other in (("champion", "worst"), ("champion", "last_loser")):
        found = getattr(outcome, one)
        assert found is None or found != getattr(outcome, other)
    assert all(
        getattr(outcome, f) in (None, *range(m)) for f in ("champion", "worst", "last_loser")
    )
    if outcome.order is not None:
        assert sorted(outcome.order) == list(range(m))
        assert outcome.champion in (None, outcome.order[0])
        assert outcome.worst in (None, outcome.order[-1])
        if outcome.scores is not None:
            assert all(
                outcome.scores[a] >= outcome.scores[b] - 1e-9 for a, b in pairwise(outcome.order)
            )


def check_whole(case: Case, m: int, outcome: Outcome) -> None:
    """Every answer arrived: all that is guaranteed is there."""
    check_lawful(case, m, outcome)
    for guarantee in case.facts.guarantees:
        assert getattr(outcome, FIELDS[guarantee]) is not None, guarantee


@pytest.mark.parametrize("name", TABLES["strategy"])
def test_facts_take_the_options_of_the_strategy(name: str) -> None:
    strategy = lookup("strategy", name, where="test")
    facts = facts_of(strategy)
    options = dict(list(inspect.signature(strategy).parameters.items())[1:])
    assert {p.kind for p in options.values()} <= {inspect.Parameter.KEYWORD_ONLY}
    without_default = {key for key, p in options.items() if p.default is p.empty}
    assert without_default == REQUIRED.get(name, {}).keys()
    defaults = REQUIRED.get(name, {}) | {
        key: p.default for key, p in options.items() if p.default is not p.empty
    }
    for function in (facts.max_asks, facts.rounds, facts.max_ratings):
        for m in range(2, 13):
            assert function(m, **defaults) == function(m, **REQUIRED.get(name, {}))
        with pytest.raises(TypeError, match=f"{name} takes no nonsense"):
            function(8, nonsense=1)
    assert facts.guarantees <= FIELDS.keys()
    assert facts.asks and facts.asks <= {"duels", "ratings"}


@pytest.mark.parametrize("name", TABLES["strategy"])
@pytest.mark.parametrize("m", [-1, 0, 1])
def test_fewer_than_two_completions_are_refused_at_the_call(name: str, m: int) -> None:
    with pytest.raises(ValueError, match=str(m)):
        lookup("strategy", name, where="test")(m, **REQUIRED.get(name, {}))


@exact
@settings(max_examples=40)
@given(quality=permutations, p_better=st.sampled_from((1.0, 0.6)))
def test_a_noiseless_judge_is_believed(case: Case, quality: list[int], p_better: float) -> None:
    m = len(quality)
    # A judge that is said to have a slot bias and does not show it in its soft verdicts is not
    # noiseless.
    p_better = 1.0 if case.options.get("first_slot_bias") else p_better
    outcome = case.play(m, noiseless(quality, p_better)).outcome
    check_whole(case, m, outcome)
    best_first = tuple(int(i) for i in np.argsort(quality)[::-1])
    assert outcome.champion == best_first[0]
    assert outcome.worst in (None, best_first[-1])
    assert outcome.order in (None, best_first)


@exact
@settings(max_examples=15)
@given(quality=permutations, data=st.data())
def test_permuting_the_completions_permutes_the_outcome(
    case: Case, quality: list[int], data: st.DataObject
) -> None:
    new_place = data.draw(st.permutations(range(len(quality))))
    shuffled = [0] * len(quality)
    for old, new in enumerate(new_place):
        shuffled[new] = quality[old]
    one = case.play(len(quality), noiseless(quality)).outcome
    other = case.play(len(quality), noiseless(shuffled)).outcome
    assert other.champion == new_place[one.champion]
    assert other.worst == (None if one.worst is None else new_place[one.worst])
    assert other.order == (None if one.order is None else tuple(new_place[i] for i in one.order))


@each_case
@pytest.mark.parametrize("verdict", [0.0, 0.5, 1.0])
def test_a_judge_that_always_says_the_same_ends(case: Case, verdict: float) -> None:
    for m in range(2, 13):
        check_whole(case, m, case.play(m, lambda ask: verdict).outcome)


@each_case
def test_a_cyclic_judge_ends(case: Case) -> None:
    for m in range(2, 13):

        def cyclic(ask: Ask, m: int = m) -> float:
            if isinstance(ask, Rate):
                return 1.0
            return float((ask.second - ask.first) % m <= m // 2)

        check_whole(case, m, case.play(m, cyclic).outcome)


@each_case
@pytest.mark.parametrize("favours", ["behind", "ahead", "second unless ahead"])
def test_an_adversary_ends(case: Case, favours: str) -> None:
    """The judge keeps the tournament open, or closes it as late as it can, by who has won more
    so far.
    """
    for m in range(2, 13):
        wins = [0] * m

        def answer(ask: Ask, wins: list[int] = wins) -> float:
            if isinstance(ask, Rate):
                return 0.0
            lead = wins[ask.first] - wins[ask.second]
            first = {"behind": lead < 0, "ahead": lead > 0, "second unless ahead": lead > 1}[
                favours
            ]
            wins[ask.first if first else ask.second] += 1
            return float(first)

        check_whole(case, m, case.play(m, answer).outcome)


@each_case
@settings(max_examples=40)
@given(m=st.integers(2, 12), seed=st.integers(0, 10**6), failing=st.sampled_from((0.0, 0.1, 0.6)))
def test_any_answers_end_lawfully(case: Case, m: int, seed: int, failing: float) -> None:
    rng = np.random.default_rng(seed)

    def answer(ask: Ask) -> float | None:
        if rng.random() < failing:
            return None
        return float(
            rng.normal()
            if isinstance(ask, Rate)
            else rng.choice([0.0, 0.3, 0.5, 0.8, 1.0, rng.random()])
        )

    outcome = case.play(m, answer).outcome
    if failing:
        check_lawful(case, m, outcome)
    else:
        check_whole(case, m, outcome)


@each_case
def test_nothing_answered_finds_nothing(case: Case) -> None:
    for m in (2, 3, 8):
        assert case.play(m, lambda ask: None).outcome == Outcome()


def test_every_strategy_has_its_cases() -> None:
    assert {case.name for case in CASES} == set(TABLES["strategy"])
    assert {"single", "both", "lazy"} <= {
        case.options.get("order") for case in CASES if case.name == "knockout"
    }
    assert Duel(0, 1) in Case("knockout", {}).play(2, noiseless([0, 1])).asks
