"""A run of prefine and one of TRL on the same pairs."""

from pathlib import Path
from typing import Any

import datasets
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from command import prefine
from run_place import OK, PAIRS, Place, jsonl

WORDS = [
    *("the", "kettle", "is", "bright", "and", "warm", "today", "while"),
    *("a", "small", "cup", "of", "tea", "stands", "near", "some", "books"),
]


def plain_rows(count: int = 12) -> list[dict[str, Any]]:
    """Prompt and answers of different lengths as strings."""
    return [
        {
            "prompt": f"question {n} about {WORDS[n % 17]}",
            "chosen": " ".join(WORDS[n % 5 : n % 5 + 2 + n % 7]),
            "rejected": " ".join(WORDS[(n + 3) % 9 : (n + 3) % 9 + 1 + n % 4]) + f" {n}",
        }
        for n in range(count)
    ]


def conversations(count: int = 12) -> list[dict[str, Any]]:
    """The same as messages."""
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in plain_rows(count)
    ]


def longer_conversations(count: int = 12) -> list[dict[str, Any]]:
    """The same behind a system turn and an earlier exchange."""
    before = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "good day"},
    ]
    return [row | {"prompt": [*before, *row["prompt"]]} for row in conversations(count)]


def walked(place: Place, rows: list[dict[str, Any]], *, held_out: int = 0, **train: Any) -> Path:
    """The run folder of `prefine run` over the rows."""
    place.put("pairs.jsonl", jsonl(rows))
    settings = {
        "loss": {"name": "dpo"},
        "max_steps": 1,
        "pairs_per_step": 2,
        "learning_rate": 1e-3,
    } | train
    place.change(PAIRS | {"train": settings, "pair.held_out_prompts": held_out})
    found = prefine("run", "run.yaml")
    assert found.code == OK, found.err
    return place.root / "run"


def table(run: Path, name: str = "pairs") -> datasets.Dataset:
    """The pairs of a run as anybody loads them."""
    files = str(run / name / "*.parquet")
    return datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(run.parent / "cache")
    )


def trainer(place: Place, rows: datasets.Dataset, **settings: Any) -> DPOTrainer:
    """TRL's own trainer on the tiny model."""
    values = {
        "output_dir": str(place.root / "trl"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "beta": 0.1,
    }
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained("model"),
        args=DPOConfig(**(values | settings)),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained("model"),
    )
