"""Runs whose policy and judge are served by prefine itself: rounds, kills, and dry runs."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import stand_in_engine as engine
from command import prefine, start
from prefine.models.playground import playground_folder

FOLDER = str(playground_folder())


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def configuration(log: Path, *options: str, replicas: int = 2, **sections: Any) -> str:
    """Write a run whose policy is served by stand-ins, and return the file."""
    policy = {
        "name": "served",
        "path": FOLDER,
        "engine": "command",
        "command": engine.command(log, *options),
        "prompts_as": "text",
        "replicas": replicas,
        "concurrency": 2,
    }
    config = {
        "run_dir": str(log.parent / "run"),
        "policy": policy,
        "prompts": {"name": "playground", "count": 12},
        "sample": {"completions_per_prompt": 3, "temperature": 1.0, "max_new_tokens": 40},
        "rank": {"judge": {"name": "stand_in_engine:score"}},
        "train": {"pairs_per_step": 8, "learning_rate": 1e-4},
    } | sections
    file = log.parent / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def stages(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())["stages"]
    return found


def test_two_rounds_each_served_from_what_the_one_before_has_trained(log: Path) -> None:
    judge = {
        "name": "pairwise",
        "model": {
            "name": "served",
            "path": FOLDER,
            "engine": "command",
            "command": engine.command(log, "--no-health"),
            "prompts_as": "text",
        },
    }
    evaluate = {"prompts": {"name": "playground", "count": 2, "split": "test"}, "judge": judge}
    file = configuration(log, replicas=1, rounds={"count": 2}, evaluate=evaluate)
    result = prefine("run", file)
    assert result.code == 0, result.err
    run = log.parent / "run"
    starts = [one["path"] for one in engine.logged(log, "start")]
    first, second = (str(run / name / "model") for name in ("round-01", "round-02"))
    # Sampled, evaluated with the first policy and the trained one, judged; then compared.
    assert starts[:4] == [FOLDER, FOLDER, first, FOLDER]
    assert starts.count(first) >= 3 and starts.count(second) >= 1
    assert set(starts) == {FOLDER, first, second}
    assert not engine.running(log)
    (note,) = stages(run / "round-02")["sample"]["notes"]
    assert note == (
        f"round-01: {first} (the whole model) is served by 1 × command; prompts go as text"
    )
    tables = [
        stages(run / name)["sample"]["counts"]["produced"] for name in ("round-01", "round-02")
    ]
    assert sum(tables) == 36


def test_a_judge_that_also_compares_across_prompts_is_started_once(log: Path) -> None:
    judge = {
        "name": "pairwise",
        "model": {
            "name": "served",
            "path": FOLDER,
            "engine": "command",
            "command": engine.command(log),
            "prompts_as": "text",
        },
    }
    file = configuration(
        log,
        policy={"name": "scripted", "replies": ["a cup of tea", "no", "the kettle {sample}"]},
        rank={"judge": judge, "across": {"per_prompt": 1}},
    )
    assert prefine("sample", file).code == 0
    result = prefine("rank", file)
    assert result.code == 0, result.err
    assert any(
        "comparisons across prompts" in one for one in stages(log.parent / "run")["rank"]["notes"]
    )
    assert len(engine.logged(log, "start")) == 1
    assert not engine.running(log)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_ended_leaves_no_server_and_goes_on_where_it_was(
    number: signal.Signals, log: Path
) -> None:
    file = configuration(log, "--seconds", "0.05", "--leaves-group")
    process = start("sample", file)
    end = time.monotonic() + 60
    while len(engine.logged(log, "request")) < 12:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    code = process.wait(60)
    assert code == (6 if number == signal.SIGINT else -signal.SIGKILL)
    assert engine.gone(log, 20)
    before = len(engine.logged(log, "request"))
    result = prefine("sample", file)
    assert result.code == 0, result.err
    manifest = stages(log.parent / "run")["sample"]
    assert manifest["counts"]["produced"] == 36
    requests = engine.logged(log, "request")
    asked = [json.dumps([one["body"]["prompt"], one["body"]["seed"]]) for one in requests]
    assert len(set(asked)) == 36
    # Two servers with two requests each were cut; all others were journaled, and are not repeated.
    assert len(asked) - 36 <= 4
    assert len(asked) - before == 36 - manifest["replayed"]
    assert not engine.running(log)


def test_a_dry_run_says_what_would_be_started_and_starts_nothing(log: Path) -> None:
    file = configuration(log)
    result = prefine("run", file, "--dry-run")
    assert result.code == 0, result.err
    said = " ".join((result.out + result.err).split())
    assert "policy: starts 2 × `" in said
    assert f"--path {FOLDER} --port PORT" in said
    assert "on loopback" in said
    assert not engine.logged(log, "start")


def test_an_engine_that_is_not_installed_is_named_before_anything_is_spent(log: Path) -> None:
    file = configuration(log)
    result = prefine("run", file, "--set", "policy.engine=sglang", "--set", "policy.command=null")
    assert result.code == 2
    assert "policy.engine: sglang: this Python has no module sglang; pip install" in result.err
    assert not (log.parent / "run" / "manifest.json").exists()


def test_an_adapter_that_could_not_be_served_is_refused_before_anything_is_spent(log: Path) -> None:
    train = {"adapter": {"name": "lora"}}
    evaluate = {"prompts": {"name": "playground", "count": 2, "split": "test"}}
    file = configuration(log, train=train, evaluate=evaluate)
    result = prefine("run", file)
    assert result.code == 2
    assert "the engine of policy serves no adapters" in result.err and "save: merged" in result.err
    assert not engine.logged(log, "start")


def test_how_it_is_served_may_change_in_a_begun_run_and_what_is_served_not(log: Path) -> None:
    file = configuration(log)
    assert prefine("sample", file).code == 0
    more = ("--set", "policy.replicas=1", "--set", "policy.timeout_s=9")
    assert prefine("sample", file, *more).code == 0
    result = prefine("sample", file, "--set", "policy.prompts_as=messages")
    assert result.code == 2 and "policy.prompts_as" in result.err
    assert len(engine.logged(log, "request")) == 36
