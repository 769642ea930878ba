"""KTO with z0 from mismatched answers: the same rows give the same losses in both."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import trl_runs as runs
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer

from command import prefine
from run_place import GONE, OK, Place, jsonl

COUNT, STEPS = 6, 10
RATE, WEIGHTS = 1e-2, (1.2, 0.7)
LABELS: dict[str, Any] = {
    "completions": GONE,
    "rank": GONE,
    "labels": {"name": "file", "path": "labels.jsonl"},
    "train": {
        "loss": {
            "name": "kto",
            "z0": "mismatched",
            "desirable_weight": WEIGHTS[0],
            "undesirable_weight": WEIGHTS[1],
        },
        "epochs": STEPS,
        "max_steps": STEPS,
        "pairs_per_step": COUNT,
        "learning_rate": RATE,
        "schedule": "constant",
        "warmup_fraction": 0.0,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
    },
}


def rows() -> list[dict[str, Any]]:
    """TRL's unpaired layout, as messages; two thirds are good."""
    pairs = runs.conversations(COUNT)
    return [
        {
            "prompt": row["prompt"],
            "completion": row["rejected" if n % 3 == 1 else "chosen"],
            "label": n % 3 != 1,
        }
        for n, row in enumerate(pairs)
    ]


def test_the_first_ten_losses_of_kto_agree(place: Place) -> None:
    """KTO (beta .1, weights 1.2 and .7) on a tiny Llama in float32, all six rows in every step.

    What had to be set equal, because the defaults differ: z0 is estimated here; the order, which
    says whose answer each prompt is given (TRL takes the row before within a batch, here it is
    the next one to another prompt, so TRL is given the rows from the last to the first); no
    bfloat16 and no gradient checkpointing there; a constant learning rate without warm-up here;
    clipping at 1 in both; no limit of length there. TRL's logged values are rounded.
    """
    place.put("labels.jsonl", jsonl(rows()))
    place.change(LABELS)
    done = prefine("run", "run.yaml")
    assert done.code == OK, done.err
    ours = [json.loads(line) for line in Path("run/train_log.jsonl").read_text().splitlines()]
    trainer = KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained("model"),
        args=KTOConfig(
            output_dir="trl",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            per_device_train_batch_size=COUNT,
            max_steps=STEPS,
            beta=0.1,
            desirable_weight=WEIGHTS[0],
            undesirable_weight=WEIGHTS[1],
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            weight_decay=0.0,
            max_length=None,
        ),
        train_dataset=datasets.Dataset.from_list(rows()[::-1]),
        processing_class=AutoTokenizer.from_pretrained("model"),
    )
    trainer.train()
    theirs = trainer.state.log_history[:STEPS]
    losses = [row["loss"] for row in ours]
    assert losses == pytest.approx([row["loss"] for row in theirs], abs=1e-4)
    assert [row["grad_norm"] for row in ours] == pytest.approx(
        [row["grad_norm"] for row in theirs], rel=1e-3
    )
    estimates = [float(row["kl"]) for row in theirs]
    assert max(losses) - min(losses) > 0.1 and max(estimates) > 1, (
        "training changes something and z0 is not 0, else there is nothing to agree on"
    )
    apart = max(abs(mine - row["loss"]) for mine, row in zip(losses, theirs, strict=True))
    print(f"\nfirst {STEPS} losses of KTO in both: largest difference {apart:.1e}")
