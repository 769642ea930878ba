"""Which tokens of two answers differ."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.losses.token_diff import difference_marks

ids = st.lists(st.integers(0, 5), max_size=12)
drawn = settings(max_examples=200, derandomize=True, database=None, deadline=None)


@pytest.mark.parametrize(
    ("chosen", "rejected", "marks"),
    [
        ([1, 2, 3], [1, 2, 3], ([0, 0, 0], [0, 0, 0])),
        # Replaced: marked on both sides.
        ([1, 2, 3], [1, 9, 3], ([0, 1, 0], [0, 1, 0])),
        ([1, 7, 8, 3], [1, 9, 3], ([0, 1, 1, 0], [0, 1, 0])),
        # Only in chosen, only in rejected.
        ([1, 2, 3, 4], [1, 2, 4], ([0, 0, 1, 0], [0, 0, 0])),
        ([1, 2, 4], [1, 2, 3, 4], ([0, 0, 0], [0, 0, 1, 0])),
        ([1, 2], [3, 4, 5], ([1, 1], [1, 1, 1])),
        ([], [3, 4], ([], [1, 1])),
        ([3, 4], [], ([1, 1], [])),
        ([], [], ([], [])),
        # Two places at once.
        ([5, 1, 2, 3, 6], [1, 2, 7, 3], ([1, 0, 0, 0, 1], [0, 0, 1, 0])),
    ],
)
def test_known_answers(
    chosen: list[int], rejected: list[int], marks: tuple[list[int], list[int]]
) -> None:
    assert difference_marks(chosen, rejected) == marks


def test_frequent_tokens_are_compared_as_well() -> None:
    # SequenceMatcher by itself leaves out what makes up more than 1 % of a long sequence.
    rejected = [1, 2] * 150
    assert difference_marks([3, *rejected], rejected) == ([1] + [0] * 300, [0] * 300)


@drawn
@given(chosen=ids)
def test_equal_answers_have_no_marks(chosen: list[int]) -> None:
    assert difference_marks(chosen, list(chosen)) == ([0] * len(chosen), [0] * len(chosen))


@drawn
@given(chosen=ids, rejected=ids)
def test_what_is_not_marked_is_the_same_sequence_on_both_sides(
    chosen: list[int], rejected: list[int]
) -> None:
    marks = difference_marks(chosen, rejected)
    common = [
        [token for token, mark in zip(answer, own, strict=True) if not mark]
        for answer, own in zip((chosen, rejected), marks, strict=True)
    ]
    assert common[0] == common[1]
    assert set(marks[0] + marks[1]) <= {0, 1}
