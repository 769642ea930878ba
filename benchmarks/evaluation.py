"""Published figures that the metrics reproduce, coverage of intervals, and input they refuse.

    python benchmarks/evaluation.py [--processes 2] [PART...]

Prints one line for each figure, failures included: ok, MISS, or nothing for one without a mark to
meet. PART is a name from the list that --help prints; without any, all run, in less than ten
minutes on two cores. The parts on real annotations need the folder that PREFINE_TEST_DATA names.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import evaluation_alpaca
import evaluation_arena
import evaluation_judges
import evaluation_models
import evaluation_statistics
from line import Line

PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    "alpaca": evaluation_alpaca.rows,
    "arena": evaluation_arena.rows,
    "judges": evaluation_judges.rows,
    "models": evaluation_models.rows,
    **evaluation_statistics.PARTS,
}


def main() -> None:
    """Run the parts that were named and print their lines, in this order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    missed, began = 0, time.monotonic()
    names = options.parts or list(PARTS)
    with ProcessPoolExecutor(options.processes) as pool:
        for name, (lines, seconds) in zip(names, pool.map(_run, names), strict=True):
            for line in lines:
                missed += line.ok is False
                print(line, flush=True)
            print(f"     {name}: {seconds:.0f} s", flush=True)
    print(f"{missed} missed, {time.monotonic() - began:.0f} s", flush=True)
    sys.exit(1 if missed else 0)


def _run(name: str) -> tuple[list[Line], float]:
    began = time.monotonic()
    return list(PARTS[name]()), time.monotonic() - began


if __name__ == "__main__":
    main()
