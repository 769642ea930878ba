"""The budget in TRL's trainer: what it adds, and that without it nothing changes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import trl_runs as runs
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from prefine.config.yaml import load
from prefine.stages.training_inputs import read_items, trainable
from prefine.training.budget.probe import halves
from prefine.training.step_sources.shuffled import StepSchedule
from prefine.trl import BudgetMixin
from run_place import Place


class BudgetTrainer(BudgetMixin, DPOTrainer):
    """As a user writes it."""


def trainer(
    place: Place,
    rows: Dataset,
    kind: type[DPOTrainer],
    budget: dict[str, Any],
    eval_dataset: Any = None,
    **settings: Any,
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
        eval_dataset=eval_dataset,
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
        ({"budget_weight": "much"}, {}, 'or "auto"'),
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


def held_out_of(run: Path) -> dict[str, Dataset]:
    """The held-out pairs of a run as anybody loads them: its probe, and the others."""
    config = load(Path("run.yaml"))
    policy = trainable(config.policy, where="policy")
    items = read_items(run / "heldout_pairs", policy, config).items
    in_probe = {item.id for item in halves(items).probe}
    both = runs.table(run, "heldout_pairs")
    assert len(both) == len(items) == len({item.id for item in items})
    return {
        name: both.select([n for n, item in enumerate(items) if (item.id in in_probe) == wanted])
        for name, wanted in (("probe", True), ("test", False))
    }


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_an_automatic_weight_is_that_of_prefine(place: Place, per: str) -> None:
    """Seven steps in both, with a rise that is asked for and not reached by itself."""
    delta = -3.0 if per == "sequence" else -0.15
    run = runs.walked(
        place,
        runs.conversations(152),
        held_out=140,
        regularizer={"name": "budget", "delta": delta, "per": per},
        regularizer_weight="auto",
        pairs_per_step=4,
        epochs=3,
        max_steps=7,
        learning_rate=1e-3,
        schedule="constant",
        warmup_fraction=0.0,
        max_grad_norm=1.0,
        weight_decay=0.0,
        loss={"name": "dpo", "beta": 0.1},
    )
    ours = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    moved = [json.loads(line) for line in (run / "budget_log.jsonl").read_text().splitlines()]
    plan = StepSchedule(12, 4, 3, 0, 7)
    order = [index for step in range(7) for index in plan.items_of(step)]
    theirs = trainer(
        place,
        runs.table(run).select(order),
        BudgetTrainer,
        {"budget_delta": delta, "budget_weight": "auto", "budget_per": per},
        eval_dataset=held_out_of(run),
        per_device_train_batch_size=4,
        max_steps=7,
        learning_rate=1e-3,
    )
    theirs.train()
    logged = theirs.state.log_history[:7]
    falls = [row["budget/probe_fall"] for row in logged]
    assert falls == pytest.approx([moved[step // 3]["fall"] for step in range(7)], abs=1e-5)
    weights = [row["budget/weight"] for row in logged]
    slope = moved[-1]["slope"]
    mine = [0.0, *(slope * moved[step // 3]["weight"] for step in range(1, 7))]
    assert weights == pytest.approx(mine, rel=1e-4)
    assert weights[0] == 0 < weights[1] == weights[2] != weights[3] > 0, "the budget binds"
    assert [row["loss"] for row in logged] == pytest.approx(
        [row["objective"] for row in ours], rel=1e-5
    )


def test_an_automatic_budget_that_is_resumed_goes_on_as_if_it_had_not_stopped(place: Place) -> None:
    budget = {"budget_delta": -3.0, "budget_weight": "auto"}
    settings = {"save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-3}
    pairs, unseen = rows(), Dataset.from_list(runs.conversations(30)).select(range(12, 30))

    def made(steps: int) -> DPOTrainer:
        return trainer(place, pairs, BudgetTrainer, budget, unseen, max_steps=steps, **settings)

    whole = made(7)
    whole.train()
    rest = made(7)
    rest.train(resume_from_checkpoint=str(place.root / "trl" / "checkpoint-4"))
    rows_of = [
        {row["step"]: row["budget/weight"] for row in one.state.log_history if "loss" in row}
        for one in (whole, rest)
    ]
    assert rows_of[0] == rows_of[1] and rows_of[0][7] != rows_of[0][4] > 0
    theirs, ours = whole.model.state_dict(), rest.model.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    (place.root / "trl" / "checkpoint-4" / "budget_state.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"budget_state\.json is missing"):
        made(7).train(resume_from_checkpoint=str(place.root / "trl" / "checkpoint-4"))


def test_an_automatic_budget_needs_something_to_measure(place: Place) -> None:
    for unseen, words in ((None, "measures an eval_dataset"), ({"test": rows()}, "named 'probe'")):
        with pytest.raises(ValueError, match=words):
            trainer(place, rows(), BudgetTrainer, {"budget_weight": "auto"}, unseen)
