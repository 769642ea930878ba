"""Many prompts through import, rank and pair: one process, and four workers of Ray; and kills.

    python benchmarks/scale.py [measure | kill] [--sizes N ...]

`measure` prints a row for each size, stage and executor: seconds, seconds of processors, the
largest memory of any one process, and the disk of the run folder; then what one more prompt takes,
which `prefine cost --rates` reads (`--rates FILE` writes it there). `kill` ranks 10,000
prompts with four workers and kills one, then stops the command with SIGINT, then kills the command
itself, and finishes: once with a judge in the workers' processes, and once with a server that
counts. The data is made here, the same every time.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from calls import (
    HERE,
    finished,
    journaled,
    manifest,
    pairwise,
    server,
    stats,
    twice,
    write_answers,
    write_config,
)
from line import Line
from prefine.calls.protocol import JournalGroup
from prefine.run.journal import Journal
from prefine.run.journal_parts import absorb_parts, part_file
from prefine.run.tables import table_hash
from prefine.simulator.scale import Rates

SIZES = (50_000, 100_000, 200_000)
WORKERS = 4
COMPLETIONS = 4
MIB = 2**20
MARK = "PREFINE_SCALE"
"""A variable in the environment of all processes of a command, by which they are found."""
STAGES = (("sample", "completions"), ("rank", "rankings"), ("pair", "pairs"))
LOGGING_JUDGE = """
import os, time

def longer(prompt, completion):
    # Every call is noted with its process before its answer is given.
    with open(os.environ["PREFINE_SCALE_LOG"], "a") as log:
        log.write(f"{completion.id} {os.getpid()}\\n")
    return completion.metadata["grade"]

longer.concurrency = 2
"""


class Stage(NamedTuple):
    """A stage as it was measured: its seconds, and the largest memory of one process [MiB]."""

    seconds: float
    cpu: float
    memory: float
    of: str


def processes(mark: str) -> Iterator[Path]:
    """The processes that carry a mark, as folders of /proc."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes():
                yield path
        except OSError:
            continue


def named(path: Path) -> str:
    """What a process is: a worker, the command, or a part of Ray."""
    line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    known = {"ray::Worker": "worker", "ray::Ledger": "ledger", "prefine": "command"}
    return next((name for key, name in known.items() if key in line), "Ray's own")


def start(
    stage: str, folder: Path, name: str, *settings: str, mark: str
) -> "subprocess.Popen[str]":
    """Start a stage of a run in a process of its own."""
    environment = os.environ | {
        "PYTHONPATH": f"{HERE.parent / 'src'}:{folder}",
        MARK: mark,
        "PREFINE_SCALE_LOG": str(folder / "asked.log"),
    }
    config = str(folder / "run.yaml")
    extra = [part for setting in settings for part in ("--set", setting)]
    return subprocess.Popen(
        [sys.executable, "-m", "prefine", stage, config, "--run-dir", str(folder / name), *extra],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def measured(stage: str, folder: Path, name: str, *settings: str) -> Stage:
    """Run a stage to its end, and look at its processes meanwhile."""
    mark = f"{name}-{time.monotonic_ns()}"
    began = time.monotonic()
    process = start(stage, folder, name, *settings, mark=mark)
    memory: dict[str, float] = {}
    cpu: dict[int, float] = {}
    ticks = os.sysconf("SC_CLK_TCK")
    while process.poll() is None:
        for path in processes(mark):
            try:
                what = named(path)
                status = (path / "status").read_text()
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), "0 0")
            memory[what] = max(memory.get(what, 0.0), float(peak.split()[1]) / 1024)
            cpu[int(path.name)] = (int(fields[11]) + int(fields[12])) / ticks
        time.sleep(0.5)
    seconds = time.monotonic() - began
    assert process.stderr is not None
    assert process.returncode == 0, process.stderr.read()
    largest = max((what for what in memory if what != "Ray's own"), key=lambda what: memory[what])
    return Stage(seconds, sum(cpu.values()), memory[largest], largest)


def disk(folder: Path) -> int:
    """The bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def ray(workers: int = WORKERS) -> str:
    """The setting by which workers of Ray do the work, on however few cores."""
    return f"executor={{name: ray, workers: {workers}, num_cpus: {2 / workers:g}}}"


def measure(folder: Path, sizes: Sequence[int], rates: Path | None) -> Iterator[Line]:
    """Time, memory and disk of each stage, size and executor."""
    cpu: dict[tuple[str, str], list[float]] = {}
    memory: dict[str, list[float]] = {}
    tables = journal = calls = 0.0
    for size in sizes:
        here = folder / str(size)
        here.mkdir()
        write_answers(here, size, COMPLETIONS)
        write_config(here, rank={"judge": {"name": "recorded"}})
        runs = {"one process": (), f"Ray, {WORKERS} workers": (ray(),)}
        for name, settings in runs.items():
            run = name.replace(" ", "-")
            for stage, _ in STAGES:
                found = measured(stage, here, run, *settings)
                cpu.setdefault((name, stage), []).append(found.cpu / size)
                if not settings:
                    memory.setdefault(stage, []).append(found.memory)
                yield Line(
                    f"{size:,} prompts, {stage}, {name}",
                    f"{found.seconds:.1f} s, {1e3 * found.cpu / size:.2f} ms of processors each, "
                    f"{found.memory:.0f} MiB ({found.of})",
                    found.memory <= 1024,
                )
            whole = disk(here / run) / size
            calls = manifest(here, "rank", run)["usage"]["calls"] / size
            journal = disk(here / run / "journal") / size
            tables = whole - journal
            yield Line(
                f"{size:,} prompts, disk, {name}",
                f"{disk(here / run) / MIB:,.0f} MiB, {whole:,.0f} bytes each; of it the journal "
                f"{journal:,.0f}",
            )
        both = [here / name.replace(" ", "-") for name in runs]
        same = all(len({table_hash(run / table) for run in both}) == 1 for _, table in STAGES)
        yield Line(
            f"{size:,} prompts, tables of both", "byte-identical" if same else "differ", same
        )
        shutil.rmtree(here)
    for (name, stage), costs in cpu.items():
        growth = costs[-1] / costs[0]
        yield Line(
            f"{stage}, {name}: a prompt's cost, largest / smallest size",
            f"{growth:.2f}",
            growth <= 1.3 if len(costs) > 1 else None,
        )
    more = max(1, sizes[-1] - sizes[0])
    growths = {stage: (some[-1] - some[0]) * MIB / more for stage, some in memory.items()}
    for stage, each in growths.items():
        yield Line(f"{stage}, one process: memory of one more prompt", f"{each:,.0f} bytes")
    absorb = absorbed(folder, 100, 2_000)
    yield Line("answers taken over from parts of the journal", f"{1 / absorb:,.0f}/s")
    if rates is not None:
        one = {stage: cpu["one process", stage][-1] for stage, _ in STAGES}
        each = max(0.0, *growths.values())
        largest = max(some[-1] for some in memory.values())
        found = Rates(
            import_s_per_completion=one["sample"] / COMPLETIONS,
            rank_s_per_call=one["rank"] / calls,
            pair_s_per_prompt=one["pair"],
            absorb_s_per_answer=absorb,
            base_mib=largest - each * sizes[-1] / MIB,
            memory_bytes_per_prompt=each,
            table_bytes_per_completion=tables / COMPLETIONS,
            journal_bytes_per_answer=journal / calls,
        )
        values = {name: float(f"{value:.3g}") for name, value in found._asdict().items()}
        rates.write_text(json.dumps(values, indent=1) + "\n")


def absorbed(folder: Path, parts: int, answers: int) -> float:
    """Seconds for taking one answer over into the journal from one of many parts."""
    here = folder / "parts"
    rng = random.Random(0)
    with closing(Journal(here / "part-00000.sqlite")) as journal:
        for number in range(1, parts + 1):
            with closing(Journal(part_file(journal.path, number))) as part:
                keys = [f"{rng.getrandbits(64):016x}" for _ in range(answers)]
                text = json.dumps({"answer": "of the length of a judgment " * 10})
                part.write(JournalGroup("rank", asked=keys, answers=dict.fromkeys(keys, text)))
        began = time.monotonic()
        absorb_parts(journal)
        return (time.monotonic() - began) / (parts * answers)


def kill(folder: Path, prompts: int) -> Iterator[Line]:
    """Lose a worker, be interrupted, lose the command: the same tables, nothing asked again."""
    (folder / "logging_judge.py").write_text(LOGGING_JUDGE)
    write_answers(folder, prompts, 2)
    write_config(folder, rank={"judge": "logging_judge:longer"})
    whole(folder)
    log = folder / "asked.log"
    log.unlink()
    rng = random.Random()

    def asked() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    moments = [rng.randrange(prompts // 8, prompts // 4) for _ in range(3)]
    losses(folder, lambda: len(asked()), moments)
    lines = [line.split() for line in asked() if " " in line]
    ids = [line[0] for line in lines]
    workers = len({line[1] for line in lines})
    again = len(ids) - len(set(ids))
    yield from outcome(folder, f"a judge in {workers} processes, {prompts:,} prompts", again)

    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_answers(folder, prompts, 2)
    write_config(folder, rank={"judge": pairwise(concurrency=32)})
    with server("--latency", "0.02", "--spread", "1"):
        whole(folder)
    with server("--latency", "0.02", "--spread", "1"):
        moments = [rng.randrange(prompts // 8, prompts // 4) for _ in range(3)]
        losses(folder, lambda: stats()["requests"], moments)
        found = stats("bodies")
    yield from outcome(folder, f"a server that counts, {prompts:,} prompts", twice(found))


def whole(folder: Path) -> None:
    """The run in one process, and the beginning of the one that is disturbed."""
    for stage in ("sample", "rank"):
        process = start(stage, folder, "whole", mark="whole")
        assert finished(process, 0.0).code == 0
        if stage == "sample":
            shutil.copytree(folder / "whole", folder / "run")


def losses(folder: Path, asked: Callable[[], int], moments: Sequence[int]) -> None:
    """Kill a worker, then interrupt the command, then kill the command; then let it end."""
    rng = random.Random()
    for number, more in enumerate(moments):
        before, mark = asked(), f"losses-{time.monotonic_ns()}"
        process = start("rank", folder, "run", ray(), mark=mark)
        wait(lambda before=before, more=more: asked() >= before + more, process)  # type: ignore[misc]
        if number == 0:
            workers = [path for path in processes(mark) if named(path) == "worker"]
            os.kill(int(rng.choice(workers).name), signal.SIGKILL)
            wait(lambda before=before, more=more: asked() >= before + more + 50, process)  # type: ignore[misc]
            process.send_signal(signal.SIGINT)
            run = finished(process, 0.0)
            assert run.code == 6, run.err
        elif number == 1:
            process.send_signal(signal.SIGTERM)
            run = finished(process, 0.0)
            assert run.code == 6, run.err
        else:
            process.kill()
            process.wait()
        print(
            f"     {('a worker and SIGINT', 'SIGTERM', 'SIGKILL of the command')[number]} "
            f"after {asked():,} calls; journaled {journaled(folder):,}",
            flush=True,
        )
        wait_gone(mark)
    process = start("rank", folder, "run", ray(), mark="last")
    run = finished(process, 0.0)
    assert run.code == 0, run.err
    wait_gone("last")


def outcome(folder: Path, what: str, again: int) -> Iterator[Line]:
    """The tables beside those of one process, and what was asked again."""
    tables = ("completions", "rankings", "judgments")
    same = all(table_hash(folder / "run" / t) == table_hash(folder / "whole" / t) for t in tables)
    yield Line(f"{what}: tables", "byte-identical to one process" if same else "differ", same)
    found = manifest(folder, "rank")
    repeated = found["repeated_after_interruption"]
    yield Line(
        f"{what}: calls made twice",
        f"{again} of {found['usage']['calls']:,}; in flight at an end by the journal: {repeated}",
        again <= repeated,
    )
    yield Line(
        f"{what}: answers journaled and asked again",
        str(max(0, again - repeated)),
        again <= repeated,
    )


def wait(moment: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait for a moment while a process runs."""
    end = time.monotonic() + 300
    while not moment():
        assert process.poll() is None and time.monotonic() < end, "the moment never came"
        time.sleep(0.05)


def wait_gone(mark: str) -> None:
    """Wait until no process of a command is left."""
    end = time.monotonic() + 240
    while left := [named(path) for path in processes(mark)]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.2)


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="?", choices=("measure", "kill"), default="measure")
    parser.add_argument("--sizes", type=int, nargs="+", help="prompts")
    parser.add_argument("--folder", type=Path, help="where to work; on a disk")
    parser.add_argument("--rates", type=Path, help="where `measure` writes its rates, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.part == "kill":
            lines = kill(folder, *(options.sizes or (10_000,)))
        else:
            lines = measure(folder, options.sizes or SIZES, options.rates)
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
