"""A child of `train_throughput.py`: TRL's DPOTrainer. Its last line is the outcome as JSON.

    python benchmarks/throughput_trl.py '{"vocab": 4096, "drawn_pairs": 12, …}'  # see `Work`

The trainer is the published one, nothing in it is replaced: it reads text whose words are the token
ids, by a tokenizer that knows one word per id. What it makes of them is compared with the ids
before anything is timed.
"""

import copy
import tempfile
import time
from typing import Any

import datasets
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from prefine.training.relations.pairs import TokenizedPair
from throughput_data import (
    BETA,
    FIRST_WORD,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    PAD,
    STOP,
    UNKNOWN,
    Outcome,
    Work,
    answer,
    examples_for,
    make_model,
    peak_mb,
    scored_tokens,
    step_seconds,
    unique_tokens,
)

SPECIAL = {PAD: "<pad>", UNKNOWN: "<unk>", STOP: "<stop>"}


class Clock(TrainerCallback):
    """Remembers when each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Called by the trainer once per optimizer step, after the update."""
        self.ends.append(time.perf_counter())


def tokenizer_for(vocab: int) -> PreTrainedTokenizerFast:
    """Token k is the word `t{k}`."""
    words = {SPECIAL.get(number, f"t{number}"): number for number in range(vocab)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[PAD],
        unk_token=SPECIAL[UNKNOWN],
        eos_token=SPECIAL[STOP],
    )


def text_of(ids: tuple[int, ...]) -> str:
    """Every token's word and a space before it; the stop token is last, as the trainer wants it."""
    return "".join(
        f" t{number}" if number >= FIRST_WORD else f" {SPECIAL[number]}" for number in ids
    )


def texts_of(examples: list[TokenizedPair]) -> list[dict[str, str]]:
    """The pairs as rows of TRL's format."""
    return [
        {
            "prompt": text_of(example.prompt_ids),
            "chosen": text_of(example.chosen_ids),
            "rejected": text_of(example.rejected_ids),
        }
        for example in examples
    ]


def settings(work: Work, folder: str) -> DPOConfig:
    """DPO's defaults without what costs time on a CPU: checkpointing, logging, saving, bars."""
    return DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=work.micro_batch_pairs,
        gradient_accumulation_steps=work.pairs_per_step // work.micro_batch_pairs,
        precompute_ref_log_probs=work.precompute,
        max_steps=work.steps,
        train_sampling_strategy="sequential",
        beta=BETA,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_GRAD_NORM,
        weight_decay=0.0,
        optim="adamw_torch_fused",
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        dataloader_num_workers=0,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def check_tokens(
    trainer: DPOTrainer, examples: list[TokenizedPair], micro_batch_pairs: int, warm_pairs: int
) -> int:
    """How many positions of the timed steps the trainer sends through the model, padding included.

    Raises:
        AssertionError: It trains on other tokens than those of the examples.
    """
    positions, columns = 0, ["prompt_ids", "chosen_ids", "rejected_ids"]
    assert isinstance(trainer.train_dataset, datasets.Dataset)
    rows = [{column: row[column] for column in columns} for row in trainer.train_dataset]
    for row, example in zip(rows, examples, strict=True):
        for column in columns:
            assert tuple(row[column]) == getattr(example, column), (
                f"{example.id}: the trainer reads another {column}"
            )
    for start in range(0, len(rows), micro_batch_pairs):
        batch = trainer.data_collator(rows[start : start + micro_batch_pairs])
        ours = examples[start : start + micro_batch_pairs]
        scored = scored_tokens(ours)
        assert batch["completion_mask"].sum().item() == scored
        assert batch["attention_mask"].sum().item() == scored + 2 * sum(
            len(example.prompt_ids) for example in ours
        )
        if start >= warm_pairs:
            positions += batch["input_ids"].numel()
    return positions


def run(work: Work) -> Outcome:
    """Train by the trainer's own `train`."""
    assert work.pairs_per_step % work.micro_batch_pairs == 0
    examples = examples_for(work)
    model, clock = make_model(work.vocab), Clock()
    texts = texts_of(examples)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            model=model,
            ref_model=None if work.precompute else copy.deepcopy(model),
            args=settings(work, folder),
            train_dataset=datasets.Dataset.from_list(texts),
            processing_class=tokenizer_for(work.vocab),
            callbacks=[clock],
        )
        positions = check_tokens(
            trainer, examples, work.micro_batch_pairs, work.warm_steps * work.pairs_per_step
        )
        assert not any(getattr(layer, "gradient_checkpointing", False) for layer in model.modules())
        trainer.train()
    timed = examples[work.warm_steps * work.pairs_per_step :]
    return Outcome(
        pairs_per_step=work.pairs_per_step,
        step_seconds=step_seconds(clock.ends, work),
        peak_mb=peak_mb(),
        pairs=len(timed),
        unique_tokens=unique_tokens(timed, work.pairs_per_step),
        scored_tokens=scored_tokens(timed),
        positions=positions,
    )


if __name__ == "__main__":
    answer(run)
