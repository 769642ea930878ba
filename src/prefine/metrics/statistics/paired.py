"""Two or more models on the same prompts: differences, intervals and tests."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import mean_value, score_interval
from prefine.metrics.statistics.values import (
    Array,
    probabilities,
    same_length,
    same_prompts,
    same_size,
)
from prefine.records import MetricValue

_SIGNS_AT_ONCE = 1_000_000


class Outcomes(NamedTuple):
    """The outcomes of one model by prompt.

    Attributes:
        prompt_ids: Each prompt's id [n], no two the same; any order, models are matched by id.
        values: The outcome of each prompt [n], in [0, 1], such as P(better than the baseline).
    """

    prompt_ids: Sequence[str]
    values: npt.ArrayLike


class PairedComparison(NamedTuple):
    """One model against another on the same prompts.

    Attributes:
        difference: Mean outcome of the first minus that of the second, in points of 100.
        wins: On how many prompts the first has the greater outcome.
        losses: On how many the second has.
        ties: On how many they are the same.
        sign_test: Two-sided p of the exact sign test, blind to the size of a difference.
        mean_test: Two-sided p of the sign-flip test of the mean difference.
    """

    difference: MetricValue
    wins: int
    losses: int
    ties: int
    sign_test: float
    mean_test: float


class PairedVerdict(NamedTuple):
    """The verdict on two models after many comparisons at once.

    Attributes:
        first: Name of the first model.
        second: Name of the second model.
        comparison: Their comparison.
        corrected: Its `mean_test`, corrected for the number of pairs of models by Holm's method.
        better: The name of the one that is better, or None where that is not decided.
    """

    first: str
    second: str
    comparison: PairedComparison
    corrected: float
    better: str | None


def paired_change(
    name: str,
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    samples: int = 2000,
    seed: int = 0,
    unit: str = "",
    scale: float = 1.0,
) -> MetricValue:
    """The mean of after minus before on the same prompts, with a 95 % interval.

    For values in [0, 1] it is the `score_interval` of the differences, on a scale from -1 to 1, so
    that equal differences make no point; for others, percentiles of a bootstrap over prompts, and
    none for equal differences.

    Args:
        name: Name of the metric.
        before: [n].
        after: [n], on the same prompts in the same order.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        unit: Unit of the metric.
        scale: What it is multiplied by, such as 100 for points.

    Raises:
        ValueError: No value, one that is not finite, or lengths that differ.
    """
    first, last = same_length({"before": before, "after": after})
    moved, both = last - first, np.concatenate([first, last])
    metric = mean_value(name, scale * moved, samples=samples, seed=seed, unit=unit)
    if both.min() < 0 or both.max() > 1:
        # Equal differences of values without bounds say nothing of their spread.
        certain = metric.interval is not None and metric.interval[0] == metric.interval[1]
        return metric.model_copy(update={"interval": None}) if certain else metric
    if metric.interval is None:
        return metric
    low, high = score_interval((moved + 1) / 2)
    return metric.model_copy(update={"interval": (scale * (2 * low - 1), scale * (2 * high - 1))})


def compare(
    first: Outcomes, second: Outcomes, *, samples: int = 2000, flips: int = 9_999, seed: int = 0
) -> PairedComparison:
    """The difference of the first model to the second on the same prompts, with tests.

    The interval is a bootstrap over prompts, each with both models' outcomes (95 %, percentiles);
    the standard error is sd / sqrt(n) of the differences (ddof 1).

    Args:
        first: Outcomes of the first model.
        second: Outcomes of the second model, on the same prompts.
        samples: Number of bootstrap samples.
        flips: Number of random sign patterns of the test of the mean.
        seed: Seed of both.

    Raises:
        ValueError: The prompts differ, one is there twice, there are fewer than two, or an outcome
            is not in [0, 1].
    """
    (verdict,) = compare_all(
        {"first": first, "second": second}, samples=samples, flips=flips, seed=seed
    )
    return verdict.comparison


def compare_all(
    outcomes: Mapping[str, Outcomes],
    *,
    level: float = 0.05,
    samples: int = 2000,
    flips: int = 9_999,
    seed: int = 0,
) -> tuple[PairedVerdict, ...]:
    """Every pair of models on the same prompts, any false "better" having the chance `level`.

    Args:
        outcomes: Each model's outcomes, two models or more, all on the same prompts.
        level: Probability that one or more of several equal models are called better.
        samples: Number of bootstrap samples.
        flips: Number of random sign patterns; 1 / (flips + 1) is the smallest p that can come out,
            so it must be well below `level` divided by the number of pairs.
        seed: Seed of both.

    Returns: One verdict for each pair, in the order of the names given.

    Raises:
        ValueError: Fewer than two models, prompts that differ or repeat, fewer than two prompts, an
            outcome that is not in [0, 1], or too few flips for this level and number of pairs.
    """
    names = list(outcomes)
    if len(names) < 2:
        raise ValueError(f"a comparison needs at least two models, got {len(names)}")
    table = _on_the_same_prompts(outcomes)
    pairs = list(itertools.combinations(range(len(names)), 2))
    if len(pairs) / (flips + 1) > level:
        raise ValueError(
            f"flips: {flips} sign patterns cannot reach {level:g} with {len(pairs)} pairs; give "
            "more"
        )
    differences = np.stack([table[i] - table[j] for i, j in pairs])
    tests = sign_flips(differences, flips, seed)
    verdicts = []
    for (i, j), difference, test, corrected in zip(
        pairs, differences, tests, holm(tests), strict=True
    ):
        metric = mean_value(
            "difference", 100 * difference, samples=samples, seed=seed, unit="points"
        )
        wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
        ties = difference.size - wins - losses
        comparison = PairedComparison(
            metric, wins, losses, ties, sign_test(wins, losses), float(test)
        )
        ahead = names[i] if comparison.difference.value > 0 else names[j]
        better = ahead if corrected <= level and comparison.difference.value else None
        verdicts.append(PairedVerdict(names[i], names[j], comparison, float(corrected), better))
    return tuple(verdicts)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of the exact sign test: wins out of wins + losses; ties are left out.

    Each is as likely as the other. Twice the smaller binomial tail, at most 1; without a win or a
    loss it is 1.

    Raises:
        ValueError: A count is negative.
    """
    from scipy.special import bdtr

    if wins < 0 or losses < 0:
        raise ValueError(f"wins and losses must not be negative, got {wins} and {losses}")
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def holm(p_values: npt.ArrayLike) -> Array:
    """The p values [m] corrected for their number.

    Rejecting those <= level keeps the chance of any false rejection at that level.

    Raises:
        ValueError: None, or one outside [0, 1].
    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    p = probabilities(p_values, name="p_values")
    order = np.argsort(p, kind="stable")
    grown = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(grown, 1.0)
    return corrected


def sign_flips(differences: Array, flips: int, seed: int) -> Array:
    """Two-sided p of each row's mean [m], from random signs on the prompts.

    Two equal models could be exchanged on each prompt.

    Args:
        differences: Paired differences [m, n], finite.
        flips: Number of random sign patterns; 1 / (flips + 1) is the smallest p that can come out.
        seed: Seed of the patterns.
    """
    rng = np.random.default_rng(seed)
    observed = np.abs(differences.sum(axis=1))
    # Sums that are equal but for rounding count as equal.
    least = observed - 1e-12 * np.abs(differences).sum(axis=1)
    reached = np.ones(len(differences))
    n = differences.shape[1]
    step = max(1, _SIGNS_AT_ONCE // n)
    for start in range(0, flips, step):
        signs = 2.0 * rng.integers(0, 2, size=(min(step, flips - start), n)) - 1.0
        reached += (np.abs(signs @ differences.T) >= least).sum(axis=0)
    return reached / (flips + 1)


def _on_the_same_prompts(outcomes: Mapping[str, Outcomes]) -> Array:
    """Outcomes [models, n], prompts in the order of their ids, not in that of the rows."""
    same_prompts({name: list(prompt_ids) for name, (prompt_ids, _) in outcomes.items()})
    rows = []
    for name, (prompt_ids, given) in outcomes.items():
        values = probabilities(given, name=f"outcomes of {name!r}")
        same_size(outcomes=values, prompt_ids=prompt_ids)
        rows.append(values[np.argsort(np.asarray(prompt_ids))])
    if len(rows[0]) < 2:
        raise ValueError(f"a paired comparison needs at least two prompts, got {len(rows[0])}")
    return np.stack(rows)
