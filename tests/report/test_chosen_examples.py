"""Which examples the report shows, and which of their words it marks."""

import pytest

from prefine.report.data import AnswerExample
from prefine.report.examples import changed_words, choose_examples


def example(name: str, p: float | None, before: float, after: float) -> AnswerExample:
    return AnswerExample(
        prompt_id=name,
        prompt=name,
        before="b",
        after="a",
        p_after=p,
        gold_before={"x": before},
        gold_after={"x": after},
    )


OUTCOMES = [
    example("small win", 0.6, 0.4, 0.5),
    example("large win", 0.9, 0.0, 1.0),
    example("tie", 0.5, 0.5, 0.5),
    example("large loss", 0.2, 1.0, 0.1),
    example("fooled judge", 0.95, 0.6, 0.5),
    example("small loss", 0.45, 0.6, 0.55),
]


def test_wins_losses_disagreements_and_random_ones_take_turns() -> None:
    found = choose_examples(OUTCOMES, 4, seed=0)
    assert [(one.why, one.prompt) for one in found[:3]] == [
        ("largest win", "large win"),
        ("largest loss", "large loss"),
        ("judge against gold", "fooled judge"),
    ]
    assert found[3].why == "random" and found[3].prompt in {"small win", "tie", "small loss"}


def test_the_same_seed_gives_the_same_and_none_is_shown_twice() -> None:
    found = choose_examples(OUTCOMES, 10, seed=3)
    assert found == choose_examples(OUTCOMES, 10, seed=3)
    assert sorted(one.prompt for one in found) == sorted(one.prompt for one in OUTCOMES)
    assert choose_examples(OUTCOMES, 0, seed=3) == ()
    assert choose_examples([], 5, seed=3) == ()


def test_without_gold_the_judge_decides_and_nothing_disagrees() -> None:
    plain = [one.model_copy(update={"gold_before": None, "gold_after": None}) for one in OUTCOMES]
    found = choose_examples(plain, 3, seed=0)
    assert [(one.why, one.prompt) for one in found[:2]] == [
        ("largest win", "fooled judge"),
        ("largest loss", "large loss"),
    ]
    assert found[2].why == "random"


def test_only_words_that_differ_are_marked() -> None:
    before, after = changed_words("the red cup is full .", "the blue cup is full .")
    assert before == [("the ", False), ("red", True), (" cup is full .", False)]
    assert after == [("the ", False), ("blue", True), (" cup is full .", False)]


@pytest.mark.parametrize(
    ("before", "after"), [("a b c d", "w x y z"), ("", "new words"), ("a " * 3000, "a b " * 2000)]
)
def test_what_shares_nothing_or_is_long_has_no_marks(before: str, after: str) -> None:
    assert changed_words(before, after) == ([(before, False)], [(after, False)])
