"""Arena-Hard: weights of verdicts, means of v2.0, Bradley-Terry of v0.1."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.win_rates.arena_hard import (
    arena_hard_elo,
    arena_hard_scores,
    battles,
    expanded_battles,
)
from prefine.suites.arena_hard import read_battles

VERDICTS = ["A>>B", "A>B", "A=B", "B>A", "B>>A", None]
SWAPPED = dict(zip(VERDICTS, ["B>>A", "B>A", "A=B", "A>B", "A>>B", None], strict=True))


def test_weights_of_verdicts() -> None:
    rows = battles(["m"] * 7, list("abcdefg"), *zip(
        ("B>>A", "A>B"),   # 3 wins, 1 win
        ("A>>B", "A>B"),   # 3 losses, 1 win
        ("A=B", "B>>A"),   # a tie, 3 losses
        ("A<<B", "B<A"),   # 3 wins, 1 win
        ("B=A", "A=B"),
        (None, "A>B"),
        ("A>B", None),
    strict=True))  # fmt: skip
    assert rows.weights.tolist() == [4, 4, 4, 4, 2, 0, 0]
    assert rows.scores[:5] == pytest.approx([1, 0.25, 0.125, 1, 0.5])
    assert np.isnan(rows.scores[5:]).all()
    once = battles(["m"], ["a"], ["A>>B"], ["A>B"], strong_weight=1)
    assert (once.scores[0], once.weights[0]) == (0.5, 2)


def test_v2_is_the_mean_of_weighted_verdicts() -> None:
    rows = battles(["m", "m", "m"], list("abc"), ["B>>A", "A>B", None], ["A>B", "A=B", "A>B"])
    found = arena_hard_scores(rows, baseline="base")
    assert found.models == ("m", "base")
    assert found.scores[0].value == pytest.approx(100 * (3 + 1 + 0 + 0.5) / 6)
    assert (found.scores[0].n, found.missing) == (2, (1, 0))
    assert (found.scores[1].value, found.scores[1].standard_error) == (50, None)


def test_real_battles(real_data: Path) -> None:
    rows, baseline = read_battles(real_data / "arena_hard" / "battles_history_2136.parquet")
    assert rows.weights.sum() == 2136 and baseline == "claude-3-haiku-20240307"
    means, elo = arena_hard_scores(rows, baseline=baseline), arena_hard_elo(rows, baseline=baseline)
    expected = {
        "claude-3-5-sonnet-20240620": 88.695,
        "gpt-4o": 86.823,
        "gpt-4o-mini": 80.057,
        "claude-3-opus-20240229": 75.973,
        baseline: 50,
    }
    assert means.models == elo.models == tuple(expected)
    for name, mean, score, points in zip(
        means.models, means.scores, elo.scores, elo.elo, strict=True
    ):
        assert mean.value == pytest.approx(expected[name], abs=1e-3)
        assert score.value == pytest.approx(mean.value, abs=1e-9)
        assert points.value == pytest.approx(1000 - 400 * np.log10(100 / score.value - 1), abs=1e-9)
        assert score.n == 120
        if name != baseline:
            low, high = score.interval  # type: ignore[misc]
            assert low < score.value < high
            assert score.standard_error == pytest.approx(mean.standard_error, rel=0.1)


@settings(max_examples=25, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), min_size=2, max_size=12
    )
)
def test_properties(games: list[tuple[str | None, str | None]]) -> None:
    games = [*games, ("A>B", "A>B")]
    prompts = [f"p{n}" for n in range(len(games))]
    one, two = map(list, zip(*games, strict=True))

    def score(prompts: list[str], one: list, two: list) -> float:
        found = arena_hard_scores(
            battles(["m"] * len(one), prompts, one, two), baseline="b", samples=2
        )
        return dict(zip(found.models, found.scores, strict=True))["m"].value

    value = score(prompts, one, two)
    # Any order of rows; the two models change places; every prompt twice.
    assert score(prompts[::-1], one[::-1], two[::-1]) == pytest.approx(value)
    assert score(prompts, two, one) == pytest.approx(100 - value)
    assert score([*prompts, *(p + "x" for p in prompts)], one * 2, two * 2) == pytest.approx(value)


@settings(max_examples=25, derandomize=True)
@given(st.lists(st.sampled_from(VERDICTS[:5]), min_size=2, max_size=12))
def test_a_model_against_itself_is_50(verdicts: list[str]) -> None:
    """A judge that sees the same two texts in both games says the same both times."""
    prompts = [f"p{n}" for n in range(len(verdicts))]
    rows = battles(["m"] * len(verdicts), prompts, verdicts, verdicts)
    assert arena_hard_scores(rows, baseline="b", samples=2).scores[0].value == pytest.approx(50)
    assert [SWAPPED[SWAPPED[v]] for v in verdicts] == verdicts


def test_one_baseline_makes_the_two_versions_equal_also_when_verdicts_are_missing() -> None:
    rng = np.random.default_rng(0)
    models, prompts = ["x"] * 60 + ["y"] * 60, [f"p{n}" for n in range(60)] * 2
    games = rng.choice(
        np.array(VERDICTS, dtype=object), (2, 120), p=[0.2, 0.3, 0.1, 0.2, 0.15, 0.05]
    )
    rows = battles(models, prompts, games[0].tolist(), games[1].tolist())
    means, elo = arena_hard_scores(rows, baseline="b"), arena_hard_elo(rows, baseline="b")
    assert means.models == elo.models and means.missing == elo.missing and sum(means.missing) > 0
    for mean, score in zip(means.scores, elo.scores, strict=True):
        assert score.value == pytest.approx(mean.value, abs=1e-9)


def test_one_prompt_has_no_uncertainty() -> None:
    found = arena_hard_scores(battles(["m"], ["a"], ["A>B"], ["A>B"]), baseline="b")
    assert found.scores[0].interval is None


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"'A>>>B' at index 1 is no verdict; one of A>>B, A>B"):
        battles(["m", "m"], ["a", "b"], ["A>B", "A>>>B"], ["A>B", "A>B"])
    with pytest.raises(
        ValueError,
        match="numbers of rows differ: 1 models, 2 prompt_ids, 1 baseline_first, 1 model_first",
    ):
        battles(["m"], ["a", "b"], ["A>B"], ["A>B"])
    with pytest.raises(ValueError, match=r"scores must be 0, 0\.5 or 1, got 0\.7 at index 0"):
        expanded_battles(["m"], ["a"], [0.7])
    won = battles(["m", "m"], ["a", "b"], ["B>A", "B>A"], ["A>B", "A>B"])
    with pytest.raises(ValueError, match="m never lost to b, nor tied"):
        arena_hard_elo(won, baseline="b")
    assert arena_hard_scores(won, baseline="b").scores[0].value == 100
    with pytest.raises(ValueError, match="prompts of 'm': 'a' is there twice, at 0 and 1"):
        arena_hard_scores(battles(["m", "m"], ["a", "a"], ["A>B"] * 2, ["A>B"] * 2), baseline="b")
    with pytest.raises(
        ValueError,
        match="'m' and 'n' have different prompts: 2, such as 'a'",
    ):
        arena_hard_scores(battles(["m", "n"], ["a", "b"], ["A>B"] * 2, ["A>B"] * 2), baseline="b")
    with pytest.raises(ValueError, match="m has no prompt with verdicts in both games"):
        arena_hard_scores(battles(["m"], ["a"], [None], ["A>B"]), baseline="b")
    with pytest.raises(ValueError, match="is of the baseline 'm' itself"):
        arena_hard_scores(won, baseline="m")


def test_a_model_that_won_everything_has_an_interval_with_a_width() -> None:
    count = 50
    rows = battles(["m"] * count, [f"p{n}" for n in range(count)], ["B>A"] * count, ["A>B"] * count)
    score = arena_hard_scores(rows, baseline="b").scores[0]
    assert score.value == 100 and score.interval is not None
    assert score.interval[1] == 100 and 90 < score.interval[0] < 99
