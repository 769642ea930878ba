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
from prefine.executors.refusals import refuse
from prefine.run.journal import Journal
from prefine.run.view import RunView

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
TABLES = (
    "completions",
    "rankings",
    "judgments",
    "joint_judgments",
    "pairs",
    "heldout_pairs",
    "evaluation",
)


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


SERVED = {"name": "served", "path": "model", "engine": "vllm"}


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"policy": SERVED}, "policy"),
        ({"rank": {"judge": {"name": "pairwise", "model": SERVED}}}, "rank.judge.model"),
        ({"sample": {"model": {"name": "mixture", "models": [SERVED]}}}, "sample.model.models.0"),
    ],
)
def test_servers_are_not_started_by_workers(sections: dict[str, Any], where: str) -> None:
    spread = RunConfig.model_validate(CONFIG | sections | {"run_dir": "x", "executor": "ray"})
    with pytest.raises(ConfigError, match=rf"^{where}: workers of a cluster would each start serv"):
        executor_of(spread).check(spread)
    Path("served.yaml").write_text(yaml.safe_dump(CONFIG | sections | {"run_dir": "x"}))
    found = prefine("run", "served.yaml", "--set=executor=ray")
    assert found.code == 2 and f"{where}: workers of a cluster" in found.err, found.err
    assert not Path("x/manifest.json").exists()


def test_batch_files_are_not_handed_over_by_workers() -> None:
    model = {"name": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m", "calls": "batch"}
    judged = CONFIG | {"rank": {"judge": {"name": "pairwise", "model": model}}, "run_dir": "x"}
    Path("batch.yaml").write_text(yaml.safe_dump(judged))
    found = prefine("run", "batch.yaml", "--dry-run", "--offline", "--set=executor=ray")
    assert found.code == 2, found.err
    assert "rank.judge.model.calls: workers of a cluster would hand over a batch file" in found.err
    config = RunConfig.model_validate(judged | {"executor": "ray"})
    refuse(config, "sample")
    with pytest.raises(ConfigError, match=r"use executor: local for what asks this model"):
        refuse(config, "rank")


def test_a_run_at_a_url_is_not_spread(tmp_path: Path) -> None:
    found = prefine("run", "config.yaml", f"--run-dir=file://{tmp_path}/at", "--set=executor=ray")
    assert found.code == 2, found.err
    assert "executor: workers keep their answers in the run folder while they work" in found.err
    assert not list(Path("at").rglob("manifest.json"))


def test_a_stage_that_asks_no_served_model_may_be_spread() -> None:
    served = CONFIG | {"evaluate": CONFIG["evaluate"] | {"baseline": SERVED}}
    config = RunConfig.model_validate(served | {"run_dir": "x", "executor": "ray"})
    for stage in ("sample", "rank", "pair"):
        refuse(config, stage)
    with pytest.raises(ConfigError, match=r"^evaluate.baseline: workers of a cluster"):
        refuse(config, "evaluate")


ACROSS: dict[str, Any] = {
    "policy": {"name": "scripted", "replies": ["tea is warm .", "{prompt}", "no", "i like tea ."]},
    "prompts": {"name": "playground", "count": 33},
    "rank": {
        "judge": {"name": "playground", "accuracy": 0.8, "first_slot_bias": 0.3},
        "strategy": {"name": "minmax"},
        "across": {},
    },
    "pair": {"selector": {"name": "joint"}, "held_out_prompts": 4},
    "train": {"loss": {"name": "jpo"}},
}


@pytest.mark.parametrize("most", [None, 40])
def test_comparisons_across_prompts_are_spread(most: int | None) -> None:
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG | ACROSS | {"run_dir": "unused"}))
    limit = {"rank.across": {"max_comparisons": most}}
    for stage in ("sample", "rank", "pair"):
        run(stage, "alone", **limit)
        run(stage, "spread", **limit, executor=OWN)
    assert contents("spread") == contents("alone")
    assert len(list(Path("spread/joint_judgments").iterdir())) == 7
    pairs = RunView(Path("spread")).pairs()
    assert sum(pair.rejected_prompt is not None for pair in pairs) > 5
    for stage in ("rank", "pair"):
        ours, theirs = manifest("spread")[stage], manifest("alone")[stage]
        for key in ("counts", "usage", "notes", "input_hashes", "output_hashes"):
            assert ours[key] == theirs[key], (stage, key)
    asked = sum(1 for _ in RunView(Path("spread")).joint_judgments())
    assert asked == 80 if most else asked > 80
    assert [path.name for path in Path("spread/journal").iterdir()] == ["part-00000.sqlite"]


def test_pairs_of_a_reference_answer_are_spread() -> None:
    rows = [json.dumps({"prompt": f"say {n}", "reference": f"{n} is it"}) for n in range(33)]
    Path("prompts.jsonl").write_text("\n".join(rows))
    unranked = CONFIG | {"pair": {"selector": "reference_vs_sample", "held_out_prompts": 4}}
    del unranked["rank"], unranked["evaluate"]
    Path("config.yaml").write_text(yaml.safe_dump(unranked | {"run_dir": "unused"}))
    for stage in ("sample", "pair"):
        run(stage, "alone")
        run(stage, "spread", executor=OWN)
    assert contents("spread") == contents("alone")
    assert len({pair.prompt.id for pair in RunView(Path("spread")).pairs()}) == 29
    ours, theirs = manifest("spread")["pair"], manifest("alone")["pair"]
    assert ours["counts"] == theirs["counts"] and ours["counts"]["dropped"]["held out"] >= 4


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
