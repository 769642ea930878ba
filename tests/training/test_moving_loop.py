"""Training whose hyper-parameters move: equal bytes after an interruption, equal weights for
any micro-batches.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from prefine.errors import ConfigError, Interrupted
from prefine.losses import bco, beta_dpo, dpo, kto_pair, mixture
from prefine.losses.protocol import LossFunction
from prefine.regularizers import budget, step_budget
from prefine.schedules import Schedule
from prefine.training.checkpoints import load_newest
from prefine.training.logging.figures import TrainSummary
from prefine.training.loop import train
from prefine.training.reference.models import ReferenceModel
from prefine.training.relations.pair_rows import StepRow
from prefine.training.relations.pairs import TokenizedPair

STEPS = 9
FALLING: Any = Schedule(schedule="cosine", start=0.5, end=0.1)
MIXED = partial(
    mixture,
    losses=(
        partial(beta_dpo, beta=FALLING, rho=0.4),
        partial(bco, beta=0.2),
        partial(kto_pair, beta=0.3),
    ),
    weights=(1.0, 0.3, 0.5),
)
RISING: Any = Schedule(schedule="linear", start=0.0, end=2.0)


def _train(
    folder: Path, model: torch.nn.Module, loss: LossFunction = MIXED, **how: Any
) -> TrainSummary:
    settings = how.pop("settings", {}) | {"regularizer_weight": RISING}
    return train(
        model,
        tiny.examples(),
        tiny.config(**settings),
        loss=loss,
        regularizer=how.pop("regularizer", partial(step_budget, delta=0.1)),
        out_dir=folder,
        run_key="key",
        **how,
    )


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tiny.log(folder).splitlines()]


@pytest.mark.parametrize("after", [1, 4, 7])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, after: int) -> None:
    whole, model = tiny.model(dtype=torch.float32), tiny.model(dtype=torch.float32)
    _train(tmp_path / "whole", whole)
    seen: list[StepRow] = []
    with pytest.raises(Interrupted):
        _train(tmp_path / "cut", model, on_step=seen.append, should_stop=lambda: len(seen) >= after)
    checkpoint, _ = load_newest(tmp_path / "cut" / "checkpoints", run_key="key")
    assert checkpoint is not None and checkpoint.controllers["loss.losses.0"]["draw"] == after
    resumed = tiny.model(dtype=torch.float32)
    assert _train(tmp_path / "cut", resumed).resumed_from == after
    assert tiny.log(tmp_path / "cut") == tiny.log(tmp_path / "whole")
    for name, weight in tiny.weights(resumed).items():
        assert torch.equal(weight, tiny.weights(whole)[name]), name


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    found = []
    for size in (1, 3):
        model = tiny.model()
        _train(tmp_path / str(size), model, settings={"micro_batch_tokens": size})
        found.append(torch.cat([weight.flatten() for weight in tiny.weights(model).values()]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
    one, three = (_rows(tmp_path / str(size)) for size in (1, 3))
    for left, right in zip(one, three, strict=True):
        assert left["hyper_parameters"] == pytest.approx(right["hyper_parameters"], rel=1e-9)
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-9)


def test_the_log_says_where_the_hyper_parameters_are(tmp_path: Path) -> None:
    _train(tmp_path, tiny.model())
    rows = _rows(tmp_path)
    moving = [row["hyper_parameters"] for row in rows]
    assert [round(row["loss.losses.0.beta"], 12) for row in moving] == [
        round(FALLING.at(step, STEPS), 12) for step in range(STEPS)
    ]
    assert [row["regularizer_weight"] for row in moving] == [
        RISING.at(step, STEPS) for step in range(STEPS)
    ]
    assert [row["loss.losses.0.draw"] for row in moving] == list(range(1, STEPS + 1))
    # At the start the policy is the reference, so that no reward has been seen.
    assert moving[0]["loss.losses.1.delta"] == pytest.approx(0, abs=1e-12)
    assert moving[-1]["loss.losses.1.delta"] != 0
    assert all(
        row["objective"]
        == pytest.approx(
            row["loss"] + row["hyper_parameters"]["regularizer_weight"] * row["regularizer"]
        )
        for row in rows
    )


def test_a_training_without_moving_parts_says_nothing_of_them(tmp_path: Path) -> None:
    train(
        tiny.model(),
        tiny.examples(),
        tiny.config(max_steps=1),
        loss=dpo,
        regularizer=None,
        out_dir=tmp_path,
        run_key="key",
    )
    assert [row["hyper_parameters"] for row in _rows(tmp_path)] == [{}]


def test_the_budget_of_a_row_is_that_of_its_step(tmp_path: Path) -> None:
    """`beyond_budget` counts against the delta of the step, the final figure against the last
    one.
    """
    delta: Any = Schedule(schedule="linear", start=-100.0, end=100.0)
    summary = _train(tmp_path, tiny.model(), loss=dpo, regularizer=partial(budget, delta=delta))
    rows = _rows(tmp_path)
    assert (rows[0]["beyond_budget"], rows[-1]["beyond_budget"]) == (1.0, 0.0)
    assert summary.final.beyond_budget == 0.0


def test_answers_to_other_prompts_are_scored_once_by_the_reference(tmp_path: Path) -> None:
    _train(tmp_path, tiny.model(), loss=kto_pair)
    # The pairs themselves, and the prompts with other pairs' answers.
    assert len(list((tmp_path / "reference").rglob("*.safetensors"))) == 2
    assert _train(tmp_path, tiny.model(), loss=kto_pair).reference_reused


def test_the_policy_must_be_able_to_read_the_answers_to_other_prompts_too(tmp_path: Path) -> None:
    """Whatever the reference can read."""
    rows = [
        TokenizedPair("long prompt", tuple(range(3, 33)) * 2, (1,), (2, 1)),
        TokenizedPair("long answer", (4,), (*range(3, 12), 1), (2, 1)),
    ]
    reference = tiny.model(seed=1)
    reference.config.max_position_embeddings = 500
    for load in (None, lambda: reference):
        with pytest.raises(
            ConfigError, match="pair long prompt with the answers of long answer takes 69 positions"
        ):
            train(
                tiny.model(),
                rows,
                tiny.config(),
                loss=kto_pair,
                regularizer=None,
                out_dir=tmp_path,
                run_key="key",
                references=[ReferenceModel(load)],
            )
