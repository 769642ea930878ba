"""Bradley-Terry over many models, and the matrix of wins."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.statistics.resampling import Resampling
from prefine.metrics.win_rates.leaderboard import (
    bradley_terry_leaderboard,
    meetings,
    rating_draws,
    win_matrix,
)
from prefine.ranking.fitting.bradley_terry import fit_duels
from prefine.ranking.protocol import Duel

Rows = tuple[list[str], list[str], list[str], list[float]]


def tournament(seed: int, models: int = 4, prompts: int = 30, hard: bool = True) -> Rows:
    """Every pair on every prompt, from known ratings."""
    rng = np.random.default_rng(seed)
    strength = rng.standard_normal(models)
    rows: Rows = ([], [], [], [])
    for n in range(prompts):
        for i, j in itertools.combinations(range(models), 2):
            p = 1 / (1 + np.exp(strength[j] - strength[i]))
            value = (
                float(rng.random() < p) if hard else float(np.clip(p + rng.normal(0, 0.1), 0, 1))
            )
            for column, entry in zip(rows, (f"p{n}", f"m{i}", f"m{j}", value), strict=True):
                column.append(entry)  # type: ignore[arg-type]
    return rows


def by_name(board: object) -> dict[str, float]:
    return {m: v.value for m, v in zip(board.models, board.ratings, strict=True)}  # type: ignore[attr-defined]


def test_two_models_are_the_logit_of_the_mean_whatever_the_weights() -> None:
    p, w = [1.0, 0.0, 0.5, 1.0], [1.0, 2.0, 1.0, 3.0]
    board = bradley_terry_leaderboard(list("abcd"), ["x"] * 4, ["y"] * 4, p, weights=w, anchor="y")
    mean = np.dot(p, w) / sum(w)
    assert by_name(board)["x"] == pytest.approx(np.log(mean / (1 - mean)), abs=1e-9)
    assert by_name(board)["y"] == 0
    assert dict(zip(board.models, board.ratings, strict=True))["y"].interval is None


def test_a_chain_of_three_is_exact() -> None:
    """With a tree of pairs every rating gap is the logit of its own pair."""
    first, second = ["a"] * 4 + ["b"] * 4, ["b"] * 4 + ["c"] * 4
    board = bradley_terry_leaderboard(
        list("stuv") * 2, first, second, [1, 1, 1, 0, 1, 0, 0, 0.5], prompts="any"
    )
    ratings = by_name(board)
    assert ratings["a"] - ratings["b"] == pytest.approx(np.log(3))
    assert ratings["b"] - ratings["c"] == pytest.approx(np.log(1.5 / 2.5))
    assert sum(ratings.values()) == pytest.approx(0, abs=1e-12)


@settings(max_examples=10, derandomize=True)
@given(seed=st.integers(0, 500))
def test_it_is_the_fit_of_ranking_with_its_prior_made_flat(seed: int) -> None:
    ids, first, second, p = tournament(seed, models=4, prompts=25, hard=False)
    board = by_name(bradley_terry_leaderboard(ids, first, second, p, samples=2))
    duels = [Duel(int(a[1:]), int(b[1:])) for a, b in zip(first, second, strict=True)]
    scores = fit_duels(4, duels, p, prior_sd=1e4).scores
    assert np.allclose([board[f"m{k}"] for k in range(4)], scores, atol=1e-6)


@settings(max_examples=15, derandomize=True)
@given(seed=st.integers(0, 500))
def test_order_of_rows_and_swapped_sides_do_not_matter(seed: int) -> None:
    ids, first, second, p = tournament(seed, prompts=20, hard=False)
    before = (list(ids), list(p))
    board = bradley_terry_leaderboard(ids, first, second, p, samples=50)
    order = np.random.default_rng(seed).permutation(len(p))
    shuffled = [[column[k] for k in order] for column in (ids, first, second, p)]
    again = bradley_terry_leaderboard(*shuffled, samples=50)
    swapped = bradley_terry_leaderboard(ids, second, first, 1 - np.array(p), samples=50)
    assert (list(ids), list(p)) == before
    for other in (again, swapped):
        assert other.models == board.models
        for one, two in zip(board.ratings, other.ratings, strict=True):
            assert two.value == pytest.approx(one.value, abs=1e-9)
            assert two.standard_error == pytest.approx(one.standard_error, abs=1e-9)


def test_duplicating_every_prompt_leaves_the_ratings() -> None:
    ids, first, second, p = tournament(3)
    board = by_name(bradley_terry_leaderboard(ids, first, second, p, samples=2))
    twice = [*ids, *(f"{one}-again" for one in ids)]
    double = by_name(bradley_terry_leaderboard(twice, first * 2, second * 2, p * 2, samples=2))
    assert double == pytest.approx(board, abs=1e-9)


def test_a_copy_of_a_model_gets_its_rating() -> None:
    ids, first, second, p = tournament(5, prompts=40)
    copied = [
        (i, "twin", b, x) for i, a, b, x in zip(ids, first, second, p, strict=True) if a == "m0"
    ]
    meet = [(f"p{n}", "m0", "twin", 0.5) for n in range(40)]
    rows = [*zip(ids, first, second, p, strict=True), *copied, *meet]
    board = by_name(bradley_terry_leaderboard(*map(list, zip(*rows, strict=True)), samples=2))
    assert board["twin"] == pytest.approx(board["m0"], abs=1e-9)


def test_the_interval_is_that_of_resampled_prompts() -> None:
    """All duels of a prompt go together: five copies of each duel make nothing surer."""
    ids, first, second, p = tournament(1, models=3, prompts=60)
    once = rating_draws(meetings(ids, first, second, p), Resampling(400, 0))
    five = rating_draws(
        meetings(ids, first, second, p, weights=np.full(len(p), 5.0)), Resampling(400, 0)
    )
    assert np.allclose(once.draws, five.draws, atol=1e-9)
    assert once.draws.shape == (400, 3) and once.unbounded == 0
    analytic = bradley_terry_leaderboard(ids, first, second, p).ratings[0].standard_error
    assert analytic == pytest.approx(
        once.draws.std(axis=0, ddof=1)[np.argmax(once.ratings)], rel=0.2
    )


def test_missing_verdicts_are_counted_and_n_shows_it() -> None:
    ids, first, second, p = tournament(2, models=2, prompts=10)
    values: list[float | None] = [*p]
    values[3] = None
    board = bradley_terry_leaderboard(ids, first, second, values)
    assert board.missing == 1
    assert [v.n for v in board.ratings] == [9, 9]


def test_components_are_named() -> None:
    with pytest.raises(ValueError, match=r"not connected.*\{a, b\}; \{c, d\}"):
        bradley_terry_leaderboard(
            ["p", "p", "q", "q"], ["a", "c", "a", "c"], ["b", "d", "b", "d"], [1, 1, 0, 0]
        )


def test_who_never_loses_is_named() -> None:
    ids, first, second = ["p", "p", "q", "q"], ["a", "b", "a", "b"], ["b", "c", "b", "c"]
    with pytest.raises(ValueError, match="a never lost to b, c, nor tied"):
        bradley_terry_leaderboard(ids, first, second, [1, 1, 1, 0], prompts="any")
    with pytest.raises(ValueError, match="a, b never lost to c"):
        bradley_terry_leaderboard(ids, first, second, [1, 1, 0, 1], prompts="any")


def test_resamples_without_a_fit_leave_no_interval_and_are_counted() -> None:
    board = bradley_terry_leaderboard(list("abcd"), ["x"] * 4, ["y"] * 4, [1, 1, 1, 0], samples=200)
    assert board.unbounded > 20
    assert all(v.interval is None and v.standard_error is None for v in board.ratings)
    single = bradley_terry_leaderboard(["a"], ["x"], ["y"], [0.7])
    assert single.unbounded == 0 and single.ratings[0].interval is None


@pytest.mark.parametrize(
    ("ids", "first", "second", "p", "more", "message"),
    [
        (
            ["p", "p"],
            ["a", "a"],
            ["b", "b"],
            [1, 0],
            {},
            r"duels: \('p', 'a', 'b'\) is there twice, at 0 and 1",
        ),
        (["p"], ["a"], ["a"], [1], {}, "duel 0 is of 'a' with itself"),
        (
            ["p", "q"],
            ["a", "a"],
            ["b", "c"],
            [1, 0],
            {},
            "'a' and 'b' have different prompts: 1, such as 'q'",
        ),
        (["p"], ["a"], ["b"], [2], {}, r"p_first must be in \[0, 1\], got 2.0 at index 0"),
        (["p"], ["a"], ["b"], [None], {}, "none of 1 duels has a verdict"),
        (
            ["p"],
            ["a"],
            ["b"],
            [],
            {},
            "numbers of rows differ: 0 p_first, 1 prompt_ids, 1 first, 1 second, 0 weights",
        ),
        (
            ["p"],
            ["a"],
            ["b"],
            [0.5],
            {"weights": [0]},
            "weights must be positive, got 0.0 at index 0",
        ),
        (["p"], ["a"], ["b"], [0.5], {"anchor": "z"}, "anchor 'z' is not among the models a, b"),
    ],
)
def test_refusals(
    ids: list[str], first: list[str], second: list[str], p: list[float], more: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bradley_terry_leaderboard(ids, first, second, p, **more)


def test_both_orders_of_a_pair_are_two_duels() -> None:
    board = bradley_terry_leaderboard(["p", "p"], ["a", "b"], ["b", "a"], [1, 1])
    assert by_name(board) == pytest.approx({"a": 0.0, "b": 0.0})


def test_the_matrix_of_wins() -> None:
    ids, first, second = (
        ["p", "q", "p", "q", "r"],
        ["a", "a", "b", "b", "c"],
        ["b", "b", "a", "a", "a"],
    )
    matrix = win_matrix(ids, first, second, [1, 1, 0.5, 1, None])
    (a, b, c) = (matrix.models.index(name) for name in "abc")
    cell = matrix.cells[a][b]
    # Prompt p: (1 + .5) / 2, prompt q: (1 + 0) / 2.
    assert cell is not None and cell.value == pytest.approx(62.5) and cell.n == 2
    assert matrix.cells[b][a].value == pytest.approx(37.5)  # type: ignore[union-attr]
    assert matrix.cells[a][a] is None and matrix.cells[a][c] is None
    assert matrix.missing == 1


def test_a_cell_of_the_win_matrix_counts_the_prompts_on_which_the_two_met() -> None:
    """Also where most prompts are of other pairs."""
    prompts = [f"p{n}" for n in range(100)] + ["q0", "q1"]
    found = win_matrix(
        prompts, ["a"] * 102, ["b"] * 100 + ["c"] * 2, [n % 2 for n in range(100)] + [1.0, 1.0]
    )
    at = {name: number for number, name in enumerate(found.models)}
    cell, mirror = found.cells[at["a"]][at["c"]], found.cells[at["c"]][at["a"]]
    assert (
        cell is not None
        and mirror is not None
        and cell.interval is not None
        and mirror.interval is not None
    )
    assert (cell.n, cell.value, mirror.value) == (2, 100, 0)
    assert cell.interval[1] == 100 and 0 < cell.interval[0] < 50
    assert mirror.interval == (0, pytest.approx(100 - cell.interval[0]))
