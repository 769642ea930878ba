"""Every stage that works on shards gives the same bytes in one process and spread over workers."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from command import prefine
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.executors.protocol import executor_of
from prefine.run.journal import Journal

OWN = {"name": "own_workers:OwnWorkers", "seed": 5}
SERVER: dict[str, Any] = {"name": "scripted", "replies": ["one", "two", "three two", "four"]}
CONFIG: dict[str, Any] = {
    "policy": SERVER,
    "prompts": "prompts.jsonl",
    "sample": {"completions_per_prompt": 4, "shard_prompts": 5, "max_failed_fraction": 0.5},
    "rank": {"judge": "longest:more", "strategy": {"name": "round_robin"}},
    "pair": {"held_out_prompts": 4, "fraction": 0.8},
    "evaluate": {
        "prompts": "evaluation.jsonl",
        "model": {"name": "scripted", "replies": ["a", "bb", "ccc"]},
        "baseline": SERVER,
    },
}
STAGES = ("sample", "rank", "evaluate", "pair")
TABLES = ("completions", "rankings", "judgments", "pairs", "heldout_pairs", "evaluation")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count in (("prompts", 33), ("evaluation", 300)):
        rows = [json.dumps({"prompt": f"{name} {number}"}) + "\n" for number in range(count)]
        Path(f"{name}.jsonl").write_text("".join(rows))
    Path("longest.py").write_text(
        "def more(prompt, completion):\n    return len(completion.text) + len(prompt.text) % 3\n"
    )
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG | {"run_dir": "unused"}))


def run(stage: str, folder: str, **settings: Any) -> None:
    extra = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    found = prefine(stage, "config.yaml", "--run-dir", folder, *extra)
    assert found.code == 0, found.err


def contents(folder: str) -> dict[str, bytes]:
    paths = [path for table in TABLES for path in sorted(Path(folder, table).rglob("*.*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def manifest(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "manifest.json").read_text())["stages"]
    return found


def test_all_stages_give_the_same_bytes_and_counts() -> None:
    for stage in STAGES:
        run(stage, "alone")
        run(stage, "spread", executor=OWN)
    assert contents("spread") == contents("alone")
    assert len(list(Path("spread/completions").iterdir())) == 7
    assert Path("spread/metrics.json").read_bytes() == Path("alone/metrics.json").read_bytes()
    for stage in STAGES:
        ours, theirs = manifest("spread")[stage], manifest("alone")[stage]
        for key in ("counts", "usage", "notes", "input_hashes", "output_hashes", "config"):
            assert ours[key] == theirs[key], (stage, key)
    assert [path.name for path in Path("spread/journal").iterdir()] == ["part-00000.sqlite"]


def test_a_begun_run_changes_its_executor() -> None:
    run("sample", "alone")
    run("rank", "alone")
    run("sample", "spread", executor=OWN)
    stopped = prefine("rank", "config.yaml", "--run-dir", "spread", "--set=rank.max_calls=40")
    assert stopped.code == 5
    run("rank", "spread", executor=OWN)
    assert contents("spread") == contents("alone")
    asked = manifest("spread")["rank"]
    journal = Journal(Path("spread/journal/part-00000.sqlite"))
    assert asked["usage"]["calls"] + manifest("spread")["sample"]["usage"]["calls"] == (
        journal.count()
    )
    journal.close()
    assert asked["replayed"] > 0


def test_what_other_processes_cannot_import_is_refused() -> None:
    config = RunConfig.model_validate(CONFIG | {"run_dir": "x", "executor": "ray"})
    executor_of(config).check(config)
    given = CONFIG | {"rank": {"judge": {"name": lambda prompt, completion: 1.0}}}
    local = RunConfig.model_validate(given | {"run_dir": "x"})
    executor_of(local).check(local)
    spread = RunConfig.model_validate(given | {"run_dir": "x", "executor": "ray"})
    with pytest.raises(ConfigError, match=r"rank.judge: a judge that was given as an object"):
        executor_of(spread).check(spread)


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    run("sample", "x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        setting = f"--set=executor={json.dumps({'name': 'ray', 'address': address})}"
        found = prefine("rank", "config.yaml", "--run-dir", "x", setting)
    assert found.code == 4, found.err
    assert f"executor.address: '{address}': no Ray cluster answers" in found.err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "rey"}, "executor.name: unknown executor 'rey'; did you mean 'ray'?"),
        ({"name": "ray", "nodes": 3}, "executor.nodes: unknown option of executor 'ray'"),
        ({"name": "ray", "workers": 0}, "executor.workers"),
        ({"name": "local", "workers": 2}, "executor.workers: unknown option of executor 'local'"),
    ],
)
def test_a_wrong_executor_is_found_before_anything_is_done(value: Any, message: str) -> None:
    setting = f"--set=executor={json.dumps(value)}"
    found = prefine("run", "config.yaml", "--run-dir", "x", setting)
    assert found.code == 2
    assert message in found.err
    assert not Path("x/manifest.json").exists()
