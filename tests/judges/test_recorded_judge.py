"""Recorded verdicts: the formula, where the grade is, and what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.errors import DataError
from prefine.judges.protocol import ComputedJudge
from prefine.judges.recorded import KNOWN_FIELDS, RecordedJudge
from prefine.records import Completion, Message, Prompt

PROMPT = Prompt.from_text("Say something.")
grades = st.floats(-1e300, 1e300) | st.integers(-(10**6), 10**6)


def graded(index: int, **metadata) -> Completion:
    message = Message(role="assistant", content=f"answer {index}")
    return Completion(
        id=f"c{index}",
        prompt_id=PROMPT.id,
        sample_index=index,
        message=message,
        model="m-7b",
        metadata=metadata,
    )


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_p_first_is_the_sigmoid_of_the_gap(temperature):
    judge = RecordedJudge(temperature=temperature)
    p = judge.compare(PROMPT, graded(0, score=4), graded(1, score=2.5)).p_first
    assert p == pytest.approx(1 / (1 + math.exp(-1.5 / temperature)))


@given(first=grades, second=grades, temperature=st.floats(1e-6, 1e6))
def test_swapping_gives_the_complement_and_only_equal_grades_tie(first, second, temperature):
    judge = RecordedJudge(field="g", temperature=temperature)
    one, other = graded(0, g=first), graded(1, g=second)
    p = judge.compare(PROMPT, one, other).p_first
    assert 0 <= p <= 1
    assert judge.compare(PROMPT, other, one).p_first == pytest.approx(1 - p, abs=1e-15)
    if first == second:
        assert p == 0.5


@pytest.mark.parametrize("field", KNOWN_FIELDS)
def test_the_one_known_field_is_found(field):
    judge = RecordedJudge()
    assert isinstance(judge, ComputedJudge)
    assert judge.first_slot_bias == 0
    pair = [graded(0, other=9, **{field: 1}), graded(1, other=0, **{field: 2})]
    judge.check(PROMPT, pair)
    assert judge.compare(PROMPT, *pair).p_first < 0.5


def test_no_known_field_or_two_are_refused_by_name():
    with pytest.raises(
        DataError,
        match=f"{PROMPT.id}.*preference, grade, score, rating, but none.*rank.judge.field",
    ):
        RecordedJudge().check(PROMPT, [graded(0, stars=1), graded(1, stars=2)])
    with pytest.raises(DataError, match="but grade and score are there"):
        RecordedJudge().check(PROMPT, [graded(0, score=1), graded(1, grade=2)])
    RecordedJudge(field="score").check(PROMPT, [graded(0, score=1, grade=3), graded(1, score=2)])


@pytest.mark.parametrize(
    "value",
    [None, "4", True, False, float("nan"), float("inf"), 10**400, [4], {"value": 4}],
    ids=lambda v: repr(v)[:9],
)
def test_what_is_no_finite_number_is_refused(value):
    bad = graded(3).model_copy(update={"metadata": {"grade": value}})
    with pytest.raises(DataError) as error:
        RecordedJudge(field="grade").check(PROMPT, [graded(0, grade=1), bad])
    for part in (
        PROMPT.id,
        "c3",
        "sample_index 3",
        "m-7b",
        "'grade'",
        repr(value)[:50],
        "rank.judge.field",
    ):
        assert part in str(error.value)


def test_a_missing_grade_is_refused():
    with pytest.raises(
        DataError,
        match=r"c1 \(sample_index 1, model 'm-7b'\) has no grade in metadata field 'score'",
    ):
        RecordedJudge().check(PROMPT, [graded(0, score=1), graded(1)])


def test_the_rating_is_the_grade():
    assert RecordedJudge().score(PROMPT, graded(0, rating=2.5)) == 2.5
    with pytest.raises(DataError, match="no grade in metadata field 'stars'"):
        RecordedJudge(field="stars").score(PROMPT, graded(0, rating=2.5))


def test_fingerprint_depends_on_every_setting():
    judges = [RecordedJudge(), RecordedJudge(field="score"), RecordedJudge(temperature=2.0)]
    assert len({judge.fingerprint for judge in judges}) == 3
