"""The budget in TRL's trainer: what it adds, and that without it nothing changes."""

import json
from typing import Any

import pytest
import torch
import trl_runs as runs
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from prefine.training.step_sources.shuffled import StepSchedule
from prefine.trl import BudgetMixin
from run_place import Place


class BudgetTrainer(BudgetMixin, DPOTrainer):
    """As a user writes it."""


def trainer(
    place: Place, rows: Dataset, kind: type[DPOTrainer], budget: dict[str, Any], **settings: Any
) -> DPOTrainer:
    """A trainer with a precomputed reference."""
    values = {
        "output_dir": str(place.root / "trl"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "precompute_ref_log_probs": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "per_device_train_batch_size": 3,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "max_length": None,
        "max_steps": 4,
        "train_sampling_strategy": "sequential",
    }
    return kind(
        model=AutoModelForCausalLM.from_pretrained("model"),
        args=DPOConfig(**(values | settings)),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained("model"),
        **budget,
    )


def rows() -> Dataset:
    return Dataset.from_list(runs.conversations(12))


def test_weight_0_is_dpo_trainer_bit_by_bit(place: Place) -> None:
    plain = trainer(place, rows(), DPOTrainer, {})
    budget = trainer(place, rows(), BudgetTrainer, {"budget_weight": 0.0})
    for one in (plain, budget):
        one.train()
    theirs, ours = plain.model.state_dict(), budget.model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    moved = AutoModelForCausalLM.from_pretrained("model").state_dict()
    assert any(not torch.equal(moved[name], ours[name]) for name in ours)
    assert [row["loss"] for row in plain.state.log_history[:4]] == [
        row["loss"] for row in budget.state.log_history[:4]
    ]


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_weight_1_has_the_losses_of_prefine(place: Place, per: str) -> None:
    """Four steps in both; with a delta below 0 answers that rise too little are exceeding it."""
    delta = -0.01
    run = runs.walked(
        place,
        runs.conversations(12),
        regularizer={"name": "budget", "delta": delta, "per": per},
        regularizer_weight=1.0,
        pairs_per_step=3,
        max_steps=4,
        learning_rate=1e-3,
        schedule="constant",
        warmup_fraction=0.0,
        max_grad_norm=1.0,
        weight_decay=0.0,
        loss={"name": "dpo", "beta": 0.1},
    )
    ours = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    plan = StepSchedule(12, 3, 1, 0, 4)
    order = [index for step in range(4) for index in plan.items_of(step)]
    budget = {"budget_delta": delta, "budget_weight": 1.0, "budget_per": per}
    theirs = trainer(
        place, runs.table(run).select(order), BudgetTrainer, budget, learning_rate=1e-3
    )
    theirs.train()
    logged = theirs.state.log_history[:4]
    assert [row["loss"] for row in logged] == pytest.approx(
        [row["objective"] for row in ours], abs=1e-5
    )
    falls = [row["budget/fall"] for row in logged]
    column = "fall" if per == "sequence" else "token_fall"
    # Sums of some 100 nats, in float32.
    assert falls == pytest.approx([row[column] for row in ours], abs=1e-4)
    assert max(row["budget/penalty"] for row in logged) > 1e-4, "the budget was exceeded"


def test_what_it_cannot_read_is_refused(place: Place) -> None:
    other = AutoModelForCausalLM.from_pretrained("model")
    for budget, settings, words in (
        ({}, {"precompute_ref_log_probs": False}, "precompute_ref_log_probs"),
        ({"ref_model": other}, {}, "ref_model"),
        ({}, {"ld_alpha": 0.5}, "ld_alpha"),
        ({"budget_weight": -1.0}, {}, "budget_weight"),
        ({"budget_per": "answer"}, {}, "budget_per"),
    ):
        with pytest.raises(ValueError, match=words):
            trainer(place, rows(), BudgetTrainer, budget, **settings)


def test_other_sums_than_those_logged_are_noticed(place: Place) -> None:
    class Changed(BudgetMixin, DPOTrainer):
        def _logged(self, name: str, values: torch.Tensor) -> Any:
            return super()._logged(name, 2 * values)

    with pytest.raises(RuntimeError, match="logps/chosen"):
        trainer(place, rows(), Changed, {}).train()


def test_with_a_lora_adapter_the_start_is_the_base_model(place: Place) -> None:
    from peft import LoraConfig

    adapter = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    one = trainer(place, rows(), BudgetTrainer, {"peft_config": adapter})
    one.train()
    assert one.state.log_history[0]["budget/fall"] == pytest.approx(0, abs=1e-5)
    assert one.state.log_history[3]["budget/fall"] != 0
