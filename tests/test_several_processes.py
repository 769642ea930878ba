"""`prefine train` in two processes: what one would make, and an end for both whatever ends one
of them.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from command import Started, prefine, start
from run_place import PAIRS, Place, jsonl

CONFIG, BACKEND, LIMIT, INTERRUPTED = 2, 4, 5, 6
STEPS = 6
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ACCELERATE = Path(__file__).parents[1] / "configs" / "accelerate"

LOSS = """
import os, signal, time
from torch import distributed as dist
from prefine.errors import LimitError
from prefine.losses import dpo
from prefine.losses.protocol import declare

@declare()
def slow(logps, *, pause: float = 0.0):
    time.sleep(pause)
    return dpo(logps)

@declare()
def faulty(logps, *, rank: int, fault: str):
    loss = dpo(logps)
    # Before the first update all margins are 0.
    if dist.is_initialized() and dist.get_rank() == rank and float(logps.margin.abs().max()) > 1e-5:
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "nan":
            return loss * float("nan")
        raise LimitError("the fault that was asked for")
    return loss
"""


@pytest.fixture
def training(place: Place) -> Place:
    """Pairs of very different lengths that are ready to train on; the last step of an epoch has
    a single one.
    """
    rows = [
        {"prompt": f"question {n}", "chosen": "good tea " * (1 + 3 * n), "rejected": f"bad {n}"}
        for n in range(7)
    ]
    train = {
        "pairs_per_step": 3,
        "epochs": 2,
        "learning_rate": 1e-3,
        "checkpoint_every": 2,
        "seed": 3,
    }
    place.change(
        PAIRS
        | {f"train.{name}": value for name, value in train.items()}
        | {"train.max_steps": None}
    )
    place.put("pairs.jsonl", jsonl(rows))
    place.put("losses_here.py", LOSS)
    assert prefine("pair", "run.yaml").code == 0
    return place


def launch(*arguments: str, fsdp: bool = False) -> list[Started]:
    """Start the command twice, as launchers do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    meet |= FSDP2 if fsdp else {}
    return [
        start(*arguments, env=meet | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]


def ends(processes: list[Started], *, within_s: float = 60) -> tuple[list[int], str]:
    """Exit codes, and what was said."""
    try:
        said = [process.communicate(timeout=within_s)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "".join(said)


def log_rows(folder: str) -> list[dict[str, float]]:
    path = Path(folder) / "train_log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_same_model(one: str, other: str) -> None:
    first, second = (load_file(Path(name) / "model" / "model.safetensors") for name in (one, other))
    assert first.keys() == second.keys()
    for name, weights in first.items():
        # Adam divides a gradient by its own size, so rounding is felt as a share of an update.
        assert np.abs(weights - second[name]).max() <= 1e-3 * STEPS * 1e-2, name


@pytest.mark.parametrize("file", ["ddp.yaml", "fsdp2.yaml"])
def test_a_launcher_trains_what_one_process_trains(training: Place, file: str) -> None:
    assert prefine("train", "run.yaml", "--run-dir", "run").code == 0
    Path("run").rename("alone")
    assert prefine("pair", "run.yaml").code == 0
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(ACCELERATE / file),
    ]
    done = subprocess.run(
        [*launcher, "--num_processes", "2", "-m", "prefine", "train", "run.yaml", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (manifest,) = json.loads(done.stdout)
    assert manifest["complete"] and manifest["counts"]["produced"] == 7
    assert_same_model("run", "alone")
    assert [row["step"] for row in log_rows("run")] == list(range(1, STEPS + 1))
    for row, other in zip(log_rows("run"), log_rows("alone"), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert row["tokens"] == other["tokens"]
    # What is finished is finished for all.
    codes, said = ends(launch("train", "run.yaml"))
    assert codes == [0, 0], said


def test_an_automatic_budget_of_two_processes_is_that_of_one(training: Place) -> None:
    rows = [
        {"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"}
        for n in range(720)
    ]
    answers = [
        {"prompt": f"question {n}", "completions": [f"answer {n} {m}" for m in range(3)]}
        for n in range(20)
    ]
    training.put("pairs.jsonl", jsonl(rows))
    training.put("answers.jsonl", jsonl(answers))
    training.change(
        {
            # Answers of random models become likelier together: a budget that binds is below 0.
            "train.regularizer": {
                "name": "budget",
                "delta": -4.0,
                "every": 2,
                "anchor": {"chosen": 1.0, "unused": 1.0},
                "anchors": "answers.jsonl",
            },
            "train.regularizer_weight": "auto",
            "train.epochs": 1,
            "train.max_steps": STEPS,
        }
    )
    assert prefine("run", "run.yaml").code == 0
    Path("run").rename("alone")
    assert prefine("pair", "run.yaml").code == 0
    codes, said = ends(launch("train", "run.yaml"), within_s=120)
    assert codes == [0, 0], said
    assert_same_model("run", "alone")
    found, wanted = (
        [json.loads(line) for line in Path(folder, "budget_log.jsonl").read_text().splitlines()]
        for folder in ("run", "alone")
    )
    assert [row["step"] for row in found] == [row["step"] for row in wanted] == [0, 2, 4, 6]
    assert wanted[1]["regularizer_weight"] > 0
    for row, other in zip(found, wanted, strict=True):
        assert row.keys() == other.keys()
        for name, value in other.items():
            if value is None:
                assert row[name] is None, name
            else:
                assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert wanted[-1]["untouched_fall"] is not None


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_both_stop_at_the_same_step_and_one_goes_on(training: Place, fsdp: bool) -> None:
    training.change({"train.loss": {"name": "losses_here:slow", "pause": 0.1}})
    processes = launch("train", "run.yaml", fsdp=fsdp)
    while len(log_rows("run")) < 2 and all(process.poll() is None for process in processes):
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    codes, said = ends(processes)
    assert codes == [INTERRUPTED, INTERRUPTED], said
    assert said.count("the same command resumes") == 1
    reached = len(log_rows("run"))
    assert 2 <= reached < STEPS
    assert (Path("run/checkpoints") / f"step-{reached:05d}" / "hashes.json").exists()
    assert prefine("train", "run.yaml").code == 0
    assert len(log_rows("run")) == STEPS


@pytest.mark.parametrize(
    ("fault", "rank", "code", "words"),
    [
        ("nan", 1, LIMIT, "the loss of"),
        ("raise", 0, LIMIT, "the fault that was asked for"),
        ("kill", 1, BACKEND, "has ended without a word"),
    ],
)
def test_what_ends_one_process_ends_both(
    training: Place, fault: str, rank: int, code: int, words: str
) -> None:
    training.change({"train.loss": {"name": "losses_here:faulty", "rank": rank, "fault": fault}})
    codes, said = ends(launch("train", "run.yaml"))
    assert codes == [code, -signal.SIGKILL if fault == "kill" else code], said
    assert said.count(words) == 1
    assert "Traceback" not in said


def test_a_wrong_configuration_is_told_once(training: Place) -> None:
    training.change({"train.lossy": 1})
    codes, said = ends(launch("train", "run.yaml"))
    assert codes == [CONFIG, CONFIG]
    assert said.count("train.lossy") == 1


def test_an_adapter_of_divided_layers_is_merged_into_whole_ones(training: Place) -> None:
    training.change({"train.adapter": {"name": "lora", "rank": 2, "alpha": 4, "save": "merged"}})
    assert prefine("train", "run.yaml").code == 0
    Path("run").rename("alone")
    assert prefine("pair", "run.yaml").code == 0
    codes, said = ends(launch("train", "run.yaml", fsdp=True))
    assert codes == [0, 0], said
    assert_same_model("run", "alone")


@pytest.mark.parametrize(
    ("fault", "rank", "code", "words"),
    [
        ("nan", 1, LIMIT, "the loss of"),
        ("kill", 1, -signal.SIGKILL, "has ended without a word"),
    ],
)
def test_what_ends_one_process_ends_all_that_share_layers(
    training: Place, fault: str, rank: int, code: int, words: str
) -> None:
    training.change({"train.loss": {"name": "losses_here:faulty", "rank": rank, "fault": fault}})
    codes, said = ends(launch("train", "run.yaml", fsdp=True))
    # The other one loses it in the midst of a pass.
    assert codes[rank] == code and codes[1 - rank] == BACKEND, said
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "fsdp2.yaml"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version: 2"),
        (FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params is not supported"),
        (FSDP2 | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "train.gradient_checkpointing: true"),
    ],
)
def test_other_ways_to_divide_a_model_are_refused(
    place: Place, variables: dict[str, str], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remedy in refused_in_both("train", monkeypatch, variables)


@pytest.mark.parametrize("command", ["run", "train"])
def test_deepspeed_of_one_process_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    # What `accelerate launch --use_deepspeed --num_processes 1` sets.
    for name, value in {"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    found = prefine(command, "no-such-file.yaml")
    assert found.code == CONFIG
    assert "DeepSpeed is not supported: " in found.err and "fsdp2.yaml" in found.err


@pytest.mark.parametrize("command", ["run", "pair"])
def test_only_training_is_shared(
    place: Place, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = refused_in_both(command, monkeypatch, {})
    assert f"`prefine {command}` works in one process" in refusal and "prefine train" in refusal


def refused_in_both(
    command: str, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> str:
    """What the first of two processes says; the other says nothing."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", **variables}.items():
        monkeypatch.setenv(name, value)
    first = prefine(command, "run.yaml")
    assert first.code == CONFIG
    monkeypatch.setenv("RANK", "1")
    assert prefine(command, "run.yaml") == (CONFIG, "", "")
    return first.err
