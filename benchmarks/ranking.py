"""Figures of the ranking strategies by a simulated judge, and the marks that they have to meet.

    python benchmarks/ranking.py [--processes 2] [ROW...]

Prints one line for each figure, failures included: ok, MISS, or nothing for one without a mark to
meet. ROW is a name from the list that --help prints; without any, all run, in less than ten minutes
on two cores.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator

import ranking_bound
import ranking_checks
import ranking_goals
import ranking_table
from line import Line

ROWS: dict[str, Callable[[int], Iterator[Line]]] = {
    "table": ranking_table.table,
    "why": ranking_table.why,
    "soft": ranking_table.soft,
    "gaps": ranking_table.gaps,
    "lazy": ranking_checks.lazy_is_both,
    "scan": ranking_checks.scan_formula,
    "rso": ranking_checks.rejection_sampling,
    "real": ranking_checks.real_verdicts,
    "fit": ranking_checks.speed_of_the_fit,
    "simulate": ranking_checks.speed_of_simulate,
    "goals": ranking_goals.goals,
    "grid": ranking_goals.grid,
    "bound": ranking_bound.bound,
}


def main() -> None:
    """Run the rows that were named and print their lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of {', '.join(ROWS)}")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"unknown row {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    missed, began = 0, time.monotonic()
    for name in options.rows or ROWS:
        start = time.monotonic()
        for line in ROWS[name](options.processes):
            missed += line.ok is False
            print(line, flush=True)
        print(f"     {name}: {time.monotonic() - start:.0f} s", flush=True)
    print(f"{missed} missed, {time.monotonic() - began:.0f} s", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
