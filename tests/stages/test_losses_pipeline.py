"""Losses through the real command: what trains, and what is refused before anything is spent."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from command import prefine
from run_place import CONFIG, DATA, OK, PAIRS, Place, good_pairs, jsonl

MPO = {
    "name": "mixture",
    "losses": [
        {"name": "dpo", "beta": {"schedule": "linear", "start": 0.5, "end": 0.1}},
        {"name": "bco", "beta": 0.2},
        {"name": "nll", "reduction": "token_mean"},
    ],
    "weights": [0.8, 0.2, {"schedule": "cosine", "start": 1.0, "end": 0.0, "until": 0.5}],
}


def test_a_mixture_with_schedules_and_a_moving_weight_runs_all_stages(place: Place) -> None:
    weight = {"schedule": "linear", "start": 0.0, "end": 0.4}
    place.change(
        PAIRS
        | {
            "train.loss": MPO,
            "train.regularizer": {
                "name": "step_budget",
                "delta": {"schedule": "linear", "start": 0.0, "end": 2.0},
            },
            "train.regularizer_weight": weight,
            "train.max_steps": 3,
            "train.epochs": 3,
        }
    )
    assert prefine("config", "check", "run.yaml").code == OK
    shown = prefine("config", "show", "run.yaml")
    assert "until: 0.5" in shown.out
    ran = prefine("run", "run.yaml", "--json")
    assert ran.code == OK, ran.err
    assert json.loads(ran.out)["delta"] == 2.0
    rows = [
        json.loads(line)
        for line in (place.root / "run" / "train_log.jsonl").read_text().splitlines()
    ]
    moving = [row["hyper_parameters"] for row in rows]
    assert [row["regularizer_weight"] for row in moving] == pytest.approx([0.0, 0.2, 0.4])
    assert [row["regularizer.delta"] for row in moving] == pytest.approx([0.0, 1.0, 2.0])
    assert [row["loss.losses.0.beta"] for row in moving] == pytest.approx([0.5, 0.3, 0.1])
    assert [row["loss.weights.2"] for row in moving] == pytest.approx([1.0, 0.0, 0.0])
    assert "loss.losses.1.delta" in moving[0]
    assert "mixture" in (place.root / "run" / "report.html").read_text()
    again = prefine("run", "run.yaml", "--json")
    assert again.code == OK, again.err


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "ld_dpo"},
        {"name": "wpo", "loss": {"name": "simpo"}},
        {"name": "bmc", "loss": {"name": "dpo", "beta": 0.2}},
    ],
    ids=lambda loss: str(loss["name"]),
)
def test_losses_that_read_tokens_run_all_stages(place: Place, loss: dict[str, Any]) -> None:
    place.change(PAIRS | {"train.loss": loss, "train.max_steps": 2})
    ran = prefine("run", "run.yaml")
    assert ran.code == OK, ran.err
    rows = [
        json.loads(line)
        for line in (place.root / "run" / "train_log.jsonl").read_text().splitlines()
    ]
    assert rows[0]["loss"] > 0 and rows[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert rows[-1]["margin"] != 0


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (
            {"name": "bmc", "loss": {"name": "dpo", "bta": 1}},
            ("train.loss.loss.bta: unknown option of loss 'dpo'",),
        ),
        (
            {"name": "mixture", "losses": [{"name": "dpo"}], "weights": []},
            ("losses has 1 parts, weights has 0",),
        ),
        (
            {"name": "dpo", "beta": {"schedule": "linear", "start": 0.1}},
            ("train.loss.beta", "end is missing"),
        ),
        (
            {"name": "dpo", "beta": {"schedule": "wsd", "start": 0.1}},
            ("train.loss.beta.schedule", "'wsd'"),
        ),
        ({"name": "dpo", "label_smoothing": 0.5}, ("train.loss.label_smoothing", "less than 0.5")),
        ({"name": "bco", "delta": 0.1}, ("train.loss.delta: unknown option",)),
    ],
)
def test_a_loss_that_cannot_be_is_refused(
    place: Place, loss: dict[str, Any], says: tuple[str, ...]
) -> None:
    place.change(PAIRS | {"train.loss": loss})
    for command in (
        ("run", "run.yaml"),
        ("config", "check", "run.yaml"),
        ("run", "run.yaml", "--dry-run"),
    ):
        found = prefine(*command)
        assert found.code == CONFIG, found.err
        assert all(text in found.err for text in says), found.err
        assert "Traceback" not in found.err
    assert not (place.root / "run" / "pairs").exists()


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (
            -0.1,
            ("train.regularizer_weight: Input should be greater than or equal to 0 (got -0.1)",),
        ),
        ("0.1", ("train.regularizer_weight: Input should be a valid number (got '0.1')",)),
        (
            {"schedule": "linear", "start": 0.1, "end": -1},
            ("train.regularizer_weight: Input should be greater than or equal to 0 (got -1.0)",),
        ),
        ({"schedule": "linear", "start": 0.1}, ("train.regularizer_weight: end is missing",)),
        ({"start": 0.1, "end": 1}, ("train.regularizer_weight.schedule: Field required",)),
    ],
)
def test_a_weight_that_cannot_be_is_refused(
    place: Place, weight: Any, says: tuple[str, ...]
) -> None:
    place.change(PAIRS | {"train.regularizer_weight": weight})
    found = prefine("config", "check", "run.yaml")
    assert found.code == CONFIG, found.err
    assert all(text in found.err for text in says), found.err


def test_offsets_need_a_score_gap_in_every_row(place: Place) -> None:
    rows = [row | {"score_gap": 0.5 + number} for number, row in enumerate(good_pairs())]
    place.put("pairs.jsonl", jsonl(rows))
    place.change(PAIRS | {"train.loss": {"name": "odpo"}})
    assert prefine("run", "run.yaml").code == OK
    del rows[2]["score_gap"]
    place.put("pairs.jsonl", jsonl(rows))
    place.change({"run_dir": "other"})
    found = prefine("run", "run.yaml")
    assert found.code == DATA
    assert (
        "pairs, row 3 ('question 2'): states no score_gap, which train.loss 'odpo' reads"
        in found.err
    )
    assert not (place.root / "other" / "checkpoints").exists()


def test_offsets_need_a_strategy_with_scores(place: Place) -> None:
    place.change({"train.loss": {"name": "odpo"}})
    found = prefine("run", "run.yaml")
    assert found.code == CONFIG
    assert "strategy 'iterative' does not guarantee them; choose rank.strategy" in found.err
    assert "round_robin" in found.err
    place.change(
        {"rank.strategy": {"name": "pointwise"}, "pair.selector": {"name": "best_vs_worst"}}
    )
    found = prefine("run", "run.yaml")
    assert found.code == OK, found.err


def test_nested_functions_of_the_users_own_are_listed(place: Place) -> None:
    place.put("mine.py", "def loss(logps):\n    return -logps.margin\n")
    place.change(
        PAIRS
        | {"train.loss": {"name": "mixture", "losses": [{"name": "mine:loss"}], "weights": [1.0]}}
    )
    found = prefine("run", "run.yaml", "--dry-run")
    assert found.code == OK, found.err
    assert "imports your code: mine:loss" in found.out
    assert prefine("run", "run.yaml").code == OK


@pytest.mark.parametrize(
    ("loss", "rows", "code", "says"),
    [
        ("sppo", good_pairs(), DATA, "no pair states p_chosen, which train.loss 'sppo' reads"),
        (
            "kto_pair",
            [row | {"prompt": "one"} for row in good_pairs()],
            DATA,
            "all pairs have the same prompt",
        ),
        (
            "aot",
            [row | {"weight": 1 + n} for n, row in enumerate(good_pairs())],
            CONFIG,
            "row 2 ('question 1'): has weight 2",
        ),
    ],
)
def test_what_pairs_must_state_is_found_before_anything_is_done(
    place: Place, loss: str, rows: list[Any], code: int, says: str
) -> None:
    place.put("pairs.jsonl", jsonl(rows))
    place.change(PAIRS | {"train.loss": {"name": loss}})
    for command in (("config", "check", "run.yaml"), ("run", "run.yaml")):
        found = prefine(*command)
        assert found.code == code, found.err
        assert says in found.err
    assert not (place.root / "run" / "pairs").exists()


def test_pairs_that_state_no_probability_are_counted(place: Place) -> None:
    rows = [row | ({"p_chosen": 0.8} if n else {}) for n, row in enumerate(good_pairs())]
    place.put("pairs.jsonl", jsonl(rows))
    place.change(PAIRS | {"train.loss": {"name": "soft_dpo"}})
    found = prefine("run", "run.yaml")
    assert found.code == OK, found.err
    assert "1 of 4 pairs state no p_chosen and count as certain" in found.out


def test_a_regularizer_that_reads_score_gaps_is_asked_too(place: Place) -> None:
    place.put(
        "gaps.py",
        "from prefine.losses.protocol import "
        "declare\n\n\n@declare(needs=frozenset({'score_gap'}))\n"
        "def gap(logps):\n    return -logps.policy_chosen * logps.score_gap\n",
    )
    place.change({"train.regularizer": {"name": "gaps:gap"}})
    found = prefine("config", "check", "run.yaml")
    assert found.code == CONFIG
    assert "train.regularizer 'gaps:gap' reads the score_gap of pairs" in found.err


def test_making_pairs_of_a_file_needs_neither_torch_nor_the_loss(place: Place) -> None:
    (place.root / "stub").mkdir()
    place.put("stub/torch.py", "raise ModuleNotFoundError('no torch', name='torch')\n")
    place.change(PAIRS | {"train.loss": {"name": "dpo", "bta": 1}})
    environment = {**os.environ, "PYTHONPATH": str(place.root / "stub")}
    command = [sys.executable, "-m", "prefine", "pair", "run.yaml"]
    found = subprocess.run(
        command, cwd=place.root, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == OK, found.stderr
    assert "4" in found.stdout
