"""Plain DPO: the same data in the same order gives the same losses in both."""

import json

import pytest
import trl_runs as runs

from prefine.training.step_sources.shuffled import StepSchedule
from run_place import Place

PAIRS, STEPS, SEED = 12, 10, 3


def test_the_first_ten_losses_agree(place: Place) -> None:
    """DPO (beta .1) on a tiny Llama in float32, two pairs a step, AdamW.

    What had to be set equal, because the defaults differ: the order of the pairs (TRL's is given
    ours, one epoch after the other, and told not to shuffle); no bfloat16 and no gradient
    checkpointing there; a constant learning rate without warm-up here; clipping at 1 in both;
    weight decay 0, which both have; no limit of length there. Dropout is off in both. TRL's
    `rewards/margins` is beta times the margin here; its logged values are rounded.
    """
    run = runs.walked(
        place,
        runs.conversations(PAIRS),
        max_steps=STEPS,
        epochs=2,
        learning_rate=3e-3,
        schedule="constant",
        warmup_fraction=0.0,
        max_grad_norm=1.0,
        weight_decay=0.0,
        seed=SEED,
    )
    ours = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    plan = StepSchedule(PAIRS, 2, 2, SEED, STEPS)
    order = [index for step in range(STEPS) for index in plan.items_of(step)]
    trainer = runs.trainer(
        place,
        runs.table(run).select(order),
        max_steps=STEPS,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        weight_decay=0.0,
        max_length=None,
        train_sampling_strategy="sequential",
    )
    trainer.train()
    theirs = trainer.state.log_history[:STEPS]
    assert (
        [row["step"] for row in ours]
        == [row["step"] for row in theirs]
        == list(range(1, STEPS + 1))
    )
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], abs=1e-4)
    margins = [float(row["rewards/margins"]) for row in theirs]
    assert [0.1 * row["margin"] for row in ours] == pytest.approx(margins, abs=1e-4)
    assert [row["grad_norm"] for row in ours] == pytest.approx(
        [row["grad_norm"] for row in theirs], rel=1e-3
    )
    losses = [row["loss"] for row in ours]
    assert max(losses) - min(losses) > 0.2, (
        "training changes something, else there is nothing to agree on"
    )
    apart = max(abs(mine["loss"] - row["loss"]) for mine, row in zip(ours, theirs, strict=True))
    print(f"\nfirst {STEPS} losses of both: largest difference {apart:.1e}")
