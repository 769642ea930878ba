"""Planted values and what the statistics of sweeps find of them: coverage of the 95 % intervals.

    python benchmarks/sweep_statistics.py [--repeats 2000]

Prints a row for each statistic: how many intervals cover the planted value, and the mean estimate.
"""

import argparse
from collections.abc import Callable

import numpy as np

from line import Line
from prefine.metrics import best_of_many, mean_over_seeds, quadratic_optimum, saturation

LEAST = 93.0
Interval = tuple[float, float] | None
Draw = Callable[[np.random.Generator], tuple[float, Interval]]


def differences(seeds: int, of_seed: float, of_prompt: float, of_rest: float) -> Draw:
    """Differences of 300 prompts, the sum of a seed's effect, a prompt's and a rest; mean .03."""

    def draw(rng: np.random.Generator) -> tuple[float, Interval]:
        table = (
            0.03
            + rng.normal(0, of_seed, (seeds, 1))
            + rng.normal(0, of_prompt, (1, 300))
            + rng.normal(0, of_rest, (seeds, 300))
        )
        found = mean_over_seeds("difference", table)
        return found.value, found.interval

    return draw


def hill(sd: float) -> Draw:
    """Results of six settings, three seeds each, around a parabola with its top at 1.7."""

    def draw(rng: np.random.Generator) -> tuple[float, Interval]:
        x = np.repeat([0.0, 0.75, 1.5, 2.5, 3.5, 5.0], 3)
        found = quadratic_optimum(x, 80 - 3 * (x - 1.7) ** 2 + rng.normal(0, sd, len(x)))
        # Where noise has turned the hill over, no top is excluded.
        if found is None:
            return np.nan, (-np.inf, np.inf)
        return found.value, found.interval or (-np.inf, np.inf)

    return draw


def growth(power: float, sd: float) -> Draw:
    """Results of 100 to 1,000 pairs in five shares, three seeds each, that grow from 70 to 80."""

    def draw(rng: np.random.Generator) -> tuple[float, Interval]:
        sizes = np.repeat([100.0, 250.0, 500.0, 750.0, 1000.0], 3)
        results = 80 - 10 * (sizes / 100) ** -power + rng.normal(0, sd, len(sizes))
        found = saturation(sizes, results)
        return found.limit, found.interval

    return draw


def equals(rng: np.random.Generator) -> tuple[float, Interval]:
    """The best of twelve settings of the same quality, .5."""
    found = best_of_many("score", 0.5 + rng.normal(0, 0.4, (12, 3, 300))).honest
    return found.value, found.interval


def high_wins(seeds: int) -> Draw:
    """The best of twelve settings that win 95 % of 100 prompts, with seeds that differ."""

    def draw(rng: np.random.Generator) -> tuple[float, Interval]:
        chance = rng.beta(11.4, 0.6, (12, 1, 100))
        chance = chance + rng.uniform(-0.15, 0.15, (12, seeds, 1)) * chance * (1 - chance)
        won = rng.random((12, seeds, 100)) < chance
        found = best_of_many("score", won, bounds=(0, 1)).honest
        return found.value, found.interval

    return draw


def main() -> None:
    """Print a row for each statistic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    repeats = parser.parse_args().repeats
    rows: list[tuple[str, float, Draw]] = [
        ("difference, 3 seeds that differ little", 0.03, differences(3, 0.005, 0.3, 0.3)),
        ("difference, 5 seeds that differ much", 0.03, differences(5, 0.05, 0.3, 0.3)),
        ("difference, 1 seed", 0.03, differences(1, 0.0, 0.3, 0.3)),
        ("best of 12 equal settings", 0.5, equals),
        ("best of 12 that win 95 %, 1 seed", 0.95, high_wins(1)),
        ("best of 12 that win 95 %, 3 seeds", 0.95, high_wins(3)),
        ("top of a hill, little noise", 1.7, hill(1.0)),
        ("top of a hill, much noise", 1.7, hill(6.0)),
        ("limit of a growth, fast, little noise", 80, growth(1.5, 0.5)),
        ("limit of a growth, slow, little noise", 80, growth(0.7, 0.5)),
        ("limit of a growth, fast, much noise", 80, growth(1.5, 3.0)),
    ]
    for name, planted, draw in rows:
        rng = np.random.default_rng(0)
        found = [draw(rng) for _ in range(repeats)]
        covered = [ends is not None and ends[0] <= planted <= ends[1] for _, ends in found]
        share = 100 * float(np.mean(covered))
        middle = float(np.nanmedian([value for value, _ in found]))
        figure = (
            f"{share:.1f} % of {repeats:,} intervals cover {planted:g} (>= {LEAST:g}); "
            f"median estimate {middle:.3g}"
        )
        print(Line(name, figure, share >= LEAST))


if __name__ == "__main__":
    main()
