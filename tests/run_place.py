"""A working directory with everything that a small run needs, and ways to spoil it."""

import hashlib
import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

OK, CONFIG, DATA, BACKEND, LIMIT = 0, 2, 3, 4, 5
GONE = "(taken away)"


def good_config() -> dict[str, Any]:
    """A run over `answers.jsonl` with recorded grades; one training step of a tiny model."""
    return {
        "run_dir": "run",
        "policy": {"name": "hf", "path": "model"},
        "completions": {"name": "file", "path": "answers.jsonl"},
        "rank": {"judge": {"name": "recorded"}},
        "pair": {"selector": {"name": "best_vs_random"}},
        "train": {
            "loss": {"name": "dpo", "beta": 0.1},
            "regularizer": {"name": "budget", "delta": 1.0},
            "max_steps": 1,
            "pairs_per_step": 2,
            "learning_rate": 1e-3,
        },
    }


SAMPLED = {
    "completions": GONE,
    "policy": {"name": "scripted", "replies": ["a cup of tea", "no", "the kettle {sample}"]},
    "prompts": {"name": "file", "path": "prompts.jsonl"},
    "sample": {"completions_per_prompt": 3},
}
"""Changes that make the run begin with prompts and a scripted model."""

PAIRS = {"completions": GONE, "rank": GONE, "pairs": {"name": "file", "path": "pairs.jsonl"}}
"""Changes that make the run begin with pairs."""


def good_answers() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"question {n}",
            "completions": [{"text": f"answer {n} {m}", "grade": m} for m in range(3)],
        }
        for n in range(4)
    ]


def good_prompts() -> list[dict[str, Any]]:
    return [{"prompt": f"question {n}"} for n in range(4)]


def good_pairs() -> list[dict[str, Any]]:
    return [
        {"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(4)
    ]


def jsonl(rows: list[Any]) -> bytes:
    """Rows as JSON Lines; a row of bytes is a line as it is."""
    return b"".join(
        row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows
    )


class Place:
    """A working directory with the files of a run that works."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        self._model = model
        self.config: dict[str, Any] = good_config()
        self.repair()

    def repair(self) -> None:
        """Put every input back as it should be."""
        shutil.rmtree(self.root / "model", ignore_errors=True)
        shutil.copytree(self._model, self.root / "model")
        self.put("answers.jsonl", jsonl(good_answers()))
        self.put("prompts.jsonl", jsonl(good_prompts()))
        self.put("pairs.jsonl", jsonl(good_pairs()))
        self.write_config()

    def change(self, changes: dict[str, Any]) -> None:
        """Set dotted keys of the configuration, or take them away."""
        for path, value in deepcopy(changes).items():
            *parents, key = path.split(".")
            section = self.config
            for name in parents:
                section = section.setdefault(name, {})
            if value is GONE:
                section.pop(key, None)
            else:
                section[key] = value
        self.write_config()

    def write_config(self) -> None:
        self.put("run.yaml", yaml.safe_dump(self.config).encode())

    def put(self, name: str, content: bytes | str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def inputs(self) -> dict[str, str]:
        """Hashes of all files outside the run folder."""
        files = [path for path in sorted(self.root.rglob("*")) if path.is_file()]
        outside = [path for path in files if (self.root / "run") not in path.parents]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in outside}
