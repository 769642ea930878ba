"""Counts of Markdown, features of style, and style control."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.statistics.logistic import NoFiniteFitError
from prefine.metrics.win_rates.style import (
    MarkdownCounts,
    StyleCounts,
    markdown_counts,
    style_features,
)
from prefine.metrics.win_rates.style_control import style_controlled_score, style_controlled_scores


def published_counts(text: str) -> MarkdownCounts:
    """The patterns of EVALUATION §2, as they stand there."""
    text = re.sub("```([^`]*)```", "``````", text)
    lists = [r"^\s*\d+\.\s", r"^\s*[-*+]\s"]
    bolds = [r"\*\*[^*\n]+\*\*", r"__[^_\n]+__"]
    return MarkdownCounts(
        sum(len(re.findall(rf"^#{{{k}}}\s", text, re.MULTILINE)) for k in range(1, 7)),
        sum(len(re.findall(pattern, text, re.MULTILINE)) for pattern in lists),
        sum(len(re.findall(pattern, text)) for pattern in bolds),
    )


@settings(max_examples=400, derandomize=True)
@given(st.text(alphabet="#*_-+1.`a \n\t\r\u2028", max_size=40))
def test_counts_are_those_of_the_published_patterns(text: str) -> None:
    assert markdown_counts(text) == published_counts(text)


def test_known_counts() -> None:
    text = (
        "# Head\n####### no\n1. one\n\n  2. two\n- three\n* four\n**bold** __too__ ** "
        "no**\n```\n# code\n- x\n```\n"
    )
    assert markdown_counts(text) == MarkdownCounts(headers=1, lists=4, bolds=3)
    assert markdown_counts("") == MarkdownCounts(0, 0, 0)


def test_hostile_texts_take_no_time_to_speak_of() -> None:
    """The time of the patterns as published grows with the square of the number of blank lines."""
    for text in (
        "\n" * 200_000,
        " " * 200_000,
        "1" * 200_000,
        "*" * 200_000,
        "`" * 200_000,
        "**a" * 70_000,
    ):
        markdown_counts(text)


def test_counts_of_recorded_answers(real_data: Path) -> None:
    recorded = {
        (row["model"], row["uid"]): (row["headers"], row["lists"], row["bolds"], row["chars"])
        for row in pq.read_table(real_data / "arena_hard" / "style_metadata.parquet").to_pylist()
    }
    lines = (real_data / "arena_hard" / "answers_sample.jsonl").read_text("utf-8").split("\n")
    answers = [json.loads(line) for line in lines if line]
    assert len(recorded) == 1498 and len(answers) == 80
    for answer in answers:
        found = (*markdown_counts(answer["answer"]), len(answer["answer"]))
        assert found == recorded[answer["model"], answer["uid"]]


def test_features() -> None:
    model = StyleCounts([9, 0, 100], [1, 0, 0], [0, 0, 5], [2, 0, 0])
    baseline = StyleCounts([4, 0, 300], [0, 0, 0], [0, 0, 5], [0, 0, 0])
    features = style_features(model, baseline)
    assert features[0] == pytest.approx([5 / 13, 0.1 / 1.1, 0, 0.2 / 1.2])
    assert features[1] == pytest.approx([0, 0, 0, 0])
    rho, other = 5 / 101, 5 / 301
    assert features[2] == pytest.approx([-0.5, 0, (rho - other) / (rho + other + 1), 0])
    assert style_features(baseline, model) == pytest.approx(-features)


def test_features_refuse() -> None:
    good = StyleCounts([1, 2], [0, 0], [0, 0], [0, 0])
    with pytest.raises(
        ValueError, match=r"baseline: headers must be 0 or more, got -1\.0 at index 1"
    ):
        style_features(good, StyleCounts([1, 2], [0, -1], [0, 0], [0, 0]))
    with pytest.raises(ValueError, match="model: tokens must be 0 or more, got nan at index 0"):
        style_features(StyleCounts([np.nan, 2], [0, 0], [0, 0], [0, 0]), good)
    with pytest.raises(ValueError, match="2 answers of the model, but 1 of the baseline"):
        style_features(good, StyleCounts([1], [0], [0], [0]))


class World:
    """Three models against a baseline on the same prompts; the judge likes length and lists."""

    def __init__(self, seed: int = 0, prompts: int = 150) -> None:
        rng = np.random.default_rng(seed)
        self.models = [name for name in ("a", "b", "c") for _ in range(prompts)]
        self.prompts = [f"p{n}" for n in range(prompts)] * 3
        habits = np.repeat(
            [[0.1, 0, 0.05, 0], [-0.2, 0.02, 0, 0.03], [0.0, 0, 0, 0]], prompts, axis=0
        )
        self.features = habits + rng.normal(0, [0.3, 0.05, 0.1, 0.05], (3 * prompts, 4))
        quality = np.repeat([0.5, -0.5, 1.5], prompts)
        logit = quality + self.features @ [2.0, 0, 3.0, 0]
        self.scores = (rng.random((3 * prompts, 2)) < 1 / (1 + np.exp(-logit))[:, None]).mean(
            axis=1
        )
        self.weights = rng.choice([2.0, 4.0, 6.0], 3 * prompts)

    def rows(self, *models: str) -> dict:
        use = np.isin(self.models, models)
        return {
            "models": list(np.array(self.models)[use]),
            "prompt_ids": list(np.array(self.prompts)[use]),
            "scores": self.scores[use],
            "features": self.features[use],
            "weights": self.weights[use],
            "baseline": "base",
        }


def published(
    models: list[str], scores: np.ndarray, features: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """Arena-Hard v2.0's own way, in float64: rows written out, one-hot with -1 for the
    baseline, centred features.
    """
    times = weights.astype(int)
    x = np.repeat(features, times, axis=0)
    x = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    names = sorted({*models, "base"})
    hot = np.zeros((len(x), len(names)))
    hot[np.arange(len(x)), [names.index(model) for model in np.repeat(models, times)]] = 1
    hot[:, names.index("base")] = -1
    design, y = np.column_stack([hot, x]), np.repeat(scores, times)
    beta = np.zeros(design.shape[1])
    for _ in range(60):
        q = 1 / (1 + np.exp(-(design @ beta)))
        beta += np.linalg.lstsq(
            (design.T * (q * (1 - q))) @ design, design.T @ (y - q), rcond=1e-12
        )[0]
    return {
        name: 100 / (1 + np.exp(beta[names.index("base")] - beta[k]))
        for k, name in enumerate(names)
    }


def scores_of(board: object) -> dict[str, float]:
    return {m: v.value for m, v in zip(board.models, board.scores, strict=True)}  # type: ignore[attr-defined]


def test_centred_is_as_published() -> None:
    rows = World().rows("a", "b", "c")
    board = style_controlled_scores(**rows, center=True, samples=2)
    expected = published(rows["models"], rows["scores"], rows["features"], rows["weights"])
    assert scores_of(board) == pytest.approx(expected, abs=1e-8)
    assert board.scores[0].name == "style_controlled_score_centred"


def test_the_shared_fit_is_the_published_one_but_for_the_mean_style() -> None:
    """At the features' mean the uncentred fit says what the centred one says at 0."""
    rows = World().rows("a", "b")
    centred, plain = (
        style_controlled_scores(**rows, center=flag, samples=2) for flag in (True, False)
    )
    assert centred.coefficients == pytest.approx(plain.coefficients, abs=1e-8)
    x, w = rows["features"], rows["weights"]
    mean = w @ x / w.sum()
    sd = np.sqrt(w @ (x - mean) ** 2 / (w.sum() - 1))
    shift = float(np.array(centred.coefficients) @ (mean / sd))
    for model in ("a", "b"):
        one, two = scores_of(centred)[model], scores_of(plain)[model]
        assert np.log(one / (100 - one)) == pytest.approx(
            np.log(two / (100 - two)) + shift, abs=1e-8
        )


def with_a_steady_model(rows: dict) -> dict:
    """One more model, whose style differs from the baseline's by the same on every prompt."""
    n = sum(model == rows["models"][0] for model in rows["models"])
    return rows | {
        "models": [*rows["models"], *["steady"] * n],
        "prompt_ids": [*rows["prompt_ids"], *rows["prompt_ids"][:n]],
        "scores": np.r_[rows["scores"], np.random.default_rng(5).choice([0, 0.5, 1], n)],
        "features": np.r_[rows["features"], np.tile([0.4, 0.1, 0.2, 0.1], (n, 1))],
        "weights": np.r_[rows["weights"], np.full(n, 2.0)],
    }


def test_an_unrelated_model_changes_nothing_uncentred() -> None:
    rows = World().rows("a", "b")
    for center, unchanged in ((False, True), (True, False)):
        before = scores_of(style_controlled_scores(**rows, center=center, samples=2))
        after = scores_of(
            style_controlled_scores(**with_a_steady_model(rows), center=center, samples=2)
        )
        moved = max(abs(after[model] - before[model]) for model in ("a", "b"))
        assert (moved < 1e-9) == unchanged
        assert unchanged or moved > 1


def test_one_model_alone_depends_on_no_other_and_has_its_own_taste() -> None:
    world = World()
    rows = world.rows("a")
    alone = style_controlled_score(
        rows["scores"], rows["features"], weights=rows["weights"], samples=50
    )
    single = style_controlled_scores(**rows, samples=50)
    assert alone.score.value == pytest.approx(scores_of(single)["a"], abs=1e-9)
    assert alone.score.standard_error == pytest.approx(single.scores[0].standard_error, rel=0.3)
    # Quality .5 at equal style.
    big = World(prompts=4000).rows("a")
    found = style_controlled_score(big["scores"], big["features"], samples=2)
    assert found.score.value == pytest.approx(100 / (1 + np.exp(-0.5)), abs=2)
    assert found.coefficients == pytest.approx([2, 0, 3, 0], abs=1)


@settings(max_examples=10, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_properties(seed: int) -> None:
    rows = World(seed, prompts=60).rows("a", "b")
    before = {name: np.array(value, copy=True) for name, value in rows.items()}
    board = scores_of(style_controlled_scores(**rows, samples=2))
    assert all((np.asarray(rows[name]) == value).all() for name, value in before.items())
    order = np.random.default_rng(seed).permutation(len(rows["models"]))
    shuffled = {
        name: [value[k] for k in order] for name, value in rows.items() if name != "baseline"
    }
    assert scores_of(
        style_controlled_scores(**shuffled, baseline="base", samples=2)
    ) == pytest.approx(board)
    swapped = rows | {"scores": 1 - rows["scores"], "features": -rows["features"]}
    mirrored = scores_of(style_controlled_scores(**swapped, samples=2))
    assert {m: 100 - v for m, v in mirrored.items()} == pytest.approx(board)
    twice = {name: [*value, *value] for name, value in rows.items() if name != "baseline"}
    twice["prompt_ids"] = [*rows["prompt_ids"], *(f"{p}-again" for p in rows["prompt_ids"])]
    assert scores_of(style_controlled_scores(**twice, baseline="base", samples=2)) == pytest.approx(
        board, abs=1e-6
    )


def test_a_model_against_itself_is_50_and_no_style_is_nothing_to_control() -> None:
    found = style_controlled_score([0.5] * 10, np.zeros((10, 4)))
    assert found.score.value == 50
    assert found.coefficients == (None,) * 4
    plain = style_controlled_score([1, 1, 0, 0.5], np.zeros((4, 4)), samples=2)
    assert plain.score.value == pytest.approx(62.5)


def test_what_is_missing_is_counted() -> None:
    rows = World().rows("a")
    scores = [None, *rows["scores"][1:]]
    found = style_controlled_score(scores, rows["features"], samples=20)
    assert (found.missing, found.score.n) == (1, 149)
    board = style_controlled_scores(**(rows | {"scores": scores}), samples=20)
    assert (board.missing, board.scores[0].n) == (1, 149)


def test_a_sample_without_a_fit_leaves_no_interval() -> None:
    rng = np.random.default_rng(0)
    found = style_controlled_score(
        [1, 0, 1, 1, 0, 1, 1, 0], rng.normal(0, [1, 0, 0, 0], (8, 4)), samples=100
    )
    assert found.unbounded > 0 and found.score.interval is None


def test_refusals() -> None:
    rows = World().rows("a", "b")
    with pytest.raises(
        NoFiniteFitError, match="length is the same in all 20 rows as a combination of the score"
    ):
        style_controlled_score([0, 1] * 10, np.tile([0.3, 0, 0, 0], (20, 1)))
    with pytest.raises(NoFiniteFitError, match="separated by the score"):
        style_controlled_score([1] * 20, np.zeros((20, 4)))
    with pytest.raises(ValueError, match=r"need features \[N, 4\]"):
        style_controlled_score([1], np.zeros((1, 3)))
    with pytest.raises(ValueError, match="no prompt has a score"):
        style_controlled_score([None, np.nan], np.zeros((2, 4)))
    with pytest.raises(
        ValueError, match=r"features must be finite numbers, got nan at index \[0, 1\]"
    ):
        style_controlled_score([1, 0], [[np.nan, 0, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(
        ValueError,
        match="'a' and 'b' have different prompts: 2, such as 'other'",
    ):
        style_controlled_scores(**(rows | {"prompt_ids": ["other", *rows["prompt_ids"][1:]]}))
    with pytest.raises(ValueError, match="prompts of 'a': 'p1' is there twice, at 0 and 1"):
        style_controlled_scores(**(rows | {"prompt_ids": ["p1", *rows["prompt_ids"][1:]]}))
    with pytest.raises(ValueError, match="row 0 is of the baseline 'a' itself"):
        style_controlled_scores(**(rows | {"baseline": "a"}))
