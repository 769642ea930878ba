"""Which tokens of two answers differ."""

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.config.components import bind
from prefine.errors import ConfigError
from prefine.losses.facts import differences_of
from prefine.losses.pairs.bmc import bmc
from prefine.losses.pairs.dpo import dpo
from prefine.losses.pairs.mixture import mixture
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


def fewest_edits(one: list[int], other: list[int]) -> int:
    """The Levenshtein distance by its definition."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        fewest_edits(one[1:], other) + 1,
        fewest_edits(one, other[1:]) + 1,
        fewest_edits(one[1:], other[1:]) + (one[0] != other[0]),
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "runs", "edits"),
    [
        # The longest run is kept, whatever has to be moved; fewest edits replace in place.
        ([1, 2, 3, 4], [2, 3, 5, 4], ([1, 0, 0, 0], [0, 0, 1, 0]), ([1, 0, 0, 0], [0, 0, 1, 0])),
        ([7, 8, 1, 2], [1, 2, 1, 8], ([1, 1, 0, 0], [0, 0, 1, 1]), ([1, 1, 0, 1], [1, 1, 0, 1])),
        ([1, 2, 3], [1, 9, 3], ([0, 1, 0], [0, 1, 0]), ([0, 1, 0], [0, 1, 0])),
        ([], [3, 4], ([], [1, 1]), ([], [1, 1])),
    ],
)
def test_longest_runs_and_fewest_edits(
    chosen: list[int],
    rejected: list[int],
    runs: tuple[list[int], list[int]],
    edits: tuple[list[int], list[int]],
) -> None:
    assert difference_marks(chosen, rejected, differences="difflib") == runs
    assert difference_marks(chosen, rejected, differences="levenshtein") == edits


short = st.lists(st.integers(0, 3), max_size=6)


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(chosen=short, rejected=short)
def test_an_alignment_has_as_many_edits_as_the_distance(
    chosen: list[int], rejected: list[int]
) -> None:
    marks = difference_marks(chosen, rejected, differences="levenshtein")
    kept = [
        [token for token, mark in zip(answer, own, strict=True) if not mark]
        for answer, own in zip((chosen, rejected), marks, strict=True)
    ]
    assert kept[0] == kept[1]
    # Between two tokens that are kept, the shorter gap is replaced and the rest added.
    gaps = ["".join(map(str, own)).split("0") for own in marks]
    edits = sum(max(map(len, both)) for both in zip(*gaps, strict=True))
    assert edits == fewest_edits(chosen, rejected)


def test_the_option_of_a_loss_decides_and_its_parts_agree() -> None:
    moved = partial(bmc, differences="levenshtein")
    assert differences_of(dpo) == differences_of(bmc) == "difflib"
    assert differences_of(partial(mixture, losses=(dpo, moved), weights=(1.0, 1.0))) == (
        "levenshtein"
    )
    parts = [{"name": "bmc"}, {"name": "bmc", "differences": "levenshtein"}]
    with pytest.raises(ConfigError, match="find differences in two ways"):
        bind("loss", "mixture", {"losses": parts, "weights": [1, 1]}, where="train.loss")
