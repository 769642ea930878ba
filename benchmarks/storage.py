"""Runs at a URL whose machines are lost, and runs that go over the hub.

    python benchmarks/storage.py [machines] [hub]

`machines` works on runs at an S3-like server (moto) on loopback. A machine is a folder: the command
is killed without warning and the folder deleted, at three moments of `rank` and one of `train`, and
the same command goes on in an empty folder. The judge is `mock-server`, which counts.
`hub` pushes a run to a hub on loopback, pulls it back, and plants keys and paths.
Exits with 1 if there is a MISS.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from hub.test_hub import PLANTED, below, on_hub, with_licence

from command import prefine
from kept_runs import (
    BUCKET,
    answers_at,
    checkpoints_at,
    judged_place,
    kept,
    kept_at,
    killed_when,
    lost,
    s3_server,
    segments_at,
    slow_training,
    started,
)
from line import Line
from loopback_hub import environment, loopback_hub
from mock_place import mock_server
from prefine.run.mirror import MOST_UNSENT, SEGMENT_S
from run_place import Place
from tiny_model import save_tiny_model

PROMPTS, CONCURRENCY, LATENCY_S, STEPS = 300, 8, 0.05, 12
KILLS = 3


def machines(root: Path, model: Path) -> Iterator[Line]:
    """Lose machines in rank and in train."""
    place, url = Place(root, model), f"s3://{BUCKET}/run"
    with mock_server(latency_s=LATENCY_S) as judge, s3_server() as variables:
        book = judge.server.book
        judged_place(place, judge.url, prompts=PROMPTS, concurrency=CONCURRENCY)
        slow_training(place, steps=STEPS)
        done = prefine("run", "run.yaml", "--run-dir", "whole")
        assert done.code == 0, done.err
        whole, calls = kept(root / "whole"), book.requests

        draws, before, journaled = random.Random(0), 0, 0
        for number in range(1, KILLS + 1):
            asked, there = book.requests, segments_at(url)
            more = draws.randrange(1, 4)
            machine = started(place, url, f"machine-{number}", variables)
            killed_when(machine, lambda there=there, more=more: segments_at(url) >= there + more)
            lost(place, f"machine-{number}")
            before, journaled = journaled, answers_at(url)
            asked = book.requests - asked
            # What is asked beyond what is new at the store was in flight, or not sent yet.
            unsent = asked - (journaled - before)
            yield Line(
                f"machine lost in rank, {number} of {KILLS}",
                f"{journaled:,} of {calls:,} answers at the store; {unsent} were asked and were "
                f"not there yet (bound: {SEGMENT_S:g} s or {MOST_UNSENT:,}, and those in flight)",
                before < journaled < calls and unsent <= MOST_UNSENT + CONCURRENCY,
            )

        asked = book.requests
        machine = started(place, url, "in-train", variables | {"PAUSE_S": "0.5"})
        killed_when(machine, lambda: checkpoints_at(url) >= ["step-00004"])
        lost(place, "in-train")
        again = book.requests - asked - (calls - journaled)
        yield Line(
            "the next machine, from an empty disk, in rank",
            f"{again} of {journaled:,} answers at the store asked again, by the server's count",
            again == 0,
        )
        newest, asked, began = checkpoints_at(url)[-1], book.requests, time.monotonic()
        machine = started(place, url, "last", variables)
        _, said = machine.communicate(timeout=600)
        step = int(newest.removeprefix("step-"))
        yield Line(
            "the next machine, after one was lost in train",
            f"went on after step {step} of {STEPS}, 0 calls, {time.monotonic() - began:.0f} s "
            "from start to end",
            machine.returncode == 0
            and book.requests == asked
            and f"training goes on after step {step}" in said
            and step < STEPS,
        )
        same = kept(root / "last" / "work") == whole == kept_at(url)
        yield Line(
            "its tables, logs and model, on the disk and at the store",
            f"{len(whole)} files with the bytes of a run in one go: {same}",
            same,
        )


def hub(root: Path, model: Path) -> Iterator[Line]:
    """Push, pull, go on, and try to publish what is private."""
    place = Place(root, model)
    with_licence(place)
    with loopback_hub() as there:
        variables = environment(there, str(root / "home"))
        done = on_hub(variables, "push", "run", "--repo", "ada/tea")
        assert done.code == 0, done.err
        repos = list(there.repos.values())
        commits = [len(repo.commits) - 1 for repo in repos]
        yield Line(
            "push a model, its pairs and the report",
            f"{sum(len(repo.files) for repo in repos)} files, {commits} commits, private: "
            f"{[repo.private for repo in repos]}",
            commits == [1, 1] and all(repo.private for repo in repos),
        )
        done = on_hub(variables, "pull", "ada/tea", "--to", "back")
        assert done.code == 0, done.err
        sent = [{n: one for n, one in repo.files.items() if n[0] != "."} for repo in repos]
        came = [below(root / "back" / name) for name in ("model", "data")]
        yield Line("pull it back", f"same bytes: {came == sent}", came == sent)
        weights = below(root / "run" / "model")["model.safetensors"]
        tables = below(root / "run" / "pairs")
        yield Line(
            "beside the run itself",
            f"weights as trained: {came[0]['model.safetensors'] == weights}; "
            f"{len(tables)} part of pairs, its source's path shortened to the name",
            came[0]["model.safetensors"] == weights,
        )
        on = ("--set", "policy.path=back/model", "--set", "completions=null", "--set", "rank=null")
        done = prefine(
            *("run", "run.yaml", "--run-dir", "next", *on),
            *("--set", "pairs={name: file, path: back/data/pairs}"),
        )
        yield Line("train on from it", f"exit code {done.code}", done.code == 0)
        refused = []
        for name, (plant, words) in PLANTED.items():
            run = shutil.copytree(root / "run", root / "planted" / "run")
            plant(run)
            commits_before = [len(repo.commits) for repo in repos]
            done = on_hub(variables, "push", str(run), "--repo", "ada/tea")
            sent_nothing = commits_before == [len(repo.commits) for repo in repos]
            if done.code == 2 and sent_nothing and all(word in done.err for word in words):
                refused.append(name)
            else:
                print(f"{name}: exit code {done.code}\n{done.err}", file=sys.stderr)
            shutil.rmtree(root / "planted")
        yield Line(
            "planted keys and paths",
            f"{len(refused)} of {len(PLANTED)} refused with file and place, nothing sent: "
            + "; ".join(refused),
            len(refused) == len(PLANTED),
        )


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["machines", "hub"])
    wanted = parser.parse_args().what
    missed = False
    for name, rows in (("machines", machines), ("hub", hub)):
        if name not in wanted:
            continue
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "place"
            root.mkdir()
            model = save_tiny_model(Path(folder) / "model")
            os.chdir(root)
            for line in rows(root, model):
                print(line, flush=True)
                missed |= line.ok is False
            os.chdir("/")
    sys.exit(missed)


if __name__ == "__main__":
    main()
