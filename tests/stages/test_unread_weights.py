"""Weights in a folder that the model's class has no place for are told, wherever it is loaded."""

import html
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from command import prefine
from run_place import GONE, OK, Place
from tiny_reward import save_reward_model

EXTRA = {"v_head.summary.weight": torch.ones(1, 16), "v_head.summary.bias": torch.zeros(1)}
SAID = "has no place for 2 × weights of the files, such as v_head.summary.bias, v_head.summary.weig"


def add_weights(folder: Path) -> None:
    """Put a value head beside the model's weights, as trainers of other methods leave one."""
    file = folder / "model.safetensors"
    save_file(load_file(file) | EXTRA, file, metadata={"format": "pt"})


def notes(stage: str) -> list[str]:
    found: dict[str, Any] = json.loads(Path("run/manifest.json").read_text())["stages"][stage]
    return [note for note in found["notes"] if "no place for" in note]


def test_training_says_so_in_terminal_and_report(place: Place) -> None:
    add_weights(place.root / "model")
    found = prefine("run", "run.yaml")
    assert found.code == OK, found.err
    (note,) = notes("train")
    assert note.startswith(f"model: LlamaForCausalLM {SAID}")
    assert note in found.out
    assert note in html.unescape(Path("run/report.html").read_text())
    saved = load_file(place.root / "run" / "model" / "model.safetensors")
    assert not saved.keys() & EXTRA.keys()


def test_sampling_and_a_reward_model_say_so_too(place: Place) -> None:
    add_weights(place.root / "model")
    add_weights(save_reward_model(place.root / "reward"))
    place.change(
        {
            "completions": GONE,
            "prompts": {"name": "file", "path": "prompts.jsonl"},
            "sample": {"completions_per_prompt": 2, "max_new_tokens": 4},
            "rank": {"judge": {"name": "reward", "path": "reward"}},
            "rank.strategy": {"name": "pointwise"},
        }
    )
    for stage in ("sample", "rank"):
        found = prefine(stage, "run.yaml")
        assert found.code == OK, found.err
    assert notes("sample")[0].startswith(f"model: LlamaForCausalLM {SAID}")
    assert notes("rank")[0].startswith(f"reward: LlamaForSequenceClassification {SAID}")


def test_a_whole_model_is_not_remarked_on(place: Place) -> None:
    assert prefine("run", "run.yaml").code == OK
    assert not notes("train")
