"""Pairs per second and memory of a training step, beside TRL's DPOTrainer in the same run.

    python benchmarks/train_throughput.py [--quick] [--json] [--v V…] [--rounds N]
                                          [--pairs-per-step B…]
    python benchmarks/train_throughput.py --gpu [CASE…] [--tiny]    # see `throughput_gpu.py`

Same random Llama (6 layers, hidden 256, float32), same pairs, same pairs per step, two CPU threads.
Every measurement is a process of its own; a round measures TRL and us in turn, every figure is a
median over rounds. TRL runs as its defaults go (micro-batch 4, a reference forward at each step)
and at its best on a CPU (micro-batches of 1, reference values computed beforehand, the best way for
OpenMP threads to wait). Prints one line for each figure: ok, MISS, or nothing for one without a
mark to meet. `--quick` times the two steps that are most like all of them, in less than ten minutes
on two free cores; all of it takes some two hours, `--v 4096` half an hour.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

from line import Line
from throughput_data import PAIRS, THREADS, Children, Outcome, Wait, Work, typical_step

SIZES = (4096, 32000)
OURS, TRL = "throughput_ours.py", "throughput_trl.py"
OUR_WAIT: Wait = "SHORT"  # what the command chooses where nothing else runs
SMALL, LARGE = 4, 32


class Mark(NamedTuple):
    """What has to be reached, what is hoped for, and whether smaller is better."""

    least: float
    goal: float | None = None
    smaller: bool = False

    def line(self, what: str, value: float, note: str, unit: str = "") -> Line:
        """The printed line of a measured value."""
        sign = "<=" if self.smaller else ">="
        goal = f", goal {self.goal:g}" if self.goal is not None else ""
        return Line(
            what, f"{value:.2f}{unit} ({sign} {self.least:g}{goal}); {note}", self.kept(value)
        )

    def kept(self, value: float) -> bool:
        """Whether a value is at least what has to be reached."""
        return value <= self.least if self.smaller else value >= self.least


ONLINE = {4096: Mark(5, 6.5), 32000: Mark(12, 18)}
BEST = {4096: Mark(2.3, 3.3), 32000: Mark(5.5, 7)}
LISTS = {4096: Mark(3), 32000: Mark(2.2)}
MEMORY = {4096: Mark(0.75, 0.6, smaller=True), 32000: Mark(0.45, 0.36, smaller=True)}
EFFICIENCY = {4096: Mark(0.60, 0.78), 32000: Mark(0.68, 0.82)}


class Effort(NamedTuple):
    """How much is measured. TRL online is the slowest, and compared on its first steps.

    `thorough` measures us twice a round, and every way to wait in every round instead of in the
    first.
    """

    rounds: int
    warm: int
    timed: int
    timed_online: int
    timed_lists: int
    thorough: bool


FULL = Effort(rounds=3, warm=2, timed=PAIRS // SMALL, timed_online=10, timed_lists=6, thorough=True)
QUICK = Effort(rounds=3, warm=1, timed=2, timed_online=2, timed_lists=2, thorough=False)


class Round(NamedTuple):
    """The outcomes of one round; `best` by the way in which threads wait."""

    online: Outcome | None
    best: dict[Wait, Outcome]
    ours: list[Outcome]

    def our_seconds(self, steps: int | None = None) -> float:
        """Per pair over the first timed steps, without the reference."""
        return sum(outcome.seconds_per_pair(steps) for outcome in self.ours) / len(self.ours)

    def our_reference_seconds(self) -> float:
        """Per pair of the pass over the data."""
        return sum(outcome.reference_seconds_per_pair() for outcome in self.ours) / len(self.ours)


class Report:
    """Collects the lines that are printed and the values behind them."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self.missed = 0
        self.values: dict[str, dict[str, float]] = {}
        self.raw: list[dict[str, Any]] = []

    def add(self, line: Line) -> None:
        """Print a line."""
        self.missed += line.ok is False
        print(line, flush=True)

    def figure(
        self,
        part: str,
        key: str,
        mark: Mark | None,
        value: float,
        what: str,
        note: str,
        unit: str = "",
    ) -> None:
        """Keep a value and print its line."""
        self.values.setdefault(part, {})[key] = value
        self.add(
            mark.line(what, value, note, unit) if mark else Line(what, f"{value:.2f}{unit}; {note}")
        )

    def measured(self, script: str, work: Work, wait: Wait) -> Outcome:
        """A child's outcome, kept for the record."""
        began = time.monotonic()
        outcome = self._children.measure(script, work, wait=wait)
        seconds = time.monotonic() - began
        self.raw.append(
            {
                "script": script,
                "wait": wait,
                "seconds": seconds,
                **work.model_dump(),
                **outcome.model_dump(),
            }
        )
        speed = (
            f"{1 / outcome.seconds_per_pair():.2f} pairs/s, {outcome.peak_mb:.0f} MB, "
            f"{seconds:.0f} s"
        )
        print(
            f"     . {script} {work.data} {_name(work, script)} {wait}: {speed}",
            file=sys.stderr,
            flush=True,
        )
        return outcome


def _name(work: Work, script: str) -> str:
    how = work.sharing if script == OURS else "1xN" if work.precompute else "online"
    return f"V={work.vocab} B={work.pairs_per_step} {how}"


def rounds(
    report: Report, vocab: int, pairs_per_step: int, effort: Effort, waits: list[Wait]
) -> Iterator[Round]:
    """Measure TRL and us in turn."""
    small = pairs_per_step == SMALL
    warm, timed = (effort.warm, effort.timed) if small else (1, PAIRS // pairs_per_step)
    work = Work(
        vocab=vocab,
        drawn_pairs=PAIRS,
        pairs_per_step=pairs_per_step,
        warm_steps=warm,
        timed_steps=timed,
        first_step=typical_step(PAIRS, pairs_per_step, timed),
    )
    for _ in range(effort.rounds):
        online: Outcome | None = None
        best: dict[Wait, Outcome] = {}
        ours: list[Outcome] = []
        if small:
            other = work.model_copy(
                update={
                    "micro_batch_pairs": SMALL,
                    "precompute": False,
                    "timed_steps": effort.timed_online,
                }
            )
            online = report.measured(TRL, other, OUR_WAIT)
        if effort.thorough and small:
            ours.append(report.measured(OURS, work, OUR_WAIT))
        for wait in waits:
            best[wait] = report.measured(TRL, work, wait)
        ours.append(report.measured(OURS, work, OUR_WAIT))
        if not effort.thorough:
            waits = [
                min(waits, key={wait: best[wait].seconds_per_pair() for wait in waits}.__getitem__)
            ]
        yield Round(online, best, ours)


def compare(
    report: Report, vocab: int, pairs_per_step: int, effort: Effort, waits: list[Wait]
) -> Wait:
    """All figures of one vocabulary and step size; the better way to wait."""
    done = list(rounds(report, vocab, pairs_per_step, effort, waits))
    by_wait = {
        wait: [r.best[wait].seconds_per_pair() for r in done if wait in r.best]
        for wait in done[0].best
    }
    most = max(len(values) for values in by_wait.values())
    # A wait that was dropped after the first round has too few values for a median.
    better = min(
        (wait for wait in by_wait if len(by_wait[wait]) == most),
        key=lambda wait: median(by_wait[wait]),
    )
    small, start, key = (
        pairs_per_step == SMALL,
        f"V={vocab:,}, {pairs_per_step} per step: ",
        f"v{vocab}",
    )
    ours = [outcome for r in done for outcome in r.ours]
    our_rate = 1 / median(r.our_seconds() for r in done)
    counted = 1 / median(r.our_seconds() + r.our_reference_seconds() for r in done)
    best = [r.best[better] for r in done]
    best_rate = 1 / median(outcome.seconds_per_pair() for outcome in best)
    suffix = "" if small else f"_b{pairs_per_step}"

    if small:
        pairs = [(r, r.online) for r in done if r.online is not None]
        ratios = [
            online.seconds_per_pair()
            / (r.our_seconds(len(online.step_seconds)) + r.our_reference_seconds())
            for r, online in pairs
        ]
        rate = 1 / median(online.seconds_per_pair() for _, online in pairs)
        note = f"{counted:.2f} pairs/s, TRL 4x1 {rate:.2f}; rounds {_all(ratios)}"
        what = start + "TRL online, our reference counted"
        report.figure("ratios", f"{key}_vs_online", ONLINE[vocab], median(ratios), what, note, "x")
        report.values.setdefault("pairs_per_second", {})[f"{key}_trl_online"] = rate
    ratios = [r.best[better].seconds_per_pair() / r.our_seconds() for r in done]
    note = (
        f"{our_rate:.2f} pairs/s, TRL 1x{pairs_per_step} {better} {best_rate:.2f}; rounds "
        f"{_all(ratios)}"
    )
    mark = BEST[vocab] if small else None
    report.figure(
        "ratios",
        f"{key}_vs_best{suffix}",
        mark,
        median(ratios),
        start + "TRL's best, no reference",
        note,
        "x",
    )

    peaks = [median(outcome.peak_mb for outcome in outcomes) for outcomes in (ours, best)]
    note = f"{peaks[0]:,.0f} MB, TRL 1x{pairs_per_step} {peaks[1]:,.0f} MB"
    mark = MEMORY[vocab] if small else None
    report.figure(
        "memory", key + suffix, mark, peaks[0] / peaks[1], start + "peak memory", note, "x"
    )

    efficiencies = [outcome.efficiency for outcome in ours if outcome.efficiency is not None]
    rates = ", ".join(
        f"{kind} {median(outcome.rates[kind] for outcome in ours):.0f} GFLOP/s"
        for kind in ours[0].rates
    )
    fill = [outcome.row_fill for outcome in ours if outcome.row_fill is not None]
    note = f"{rates}; rows {median(fill):.0%} full" if fill else rates
    mark = EFFICIENCY[vocab] if small else None
    report.figure(
        "efficiency", key + suffix, mark, median(efficiencies), start + "efficiency", note
    )
    report.values.setdefault("pairs_per_second", {}).update(
        {
            f"{key}_ours{suffix}": our_rate,
            f"{key}_ours_with_reference{suffix}": counted,
            f"{key}_trl_best{suffix}": best_rate,
        }
    )
    return better


def lists(report: Report, vocab: int, effort: Effort) -> None:
    """Lists of 8 completions: one tree each against separate rows."""
    ratios, shared, apart = [], [], []
    work = Work(
        vocab=vocab,
        drawn_pairs=effort.timed_lists * SMALL,
        pairs_per_step=SMALL,
        warm_steps=1,
        timed_steps=effort.timed_lists,
        data="lists",
    )
    for _ in range(effort.rounds):
        shared.append(report.measured(OURS, work, OUR_WAIT))
        apart.append(report.measured(OURS, work.model_copy(update={"sharing": "off"}), OUR_WAIT))
        ratios.append(apart[-1].seconds_per_pair() / shared[-1].seconds_per_pair())
    rate = [
        1 / median(outcome.seconds_per_pair() for outcome in outcomes)
        for outcomes in (shared, apart)
    ]
    peaks = [median(outcome.peak_mb for outcome in outcomes) for outcomes in (shared, apart)]
    note = (
        f"{rate[0]:.2f} and {rate[1]:.2f} pairs/s, {peaks[0]:,.0f} and {peaks[1]:,.0f} MB; "
        f"rounds {_all(ratios)}"
    )
    what = f"V={vocab:,}, lists of 8: shared against separate"
    report.figure("lists", f"v{vocab}", LISTS[vocab], median(ratios), what, note, "x")


def _all(values: list[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    packages = ("torch", "transformers", "trl", "accelerate")
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": THREADS,
        "load": os.getloadavg()[0],
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


def main() -> int:
    """Measure and print; 1 if a figure is missed, 2 if TRL is not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps; only 4 pairs per step")
    parser.add_argument(
        "--json", action="store_true", help="the last line is everything as one JSON object"
    )
    parser.add_argument(
        "--v", type=int, nargs="+", choices=SIZES, default=list(SIZES), help="vocabularies"
    )
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument(
        "--pairs-per-step", type=int, nargs="+", choices=(SMALL, LARGE), help="default 4 32"
    )
    parser.add_argument(
        "--gpu", nargs="*", metavar="CASE", help="large models on a GPU; all cases or those named"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="with --gpu: the same on a CPU, with tiny models"
    )
    options = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        print("this benchmark needs TRL: pip install 'prefine[bench]'", file=sys.stderr)
        return 2
    if options.gpu is not None:
        from throughput_gpu import run

        return 1 if run(tiny=options.tiny, only=options.gpu) else 0
    effort = QUICK if options.quick else FULL
    effort = effort._replace(rounds=options.rounds or effort.rounds)
    facts, began = machine(), time.monotonic()
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(
        f"{facts['cpu']}, {THREADS} threads, load {facts['load']:.1f}; {versions}; median of "
        f"{effort.rounds} rounds"
    )
    waits: list[Wait] = ["ACTIVE", "PASSIVE", "SHORT"]
    with Children() as children:
        report = Report(children)
        for vocab in options.v:
            here = waits
            for pairs_per_step in sorted(
                options.pairs_per_step or ((SMALL,) if options.quick else (SMALL, LARGE))
            ):
                here = [compare(report, vocab, pairs_per_step, effort, here)]
            waits = waits if effort.thorough else here
            lists(report, vocab, effort)
    print(f"{report.missed} missed, {time.monotonic() - began:.0f} s")
    if options.json:
        print(json.dumps({**report.values, "missed": report.missed, **facts, "rounds": report.raw}))
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
