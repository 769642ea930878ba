"""Small files and models under the names that the documentation uses.

    python benchmarks/documented_stand_ins.py FOLDER

A folder in the working directory is taken before a hub id of the same name, so commands need no
other words: `HuggingFaceTB/SmolLM2-135M-Instruct` is here a model of a few thousand weights.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PHRASES = ["Rain", " falls", " from", " clouds", " water", " is", " warm", ".", " 6", " 12", " 18"]
POLICIES = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen3-0.6B",
)
REWARD = "Skywork/Skywork-Reward-V2-Qwen3-0.6B"


def rows(path: Path, values: list[dict[str, Any]]) -> None:
    """Write JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in values), encoding="utf-8")


def write_files(folder: Path) -> None:
    """Write the users' files of the pages."""
    asked = [f"What is 6 times {n}?" for n in range(1, 9)]
    pairs = [
        {"prompt": prompt, "chosen": f"It is {6 * n}.", "rejected": "I do not know."}
        for n, prompt in enumerate(asked, 1)
    ]
    answers = [
        {"prompt": prompt, "completions": [f"It is {n * m}." for m in (6, 7, 8, 9)]}
        for n, prompt in enumerate(asked, 1)
    ]
    rows(folder / "pairs.jsonl", pairs)
    rows(folder / "completions.jsonl", answers)
    rows(folder / "data" / "answers.json", answers)
    lines = (folder / "data" / "answers.json").read_text().splitlines()
    (folder / "data" / "answers.json").write_text(f"[{', '.join(lines)}]")
    first = asked[:4]
    rows(folder / "prompts.jsonl", [{"prompt": p, "answer": 6 * n} for n, p in enumerate(first, 1)])
    unseen = [{"prompt": f"What is 3 times {n}?", "answer": 3 * n} for n in (2, 4, 6)]
    rows(folder / "eval_prompts.jsonl", unseen)
    labels = [
        {"prompt": one["prompt"], "completion": one[side], "label": side == "chosen"}
        for one in pairs
        for side in ("chosen", "rejected")
    ]
    rows(folder / "labels.jsonl", labels)
    lists = [
        [{"text": f"It is {n * m}.", "score": -abs(m - 6)} for m in range(12)] for n in range(1, 9)
    ]
    rows(
        folder / "lists.jsonl",
        [{"prompt": p, "completions": some} for p, some in zip(asked, lists, strict=True)],
    )
    rows(
        folder / "pool.jsonl",
        [{"instruction": f"What is {n} times 6?", "completions": lists[n % 8]} for n in range(120)],
    )
    graded = [
        {"prompt": f"What is {n} times {n}?", "completion": f"It is {n * n}.", "grade": n % 10}
        for n in range(110)
    ]
    rows(folder / "graded.jsonl", graded)
    table = {"subset": ["alpacaeval-easy"] * 8, "results": [1, 0, 1, 1, 0.5, 1, 1, 0]}
    (folder / "judge_result.json").write_text(json.dumps(table))


def write_hub(folder: Path) -> None:
    """Write data sets in the form of the hub's, and the models."""
    from phrase_model import save_phrase_model
    from tiny_reward import save_reward_model

    questions = [f"What is {n} plus {n}?" for n in range(520)]
    chats = [[{"role": "user", "content": prompt}] for prompt in questions]
    binarized = [
        {
            "prompt": chat[0]["content"],
            "chosen": [*chat, {"role": "assistant", "content": f"It is {2 * n}."}],
            "rejected": [*chat, {"role": "assistant", "content": "I do not know."}],
            "score_chosen": 8.0,
            "score_rejected": 3.0,
        }
        for n, chat in enumerate(chats)
    ]
    data = folder / "HuggingFaceH4" / "ultrafeedback_binarized" / "data"
    rows(data / "train_prefs-00000-of-00001.jsonl", binarized)
    plain = [{"question": q, "chosen": "Yes.", "rejected": "No."} for q in questions[:20]]
    rows(folder / "org" / "name" / "data" / "train-00000-of-00001.jsonl", plain)
    first, *others = (folder / name for name in POLICIES)
    save_phrase_model(first, PHRASES)
    for other in others:
        shutil.copytree(first, other)
    reward = save_reward_model(folder / REWARD) / "config.json"
    config = json.loads(reward.read_text()) | {"max_position_embeddings": 4096}
    reward.write_text(json.dumps(config))


def main(folder: Path) -> None:
    """Write all of it."""
    sys.path.insert(0, str(ROOT / "tests"))
    write_files(folder)
    write_hub(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
