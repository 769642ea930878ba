"""Agreement of two raters, and kappa."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.judges.agreement import rater_agreement


def test_the_textbook_example() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: 70 % agreement, 50 % by chance."""
    one = [1.0] * 25 + [0.0] * 25
    other = [1.0] * 20 + [0.0] * 5 + [1.0] * 10 + [0.0] * 15
    found = rater_agreement(one, other)
    assert found.kappa is not None
    assert (found.agreement.value, found.agreement.n) == (pytest.approx(70), 50)
    assert (found.kappa.value, found.kappa.name, found.kappa.n) == (
        pytest.approx(0.4),
        "cohen_kappa",
        50,
    )
    # Fleiss, Cohen and Everitt's large-sample standard error is .127.
    assert found.kappa.standard_error == pytest.approx(0.127, abs=0.01)


def test_ties_are_a_choice_of_their_own_and_missing_ones_are_counted() -> None:
    found = rater_agreement([0.5, 1, 0, None, 0.9], [0.5, 0.6, 0.1, 1, None])
    assert (found.agreement.value, found.agreement.n, found.missing) == (100, 3, 2)
    assert found.kappa is not None and found.kappa.value == pytest.approx(1)


def test_verdict_2_is_not_no_verdict() -> None:
    """A judge that always contradicts the labels has kappa -1, whichever of the two answers it
    names.
    """
    labels = np.array([1, 2] * 10)
    found = rater_agreement(labels == 1, labels == 2)
    assert found.kappa is not None and found.kappa.value == pytest.approx(-1)


def test_no_kappa_of_a_single_choice() -> None:
    assert rater_agreement([1, 1, 1], [1, 1, 1]).kappa is None
    constant = rater_agreement([1, 1, 1, 1], [1, 0, 1, 0])
    assert constant.kappa is not None and constant.kappa.value == 0


@settings(max_examples=50, derandomize=True)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.4, 0.5, 1.0])] * 2), min_size=3, max_size=30))
def test_properties(rows: list) -> None:
    one, other = map(list, zip(*rows, strict=True))

    def kappa(one: list, other: list) -> float | None:
        value = rater_agreement(one, other, samples=2).kappa
        return None if value is None else value.value

    value = kappa(one, other)
    flipped = [[1 - p for p in column] for column in (one, other)]
    for again in (
        kappa(other, one),
        kappa(one[::-1], other[::-1]),
        kappa(*flipped),
        kappa(one * 2, other * 2),
    ):
        assert again == (None if value is None else pytest.approx(value))
    assert kappa(one, one) in (None, pytest.approx(1))


def test_prompts_are_resampled() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    prompts = np.repeat(np.arange(60), 8).astype(str)
    once = rater_agreement(one, other)
    copies = rater_agreement(np.repeat(one, 8), np.repeat(other, 8), prompt_ids=prompts)
    assert once.kappa is not None and copies.kappa is not None
    assert copies.kappa.value == pytest.approx(once.kappa.value)
    assert copies.kappa.standard_error == pytest.approx(once.kappa.standard_error, rel=0.1)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no pair has a verdict of both raters"):
        rater_agreement([None, 1], [1, None])
    with pytest.raises(ValueError, match="numbers of rows differ: 2 p_one, 1 p_one_other"):
        rater_agreement([1, 0], [1])
    assert rater_agreement([1, 0], [1, 0], prompt_ids=["p", "p"]).kappa.interval is None  # type: ignore[union-attr]
