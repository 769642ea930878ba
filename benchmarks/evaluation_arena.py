"""Arena-Hard on recorded answers and battles, and what style control leaves alone.

PREFINE_TEST_DATA=… python benchmarks/evaluation_arena.py
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from line import Line
from prefine.errors import DataError
from prefine.metrics.win_rates.arena_hard import (
    Battles,
    arena_hard_elo,
    arena_hard_scores,
    battles,
    expanded_battles,
)
from prefine.metrics.win_rates.leaderboard import bradley_terry_leaderboard
from prefine.metrics.win_rates.style import StyleCounts, markdown_counts, style_features
from prefine.metrics.win_rates.style_control import (
    StyleLeaderboard,
    style_controlled_score,
    style_controlled_scores,
)
from prefine.suites.arena_hard import ArenaJudgment, battles_of, read_battles

V1_SCORES = {
    "gpt-4o": 86.823,
    "claude-3-5-sonnet-20240620": 88.695,
    "claude-3-opus-20240229": 75.973,
    "gpt-4o-mini": 80.057,
}
VERDICTS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
BASELINE = "o3-mini-2025-01-31"
MODEL = "sky-t1-32b"


def rows() -> Iterator[Line]:
    """All rows; those on recorded data only where it is."""
    data = Path(os.environ.get("PREFINE_TEST_DATA", ""))
    if (data / "arena_hard").is_dir():
        yield from style_counts(data / "arena_hard")
        yield from real_battles(data / "arena_hard")
        yield from style_control(data / "arena_hard")
    else:
        yield Line("Arena-Hard on recorded data", "PREFINE_TEST_DATA is not set: not measured")
    yield from properties()
    yield from bad_input()


def style_counts(data: Path) -> Iterator[Line]:
    """Counts of the answers whose text is in the data, against their record."""
    recorded = {(row["model"], row["uid"]): row for row in _style(data)}
    lines = (data / "answers_sample.jsonl").read_text("utf-8").split("\n")
    answers = [json.loads(line) for line in lines if line]
    equal = 0
    for answer in answers:
        row = recorded[answer["model"], answer["uid"]]
        equal += tuple(markdown_counts(answer["answer"])) == (
            row["headers"],
            row["lists"],
            row["bolds"],
        )
    yield Line(
        f"style counts, {len(recorded):,} recorded answers",
        f"cannot be measured in full: {len(answers)} of the {len(recorded):,} texts are in the "
        "data",
    )
    yield Line(
        "style counts, the answers whose text is there",
        f"{equal} of {len(answers)} equal the record (mark: all but one of 1,498)",
        equal == len(answers),
    )


def real_battles(data: Path) -> Iterator[Line]:
    """The v0.1 scores of four models, by the mean and by Bradley-Terry."""
    found, baseline = read_battles(data / "battles_history_2136.parquet")
    means, elo = (
        arena_hard_scores(found, baseline=baseline),
        arena_hard_elo(found, baseline=baseline),
    )
    by_mean = dict(zip(means.models, means.scores, strict=True))
    by_fit = dict(zip(elo.models, zip(elo.scores, elo.elo, strict=True), strict=True))
    for name, expected in V1_SCORES.items():
        score, points = by_fit[name]
        low, high = score.interval or (np.nan, np.nan)
        figure = (
            f"{score.value:.3f}, expected {expected} (95 %: {low:.1f} … {high:.1f}; Elo "
            f"{points.value:.0f})"
        )
        yield Line(f"v0.1, 2,136 battles: {name}", figure, abs(score.value - expected) <= 0.001)
    gap = max(abs(by_mean[name].value - by_fit[name][0].value) for name in by_mean)
    yield Line(
        "Bradley-Terry with one baseline = mean",
        f"largest difference {gap:.1e}, limit 1e-9",
        gap <= 1e-9,
    )


def style_control(data: Path) -> Iterator[Line]:
    """Recorded styles of two models, simulated verdicts, and what a further model changes."""
    world = _styled_battles(data)
    steady = _with_model(world, np.tile([0.4, 0.05, 0.1, 0.05], (len(world["features"]), 1)))
    rng = np.random.default_rng(1)
    other = _with_model(world, rng.permutation(world["features"]) + np.array([0.3, 0, 0.02, 0]))
    boards = {
        (which, center): _score_of(style_controlled_scores(**rows_, center=center, samples=2))
        for which, rows_ in (("alone", world), ("steady", steady), ("other", other))
        for center in (False, True)
    }
    moved = {
        key: abs(value - boards["alone", key[1]])
        for key, value in boards.items()
        if key[0] != "alone"
    }
    figure = f"{MODEL} moves by {moved['steady', False]:.1e} points, limit 1e-9"
    yield Line("uncentred, a model of constant style added", figure, moved["steady", False] <= 1e-9)
    figure = f"{MODEL} moves by {moved['steady', True]:.2f} points"
    yield Line("centred, the same model added", figure, moved["steady", True] > 0.1)
    yield Line(
        "uncentred, a model that teaches the judge's taste",
        f"{MODEL} moves by {moved['other', False]:.2f} points",
    )
    yield Line(
        "centred, the same model added", f"{MODEL} moves by {moved['other', True]:.2f} points"
    )
    own = style_controlled_score(world["scores"], world["features"], samples=200).score
    low, high = own.interval or (np.nan, np.nan)
    figure = f"{own.value:.2f} (95 %: {low:.1f} … {high:.1f}): no other model enters"
    yield Line("a model's own weights, style_controlled_score", figure)
    centred = style_controlled_scores(**other, center=True, samples=2)
    gap = max(
        abs(value.value - expected)
        for value, expected in zip(
            centred.scores, _published(other, list(centred.models)), strict=True
        )
    )
    yield Line(
        "centred = the published computation",
        f"largest difference {gap:.1e} points, limit 1e-8",
        gap <= 1e-8,
    )


def properties() -> Iterator[Line]:
    """Changes that must leave scores alone, on random verdicts."""
    worst = {
        "rows in another order": 0.0,
        "sides swapped": 0.0,
        "every prompt twice": 0.0,
        "a model against itself": 0.0,
    }
    for seed in range(200):
        rng = np.random.default_rng(seed)
        prompts = [f"p{k}" for k in range(40)]
        one, two = rng.choice(VERDICTS, (2, 40)).tolist()
        for score in (_mean_score, _elo_score):
            value, order = score(prompts, one, two), rng.permutation(40)
            shuffled = [[column[k] for k in order] for column in (prompts, one, two)]
            found = {
                "rows in another order": score(*shuffled) - value,
                "sides swapped": score(prompts, two, one) - (100 - value),
                "every prompt twice": score(
                    [*prompts, *(f"{p}, again" for p in prompts)], one * 2, two * 2
                )
                - value,
                "a model against itself": score(prompts, one, one) - 50,
            }
            worst = {name: max(worst[name], abs(found[name])) for name in worst}
    for name, gap in worst.items():
        yield Line(
            f"Arena-Hard: {name}", f"largest change {gap:.1e} of 100, limit 1e-9", gap <= 1e-9
        )


class Bad(NamedTuple):
    """A call that must be refused, and a word that the message must have."""

    what: str
    call: Callable[[], Any]
    word: str


def bad_input() -> Iterator[Line]:
    """Every kind of bad input: the message, or how many rows are counted as missing."""
    fair = ["A>B", "B>A"]
    features = np.random.default_rng(0).normal(size=(20, 4))
    mixed = [
        ArenaJudgment(prompt_id="p", model="m", baseline=name, verdicts=("A>B", "A>B"))
        for name in ("x", "y")
    ]
    for bad in (
        Bad(
            "different prompt sets",
            lambda: _scores(battles(["m", "n"], ["p", "q"], fair, fair)),
            "different prompts",
        ),
        Bad(
            "duplicated rows", lambda: _scores(battles(["m", "m"], ["p", "p"], fair, fair)), "twice"
        ),
        Bad("NaN score", lambda: expanded_battles(["m"], ["p"], [np.nan]), "nan"),
        Bad(
            "NaN feature",
            lambda: style_controlled_score([0, 1] * 10, features * np.nan),
            "must be finite",
        ),
        Bad(
            "constant lengths",
            lambda: style_controlled_score([0, 1] * 10, np.full((20, 4), 0.2)),
            "combination",
        ),
        Bad(
            "one row, Bradley-Terry",
            lambda: _elo(battles(["m"], ["p"], ["B>A"], ["A>B"])),
            "infinite",
        ),
        Bad("mixed baselines", lambda: battles_of(mixed), "2 baselines"),
        Bad("unknown verdict", lambda: battles(["m"], ["p"], ["A>>>B"], ["A>B"]), "no verdict"),
        Bad(
            "no verdict at all",
            lambda: _scores(battles(["m"], ["p"], [None], ["A>B"])),
            "no prompt",
        ),
        Bad(
            "models that never met",
            lambda: bradley_terry_leaderboard(["p"] * 2, ["a", "c"], ["b", "d"], [1, 0]),
            "not connected",
        ),
    ):
        yield Line(f"bad input: {bad.what}", *_refusal(bad))
    one = _scores(battles(["m"], ["p"], ["B>A"], ["A>B"]))
    yield Line(
        "bad input: one row, mean",
        f"n = {one.scores[0].n}, no interval",
        one.scores[0].interval is None,
    )
    some = _scores(battles(["m"] * 2, ["p", "q"], ["A>B", None], ["A>B", "A>B"]))
    figure = f"n = {some.scores[0].n}, {some.missing[0]} counted as missing"
    yield Line("bad input: unparsed verdict", figure, (some.scores[0].n, some.missing[0]) == (1, 1))


def _refusal(bad: Bad) -> tuple[str, bool]:
    try:
        bad.call()
    except (ValueError, DataError) as error:
        return f"{str(error)[:90]}", bad.word in str(error)
    return "accepted without a word", False


def _scores(found: Battles) -> Any:
    return arena_hard_scores(found, baseline="b", samples=2)


def _elo(found: Battles) -> Any:
    return arena_hard_elo(found, baseline="b", samples=2)


def _mean_score(prompts: list[str], one: list[str], two: list[str]) -> float:
    found = _scores(battles(["m"] * len(one), prompts, one, two))
    return float(found.scores[found.models.index("m")].value)


def _elo_score(prompts: list[str], one: list[str], two: list[str]) -> float:
    found = _elo(battles(["m"] * len(one), prompts, one, two))
    return float(found.scores[found.models.index("m")].value)


def _style(data: Path) -> list[dict[str, Any]]:
    rows_: list[dict[str, Any]] = pq.read_table(data / "style_metadata.parquet").to_pylist()
    return rows_


def _styled_battles(data: Path) -> dict[str, Any]:
    """Battles with recorded styles and verdicts drawn from a judge that likes length and lists."""
    style = {(row["model"], row["uid"]): row for row in _style(data)}
    prompts = sorted(uid for model, uid in style if model == MODEL)

    def counts(model: str) -> StyleCounts:
        rows_ = [style[model, uid] for uid in prompts]
        return StyleCounts(
            *([row[name] for row in rows_] for name in ("token_len", "headers", "lists", "bolds"))
        )

    features = style_features(counts(MODEL), counts(BASELINE))
    rng = np.random.default_rng(0)
    logits = -0.5 + features @ [1.5, 0.0, 5.0, 0.0]
    scores = (rng.random((len(prompts), 2)) < (1 / (1 + np.exp(-logits)))[:, None]).mean(axis=1)
    return {
        "models": [MODEL] * len(prompts),
        "prompt_ids": prompts,
        "scores": scores,
        "features": features,
        "baseline": BASELINE,
    }


def _with_model(world: Mapping[str, Any], features: Any) -> dict[str, Any]:
    n = len(world["scores"])
    logits = 0.3 + features @ [1.5, 0.0, 5.0, 0.0]
    scores = (np.random.default_rng(2).random((n, 2)) < (1 / (1 + np.exp(-logits)))[:, None]).mean(
        axis=1
    )
    return {
        "models": [*world["models"], *["another"] * n],
        "prompt_ids": [*world["prompt_ids"], *world["prompt_ids"]],
        "scores": np.concatenate([world["scores"], scores]),
        "features": np.concatenate([world["features"], features]),
        "baseline": BASELINE,
    }


def _score_of(board: StyleLeaderboard) -> float:
    return board.scores[board.models.index(MODEL)].value


def _published(world: Mapping[str, Any], models: list[str]) -> list[float]:
    """Arena-Hard v2.0's computation by other means.

    One-hot with -1 for the baseline, centred, pseudo-inverse steps.
    """
    x = (world["features"] - world["features"].mean(axis=0)) / world["features"].std(axis=0, ddof=1)
    hot = np.array(
        [
            [float(model == name) - float(name == BASELINE) for name in models]
            for model in world["models"]
        ]
    )
    design, y = np.column_stack([hot, x]), world["scores"]
    beta = np.zeros(design.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-(design @ beta)))
        beta += np.linalg.pinv((design.T * (p * (1 - p))) @ design, rcond=1e-12) @ (
            design.T @ (y - p)
        )
    base = beta[models.index(BASELINE)]
    return [100 / (1 + float(np.exp(base - beta[k]))) for k in range(len(models))]


if __name__ == "__main__":
    for line in rows():
        print(line, flush=True)
