"""What a run from pairs to a LoRA adapter under a fixed budget does not load: it pays for nothing
that it does not use, and who follows it reads no more than it needs.
"""

import sys
from pathlib import Path

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.append(BENCHMARKS)

from size import SOURCE, loaded, tokens  # noqa: E402

# Left there, benchmarks/losses.py would hide the folder tests/losses from other tests.
sys.path.remove(BENCHMARKS)

MOST_FILES, MOST_TOKENS = 180, 140_000
UNUSED = {
    "": (
        "annotate",
        "bridging",
        "calls",
        "compare",
        "hub",
        "judges",
        "judging",
        "ranking",
        "rounds",
        "simulator",
        "suites",
        "sweep",
        "trl",
        "view",
    ),
    "cli": (
        "annotate",
        "compare",
        "config",
        "cost",
        "evaluate",
        "hub",
        "init",
        "mock_server",
        "rounds",
        "stages",
        "sweep",
        "tools",
        "usage",
        "view",
    ),
    "config": (
        "messages",
        "schema",
        "sweep",
    ),
    "data": (
        "hub",
        "judged",
        "own_sources",
        "playground",
        "reference_answers",
        "table_formats",
    ),
    "data/layouts": (
        "answers",
        "chats",
        "conversations",
        "fields",
        "graded",
        "trainers",
        "votes",
    ),
    "executors": (
        "dispatch",
        "ray_cluster",
        "ray_pool",
        "worker",
    ),
    "losses": (
        "cards",
        "lists",
        "other_references",
        "points",
        "rewards",
    ),
    "metrics": (
        "judges",
        "rewards",
        "runs",
        "sweeps",
        "texts",
        "win_rates",
    ),
    "metrics/statistics": (
        "intervals",
        "resampling",
    ),
    "models": (
        "mixture",
        "mock_server",
        "openai",
        "scripted",
        "served",
    ),
    "models/hf": (
        "open_rows",
        "reward",
        "reward_head",
        "sampling",
    ),
    "pairing": (
        "select",
        "selectors",
    ),
    "playground": ("world",),
    "run": (
        "fetch",
        "journal",
        "journal_parts",
        "mirror",
        "remote",
        "segments",
        "store_lease",
    ),
    "stages": (
        "anchors",
        "bridge",
        "evaluate",
        "head_to_head",
        "pair_job",
        "plan",
        "rank",
        "ranker",
        "replay",
        "sample",
        "selection",
        "servers",
        "shards",
        "token_logps",
    ),
    "training": (
        "budget",
        "cross_prompt",
        "memory_estimate",
        "reward_texts",
        "token_sample",
    ),
    "training/distributed": ("sharded",),
    "training/logging": ("trackers",),
    "training/reference": ("ches",),
    "training/relations": (
        "labels",
        "lists",
        "mixed",
        "pair_extras",
        "rewards",
    ),
    "training/step_sources": (
        "self_play",
        "shares",
    ),
}
"""By their room; those of the first line are rooms themselves."""


def test_a_lora_run_from_pairs_loads_only_what_it_uses() -> None:
    unused = [f"{room}/{name}".strip("/") for room, names in UNUSED.items() for name in names]
    for part in unused:
        there = SOURCE / part
        assert there.is_dir() or there.with_suffix(".py").is_file(), f"{part} has moved"
    files = loaded()
    names = [path.relative_to(SOURCE).with_suffix("").as_posix() for path in files]
    assert "training/loop" in names, "it has trained"
    assert "report/page" in names, "it has reported"
    assert not {
        name for name in names for part in unused if name == part or name.startswith(f"{part}/")
    }
    assert len(files) <= MOST_FILES
    assert sum(map(tokens, files)) <= MOST_TOKENS
