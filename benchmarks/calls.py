"""The call engine at a server and alone: slots kept busy, kills, stops, rates, and growth with N.

    python benchmarks/calls.py [PART...]

PART is one of journal, judge, scale, stop, kills, batches, rank, sample (all samples of a prompt in
one request), sample_single (one a request), rank_even, sample_even, eubo; without any, all run, in
about half an hour: `rank`, `sample` and `eubo` at 128 calls in flight whose latency has the median
1 s. Every run is the real command in its own process on a disk. Prints
one line for each figure: ok or MISS, where there is a goal.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from line import Line
from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Batch, Call, Failure
from prefine.records import Comparison, Judgment, Usage
from prefine.run.journal import Journal
from prefine.run.tables import table_hash

HERE = Path(__file__).parent
PORT = 9017
URL = f"http://127.0.0.1:{PORT}"
IN_FLIGHT = 128
SIZES = (10_000, 50_000)
"""Prompts of the part `scale`; `--sizes` has others."""


class Run(NamedTuple):
    """One command: exit code, seconds, those of the processor, and its largest memory [MiB]."""

    code: int
    seconds: float
    cpu: float
    memory: float
    err: str


def command(stage: str, folder: Path, name: str = "run") -> list[str]:
    """The command line of a stage."""
    config, run = str(folder / "run.yaml"), str(folder / name)
    return [sys.executable, "-m", "prefine", stage, config, "--run-dir", run]


def finished(process: "subprocess.Popen[str]", began: float) -> Run:
    """Wait for a process, and for what it has used."""
    assert process.stderr is not None
    err = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    return Run(process.returncode, time.monotonic() - began, cpu, used.ru_maxrss / 1024, err)


def started(stage: str, folder: Path, name: str = "run") -> "subprocess.Popen[str]":
    """Start a stage in a process of its own."""
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent / 'src'}:{folder}"}
    return subprocess.Popen(
        command(stage, folder, name),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def done(stage: str, folder: Path, name: str = "run") -> Run:
    """Run a stage to its end."""
    began = time.monotonic()
    run = finished(started(stage, folder, name), began)
    assert run.code == 0, run.err
    return run


@contextmanager
def server(*options: str) -> Iterator[None]:
    """Run the server beside what is measured."""
    command = [sys.executable, "-m", "prefine", "mock-server", "--port", str(PORT), *options]
    process = subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(HERE.parent / "src")},
    )
    try:
        until(answers, process)
        yield
    finally:
        process.kill()
        process.wait()


def answers() -> bool:
    """True once the server is up."""
    try:
        stats()
    except OSError:
        return False
    return True


def stats(what: str = "stats") -> dict[str, Any]:
    """The book of the server, or its `bodies`."""
    with urlopen(f"{URL}/{what}") as reply:
        found: dict[str, Any] = json.loads(reply.read())
    return found


def manifest(folder: Path, stage: str, name: str = "run") -> dict[str, Any]:
    """The manifest of a stage."""
    stages = json.loads((folder / name / "manifest.json").read_text())["stages"]
    found: dict[str, Any] = stages[stage]
    return found


def journaled(folder: Path, name: str = "run") -> int:
    """The number of journaled answers."""
    path = folder / name / "journal" / "part-00000.sqlite"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as database:
        try:
            (count,) = database.execute("SELECT COUNT(*) FROM answers").fetchone()
        except sqlite3.OperationalError:
            return 0  # the file is just being made
    return int(count)


def write_answers(folder: Path, prompts: int, completions: int = 8) -> None:
    """Graded completions, all different."""
    rng = random.Random(0)
    with (folder / "answers.jsonl").open("w") as file:
        for number in range(prompts):
            answers = [
                {"text": f"answer {n} to {number} {'word ' * rng.randrange(60)}", "grade": grade}
                for n, grade in enumerate(rng.sample(range(100), completions))
            ]
            row = {"prompt": f"question {number}: what then?", "completions": answers}
            file.write(json.dumps(row) + "\n")


def write_config(folder: Path, **sections: Any) -> None:
    """Write the configuration; without other sections, completions are imported."""
    policy = {"name": "scripted", "replies": ["a"]}
    answers = {"name": "file", "path": str(folder / "answers.jsonl")}
    config = {"run_dir": "unused", "policy": policy, "completions": answers} | sections
    (folder / "run.yaml").write_text(json.dumps(config))


def model(concurrency: int = IN_FLIGHT, **options: Any) -> dict[str, Any]:
    """The model at the server."""
    at = {"name": "openai", "model": "m", "base_url": f"{URL}/v1", "concurrency": concurrency}
    return at | options


def pairwise(**options: Any) -> dict[str, Any]:
    """A judge that is asked for a label."""
    return {"name": "pairwise", "answer": "label", "model": model(**options)}


# --- alone


class Alone(NamedTuple):
    """A backend that answers at once."""

    concurrency: int

    async def answer(self, calls: list[Call[int]]) -> Mapping[str, Judgment | Failure]:
        """Return a judgment for each call."""
        comparison = Comparison(prompt_id="0" * 16, first="1" * 16, second="2" * 16)
        usage = Usage(calls=1, prompt_tokens=400, completion_tokens=1)
        return {
            call.key: Judgment(
                comparison=comparison, judge="3" * 16, p_first=0.5, raw_text="A", usage=usage
            )
            for call in calls
        }

    def batches(self, size: int, calls: list[Call[int]]) -> Iterator[Batch[Judgment]]:
        """Yield the calls, `size` at a time."""
        for start in range(0, len(calls), size):
            batch = calls[start : start + size]
            yield Batch([call.key for call in batch], partial(self.answer, batch))


def journal(folder: Path) -> Iterator[Line]:
    """Answers a second through engine and journal."""
    count, backend = 50_000, Alone(IN_FLIGHT)
    for size in (1, 64):
        with closing(Journal(folder / f"{size}.sqlite")) as log:
            engine = CallEngine(log)
            rng = random.Random(size)
            calls = [Call(f"{rng.getrandbits(64):016x}", n) for n in range(count)]
            began, used = time.monotonic(), time.process_time()
            batches = partial(backend.batches, size)
            engine.run(engine.ask(calls, Judgment, batches, backend=backend))
            rate = count / (time.monotonic() - began)
            cpu = (time.process_time() - used) / count
            assert log.count() == count
        goal = rate >= 10_000 if size > 1 else None
        yield Line(
            f"journaled answers, {size} a batch", f"{rate:,.0f}/s, {1e6 * cpu:.0f} µs each", goal
        )


PYTHON_JUDGE = """
from prefine.judges.protocol import Verdict
class Judge:
    fingerprint, first_slot_bias = "mine", 0.0
    def check(self, prompt, completions): pass
    def compare(self, prompt, first, second):
        return Verdict(float(first.metadata["grade"] > second.metadata["grade"]))
"""


def judge(folder: Path) -> Iterator[Line]:
    """Judgments a second of a Python judge, by the real command, its start counted."""
    (folder / "my_judge.py").write_text(PYTHON_JUDGE)
    write_answers(folder, 6_000)
    write_config(folder, rank={"judge": {"name": "my_judge:Judge"}})
    done("sample", folder)
    run = done("rank", folder)
    calls = manifest(folder, "rank")["usage"]["calls"]
    rate = calls / manifest(folder, "rank")["wall_time_s"]
    yield Line(
        "judgments of a Python judge",
        f"{rate:,.0f}/s; {calls:,} in {run.seconds:.1f} s, {run.cpu:.1f} s of the processor",
        rate >= 4_000,
    )


def scale(folder: Path, sizes: Sequence[int] = SIZES) -> Iterator[Line]:
    """Time, memory and disk of each stage with a recorded judge."""
    memory: dict[str, list[float]] = {}
    for prompts in sizes:
        here = folder / str(prompts)
        here.mkdir()
        write_answers(here, prompts)
        write_config(here, rank={"judge": {"name": "recorded"}})
        for stage, table in (("sample", "completions"), ("rank", "rankings"), ("pair", "pairs")):
            run = done(stage, here)
            memory.setdefault(stage, []).append(run.memory)
            size = sum(path.stat().st_size for path in (here / "run" / table).glob("*"))
            yield Line(
                f"{stage} of {prompts:,} prompts",
                f"{run.seconds:.1f} s, {1e3 * run.cpu / prompts:.2f} ms of the processor each, "
                f"{run.memory:.0f} MiB, {size / 2**20:.0f} MiB of tables",
            )
    for stage, found in memory.items():
        each = (found[-1] - found[0]) * 2**20 / max(1, sizes[-1] - sizes[0])
        goal = each < 100 if stage != "pair" else None
        yield Line(f"{stage}: memory of one more prompt", f"{each:,.0f} bytes", goal)


# --- at a server


def busy(folder: Path, stage: str, what: str, goal: float) -> Line:
    """Run a stage, and see how much of its slots the server had to do for."""
    run = done(stage, folder)
    found = stats()
    share = found["in_flight"] / IN_FLIGHT
    count = found["requests"]
    # Nobody ends before the longest call has, nor before the last wave of slots.
    work_s = found["in_flight"] * found["seconds"]
    waves_s = -(-count // IN_FLIGHT) * work_s / count
    most = work_s / (IN_FLIGHT * max(found["longest_s"], waves_s))
    return Line(
        what,
        f"{100 * share:.1f} % of slots busy (this work allows {100 * most:.0f}), "
        f"{count:,} calls in {found['seconds']:.1f} s, the longest {found['longest_s']:.1f} s, "
        f"command {run.seconds:.1f} s, {1e3 * run.cpu / count:.2f} ms of the processor a call, "
        f"{run.memory:.0f} MiB",
        share >= goal,
    )


def rank(
    folder: Path,
    prompts: int = 2_000,
    spread: float = 1.0,
    goal: float = 0.85,
    strategy: str = "iterative",
) -> Iterator[Line]:
    """Slots kept busy while ranking."""
    write_answers(folder, prompts)
    write_config(folder, rank={"judge": pairwise(), "strategy": {"name": strategy}})
    done("sample", folder)
    with server("--latency", "1", "--spread", str(spread)):
        what = f"rank, {strategy}, 1 s, spread {spread:g}, {prompts:,} prompts"
        yield busy(folder, "rank", what, goal)


def sample(
    folder: Path,
    prompts: int = 2_000,
    spread: float = 1.0,
    goal: float = 0.85,
    profile: str = "plain",
) -> Iterator[Line]:
    """Slots kept busy while sampling."""
    rows = [{"prompt": f"question {number}: what then?"} for number in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_config(
        folder,
        completions=None,
        prompts={"name": "file", "path": str(folder / "prompts.jsonl")},
        sample={"completions_per_prompt": 8, "model": model()},
        rank={"judge": pairwise()},
    )
    with server("--latency", "1", "--spread", str(spread), "--profile", profile):
        what = f"sample, 1 s, spread {spread:g}, profile {profile}, {prompts:,} prompts"
        yield busy(folder, "sample", what, goal)


def stop(folder: Path) -> Iterator[Line]:
    """SIGTERM with 32 calls in flight, one of which drips."""
    write_answers(folder, 400)
    write_config(folder, rank={"judge": pairwise(concurrency=32)})
    done("sample", folder)
    dripping = ("--fault", "drip", "--fault-share", "0.003")
    with server("--latency", "0.3", "--spread", "0.5", *dripping):
        process = started("rank", folder)
        until(lambda: journaled(folder) > 200, process)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        run = finished(process, began)
        answered = stats()["answered"]
    lost = answered - journaled(folder)
    calls = manifest(folder, "rank")["usage"]["calls"]
    assert run.code == 6, run.err
    yield Line(
        "SIGTERM with a dripping call: ended after", f"{run.seconds:.2f} s", run.seconds <= 3
    )
    yield Line("answers that landed and are not journaled", f"{lost} of {answered}", lost == 0)
    yield Line("calls that the manifest counts", f"{calls}", calls == journaled(folder))


def kills(folder: Path, times: int = 20) -> Iterator[Line]:
    """Kill -9 again and again, with faults and 32 in flight, against an undisturbed run."""
    write_answers(folder, 1_000, 4)
    # So many tries that no call fails for good, which would be a missing answer in one run alone.
    judge = pairwise(concurrency=32, max_retries=12)
    write_config(folder, rank={"judge": judge, "max_failed_fraction": 0.5})
    done("sample", folder)
    shutil.copytree(folder / "run", folder / "whole")
    latency = ("--latency", "0.15", "--spread", "1")
    faults = ("--fault", "500", "--fault-share", "0.2", "--fault-by", "chance")
    with server(*latency, *faults):
        done("rank", folder, "whole")
    rng = random.Random(1)
    in_flight = most_lost = lost = 0
    asked: dict[str, int] = {}
    with server(*latency, *faults):
        for _ in range(times):
            before = journaled(folder)
            process = started("rank", folder)
            until(lambda before=before: journaled(folder) > before + 5, process)  # type: ignore[misc]
            time.sleep(rng.uniform(0.1, 1.0))
            process.kill()
            process.wait()
            time.sleep(0.3)
            found, kept = stats("bodies"), journaled(folder)
            reached = {body for body, count in found["asked"].items() if count > asked.get(body, 0)}
            in_flight += len(reached - found["answered"].keys())
            asked = found["asked"]
            # Answers that a kill took from the client: they are not journaled, or answered twice.
            gone = len(found["answered"]) - kept + twice(found)
            lost, most_lost = gone, max(most_lost, gone - lost)
        done("rank", folder)
        found = stats("bodies")
    last = manifest(folder, "rank")
    repeated = last["repeated_after_interruption"]
    same = table_hash(folder / "run" / "rankings") == table_hash(folder / "whole" / "rankings")
    again = twice(found) - lost + kept - last["replayed"]
    notes = [manifest(folder, "rank", name)["notes"] for name in ("run", "whole")]
    yield Line(
        f"tables after {times} kills",
        "byte-identical" if same else f"differ: {notes}",
        same,
    )
    yield Line("journaled answers asked again", f"{again}", again == 0)
    yield Line(
        "answers written before a kill and asked again",
        f"{lost}, at most {most_lost} a kill",
        most_lost <= 5,
    )
    yield Line(
        "repeats in the manifest",
        f"{repeated}; at the server {in_flight} without an answer and {lost} just written",
        in_flight <= repeated <= in_flight + lost + 2 * times,
    )


def batches(folder: Path) -> Iterator[Line]:
    """Kill -9 runs that use batch files, after a batch is handed over and while it is read."""
    write_answers(folder, 200, 4)
    write_config(folder, rank={"judge": pairwise(calls="batch")})
    done("sample", folder)
    shutil.copytree(folder / "run", folder / "whole")
    slow = ("--latency", "1", "--fault", "batch_file_slow")
    with server(*slow):
        done("rank", folder, "whole")
        created = stats()["batches"]
    killed = 0
    with server(*slow):
        moments: list[Callable[[], int]] = [lambda: stats()["batches"], lambda: journaled(folder)]
        for moment in 3 * moments:
            enough = moment() + (1 if moment is moments[0] else 5)
            process = started("rank", folder)
            until(lambda moment=moment, enough=enough: moment() >= enough, process)  # type: ignore[misc]
            process.kill()
            process.wait()
            killed += 1
        done("rank", folder)
        found = stats()
    same = table_hash(folder / "run" / "rankings") == table_hash(folder / "whole" / "rankings")
    yield Line(
        f"batch files, {killed} kills",
        f"{found['batched_twice']} requests submitted twice, {found['batches']} batches "
        f"({created} without kills), tables {'byte-identical' if same else 'differ'}",
        same and not found["batched_twice"],
    )


def twice(found: Mapping[str, Any]) -> int:
    """How many answers the server gave more than once."""
    return sum(found["answered"].values()) - len(found["answered"])


def until(moment: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait for a moment while a process runs."""
    end = time.monotonic() + 120
    while not moment():
        assert process.poll() is None and time.monotonic() < end, "the moment never came"
        time.sleep(0.01)


PARTS: dict[str, Callable[[Path], Iterator[Line]]] = {
    "journal": journal,
    "judge": judge,
    "scale": scale,
    "stop": stop,
    "kills": kills,
    "batches": batches,
    "rank": rank,
    "sample": sample,
    "sample_single": partial(sample, profile="tgi"),
    "rank_even": partial(rank, prompts=1_000, spread=0.0, goal=0.93),
    "sample_even": partial(sample, prompts=1_000, spread=0.0, goal=0.93),
    "eubo": partial(rank, strategy="eubo", goal=0.8),
}


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="; ".join(PARTS))
    parser.add_argument("--folder", type=Path, help="where to work; on a disk")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="prompts of scale")
    options = parser.parse_args()
    parts = PARTS | {"scale": partial(scale, sizes=options.sizes)}
    for name in options.parts or parts:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for line in parts[name](Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
