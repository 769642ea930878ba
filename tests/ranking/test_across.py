"""Who meets whom across prompts, and what a judge's answers decide."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.pairing.judged_across import NO_VERDICT, TIED, Decided, decided
from prefine.ranking.across import ContestantIds, Meet, Meeting, loser_of, meetings
from prefine.records import Comparison, DuelRecord, Judgment, Ranking

KINDS: tuple[Meet, ...] = ("best_vs_loser", "best_vs_best", "loser_vs_loser")


def ranking(number: int, **fields: Any) -> Ranking:
    known = {"champion": f"best{number}", "worst": f"worst{number}"} | fields
    ids = (f"best{number}", f"middle{number}", f"worst{number}")
    return Ranking(prompt_id=f"p{number}", strategy="s", completions=ids, **known)


def found(count: int, per_prompt: int, *meet: Meet, seed: int = 0) -> list[Meeting]:
    rankings = [ranking(n) for n in range(count)]
    return meetings(rankings, meet=meet or KINDS, per_prompt=per_prompt, seed=seed)


@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 3))
def test_every_prompt_meets_others_and_no_two_answers_meet_twice(
    count: int, per_prompt: int, seed: int
) -> None:
    made = found(count, per_prompt, seed=seed)
    assert len(made) <= count * per_prompt
    assert {side.prompt for one in made for side in one[:2]} == {f"p{n}" for n in range(count)}
    assert all(one.first.prompt != one.second.prompt for one in made)
    pairs = {frozenset(one[:2]) for one in made}
    assert len(pairs) == len(made) == len({one.place for one in made})
    assert made == found(count, per_prompt, seed=seed)


def test_kinds_take_turns() -> None:
    for kind, sides in (
        ("best_vs_loser", ["best", "worst"]),
        ("best_vs_best", ["best", "best"]),
        ("loser_vs_loser", ["worst", "worst"]),
    ):
        for one in found(8, 1, kind):  # type: ignore[arg-type]
            assert sorted(side.completion.rstrip("0123456789") for side in one[:2]) == sides
    names = Counter(
        tuple(sorted(side.completion.rstrip("0123456789") for side in one[:2]))
        for one in found(9, 3)
    )
    assert names == {("best", "worst"): 9, ("best", "best"): 9, ("worst", "worst"): 9}


def test_a_new_prompt_changes_few_meetings() -> None:
    before = {frozenset(one[:2]) for one in found(40, 1, "best_vs_best")}
    after = {frozenset(one[:2]) for one in found(41, 1, "best_vs_best")}
    assert len(before - after) == 1
    assert len(after - before) == 2


def test_either_side_stands_first_as_often() -> None:
    first = [one.first.completion.startswith("best") for one in found(400, 1, "best_vs_loser")]
    assert 160 < sum(first) < 240


def test_the_loser_is_the_worst_that_is_known() -> None:
    duels = (
        DuelRecord(first="best0", second="middle0", p_first=0.9),
        DuelRecord(first="worst0", second="best0", p_first=None),
    )
    assert loser_of(ranking(0), seed=0) == "worst0"
    assert loser_of(ranking(0, worst=None, order=("best0", "worst0", "middle0")), seed=0) == (
        "middle0"
    )
    assert loser_of(ranking(0, worst=None, scores=(2.0, -1.0, 0.0)), seed=0) == "middle0"
    assert loser_of(ranking(0, worst=None, duels=duels), seed=0) == "middle0", (
        "worst0 has no verdict"
    )
    assert loser_of(ranking(0, worst=None), seed=0) is None


def test_a_prompt_without_what_its_turn_needs_is_passed_over() -> None:
    rankings = [ranking(0), ranking(1, worst=None), ranking(2, champion=None)]
    made = meetings(rankings, meet=["best_vs_best"], per_prompt=2, seed=0)
    assert [frozenset(one[:2]) for one in made] == [
        frozenset({ContestantIds("p0", "best0"), ContestantIds("p1", "best1")})
    ]
    assert meetings(rankings[:1], meet=KINDS, per_prompt=3, seed=0) == []


def judgment(first: str, second: str, p_first: float | None) -> Judgment:
    comparison = Comparison(
        prompt_id=first[0], first=first, second=second, second_prompt_id=second[0]
    )
    error = "busy" if p_first is None else None
    return Judgment(comparison=comparison, judge="j", p_first=p_first, error=error)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([("a1", "b1", 0.75)], [("a", "a1", "b", "b1", 0.75)]),
        ([("a1", "b1", 0.25)], [("b", "b1", "a", "a1", 0.75)]),
        ([("a1", "b1", 1.0), ("b1", "a1", 0.5)], [("a", "a1", "b", "b1", 0.75)]),
        ([("a1", "b1", 1.0), ("b1", "a1", 1.0)], TIED),
        ([("a1", "b1", None)], NO_VERDICT),
        ([("a1", "b1", 1.0), ("b1", "a1", None)], NO_VERDICT),
        ([("b1", "a1", None), ("a1", "b1", 1.0)], NO_VERDICT),
    ],
)
def test_what_the_answers_decide(said: Any, expected: Any) -> None:
    dropped: Counter[str] = Counter()
    result = decided([judgment(*one) for one in said], dropped)
    if isinstance(expected, str):
        assert (result, dropped) == ([], {expected: 1})
    else:
        assert (result, dropped) == ([Decided(*one) for one in expected], {})


def test_a_comparison_within_a_prompt_is_written_as_ever() -> None:
    within = Comparison(prompt_id="p", first="a", second="b")
    assert within.model_dump() == {"prompt_id": "p", "first": "a", "second": "b"}
    across = Comparison(prompt_id="p", first="a", second="b", second_prompt_id="q")
    assert across.swapped().model_dump() == {
        "prompt_id": "q",
        "first": "b",
        "second": "a",
        "second_prompt_id": "p",
    }
    assert across.swapped().swapped() == across
    assert Comparison.model_validate(across.model_dump()) == across
