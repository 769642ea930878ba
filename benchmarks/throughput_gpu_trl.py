"""TRL's side of `train_throughput.py --gpu`: DPOTrainer with the flags that make it fastest."""

import tempfile
import time
from typing import Any
from unittest.mock import patch

import datasets
import torch
from peft import LoraConfig
from transformers import TrainerCallback
from trl.trainer import dpo_trainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from prefine.training.relations.pairs import TokenizedPair
from throughput_data import BETA, LEARNING_RATE, MAX_GRAD_NORM
from throughput_gpu import (
    LORA,
    PAIRS_PER_STEP,
    WARM_STEPS,
    Case,
    Measured,
    device,
    fresh,
    make_model,
    now,
    peak_gb,
)
from throughput_trl import check_tokens, texts_of, tokenizer_for

MICRO_BATCHES = (4, 2, 1)


class Clock(TrainerCallback):
    """Remembers when each optimizer step ended on the device."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Called by the trainer once per optimizer step, after the update."""
        self.ends.append(now())


class Precomputed(DPOTrainer):
    """The trainer itself; the reference's values, whose pass is not measured, are given to it."""

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        for column in ("ref_chosen_logps", "ref_rejected_logps"):
            dataset = dataset.add_column(column, [0.0] * len(dataset))
        return dataset


def best_of_trl(case: Case, examples: list[TokenizedPair]) -> Measured | None:
    """The fastest micro-batch, with gradient checkpointing only if none fits without, or None.

    Smaller ones are tried until one is slower.
    """
    for checkpointing in (False, True):
        found = []
        for pairs in MICRO_BATCHES:
            began = time.monotonic()
            measured = _train(case, examples, pairs, checkpointing=checkpointing)
            fresh()
            seconds = f"{time.monotonic() - began:.0f} s"
            how = (
                f"{pairs} pairs a micro-batch{', gradient checkpointing' if checkpointing else ''}"
            )
            speed = (
                "out of memory" if measured is None else f"{measured.pairs_per_second:.1f} pairs/s"
            )
            print(f"     . {case.name}: TRL, {how}: {speed} ({seconds})", flush=True)
            if measured is not None:
                found.append(measured._replace(how=how))
            if len(found) > 1 and found[-1].pairs_per_second < found[-2].pairs_per_second:
                break
        if found:
            return max(found, key=lambda measured: measured.pairs_per_second)
    return None


def _train(
    case: Case, examples: list[TokenizedPair], pairs: int, *, checkpointing: bool
) -> Measured | None:
    """None if memory is short."""
    fresh()
    clock = Clock()
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = _trainer(case, examples, clock, folder, pairs, checkpointing=checkpointing)
            trainer.train()
    except torch.OutOfMemoryError:
        return None
    steps = [
        after - before
        for before, after in zip(
            clock.ends[WARM_STEPS - 1 :], clock.ends[WARM_STEPS:], strict=False
        )
    ]
    assert len(steps) == case.timed
    return Measured(steps, peak_gb(), "")


def _trainer(
    case: Case,
    examples: list[TokenizedPair],
    clock: Clock,
    folder: str,
    pairs: int,
    *,
    checkpointing: bool,
) -> DPOTrainer:
    texts = texts_of(examples)
    datasets.disable_progress_bars()
    settings = DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=pairs,
        gradient_accumulation_steps=PAIRS_PER_STEP // pairs,
        precompute_ref_log_probs=True,
        max_steps=len(examples) // PAIRS_PER_STEP,
        train_sampling_strategy="sequential",
        beta=BETA,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_GRAD_NORM,
        weight_decay=0.0,
        optim="adamw_torch_fused",
        max_length=None,
        bf16=True,
        use_cpu=device().type == "cpu",
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=LORA.rank,
        lora_alpha=LORA.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
    )
    # The hash of the weights is for the file of the reference's values.
    with patch.object(dpo_trainer, "hash_module", lambda module: "random"):
        trainer = Precomputed(
            model=make_model(case),
            args=settings,
            train_dataset=datasets.Dataset.from_list(texts),
            processing_class=tokenizer_for(case.shape.vocab),
            peft_config=lora if case.lora else None,
            callbacks=[clock],
        )
    check_tokens(trainer, examples, pairs, WARM_STEPS * PAIRS_PER_STEP)
    return trainer
