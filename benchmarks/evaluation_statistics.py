"""Coverage of intervals and error rates of tests in simulated evaluations.

python benchmarks/evaluation_statistics.py
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from line import Line
from prefine.metrics.statistics.paired import Outcomes, compare, compare_all
from prefine.metrics.statistics.resampling import bootstrap_mean
from prefine.metrics.win_rates.leaderboard import bradley_terry_leaderboard
from prefine.metrics.win_rates.length_control import length_controlled_win_rate
from prefine.metrics.win_rates.length_data import AlpacaCalibration
from prefine.metrics.win_rates.win_rates import win_rate

Array = npt.NDArray[np.float64]

EVALUATIONS = 1_000
PROMPTS = 200
IDS = [f"{i:04}" for i in range(PROMPTS)]

# What an evaluation draws for each of n prompts, and the truth.
WIN_RATES: dict[str, tuple[Callable[[np.random.Generator, int], npt.ArrayLike], float]] = {
    "won or lost, 50 %": (lambda rng, n: rng.random(n) < 0.5, 0.5),
    "won or lost, 20 %": (lambda rng, n: rng.random(n) < 0.2, 0.2),
    "won or lost, 5 %": (lambda rng, n: rng.random(n) < 0.05, 0.05),
    "won or lost, 2 %": (lambda rng, n: rng.random(n) < 0.02, 0.02),
    "won or lost, 98 %": (lambda rng, n: rng.random(n) < 0.98, 0.98),
    "a tenth ties, 15 %": (lambda rng, n: rng.choice([0, 0.5, 1], p=[0.8, 0.1, 0.1], size=n), 0.15),
    "soft, mostly near 0 or 1, 50 %": (lambda rng, n: rng.beta(0.3, 0.3, n), 0.5),
    "soft, mostly near 0 or 1, 10 %": (lambda rng, n: rng.beta(0.1, 0.9, n), 0.1),
    "soft, skewed, 94 %": (lambda rng, n: rng.beta(8, 0.5, n), 8 / 8.5),
}

# Fewer than ten outcomes that are not zero: printed, nothing asked for.
FEW_WINS: dict[str, tuple[Callable[[np.random.Generator, int], npt.ArrayLike], float]] = {
    "soft, 3 % not zero, 1.5 %": (lambda rng, n: (rng.random(n) < 0.03) * rng.random(n), 0.015),
    "won or lost, .5 % (one win expected)": (lambda rng, n: rng.random(n) < 0.005, 0.005),
}


def judged(rng: np.random.Generator, ahead: float, *, soft: bool) -> tuple[Array, Array]:
    """Outcomes of two models on prompts easy or hard for both, the first ahead by some logits."""
    easy = rng.normal(0, 2, PROMPTS)
    if soft:
        a, b = (_sigmoid(easy + shift + rng.normal(0, 2, PROMPTS)) for shift in (ahead, 0.0))
        return a, b
    a, b = (1.0 * (rng.random(PROMPTS) < _sigmoid(easy + shift)) for shift in (ahead, 0.0))
    return a, b


def _rarely_different(rng: np.random.Generator) -> tuple[Array, Array]:
    """Models that differ on five prompts in a hundred."""
    b = 1.0 * (rng.random(PROMPTS) < 0.5)
    return np.where(rng.random(PROMPTS) < 0.05, 1 - b, b), b


def _few_large_losses(rng: np.random.Generator) -> tuple[Array, Array]:
    """A first model slightly better on nine prompts in ten, much worse on one: equal on average."""
    return np.where(rng.random(PROMPTS) < 0.9, 1.0, 0.05), np.full(PROMPTS, 0.905)


PAIRS: dict[str, Callable[[np.random.Generator], tuple[Array, Array]]] = {
    "won or lost, equal models": lambda rng: judged(rng, 0.0, soft=False),
    "won or lost, one ahead": lambda rng: judged(rng, 0.5, soft=False),
    "soft, equal models": lambda rng: judged(rng, 0.0, soft=True),
    "soft, one ahead": lambda rng: judged(rng, 0.5, soft=True),
    "5 % of prompts differ": _rarely_different,
    "equal on average, few large losses": _few_large_losses,
}


# The means are equal and the medians are not: the sign test is right to reject, about the signs.
SIGNS_DIFFER = ("equal on average, few large losses",)


def win_rate_coverage() -> Iterator[Line]:
    """The interval of a win rate; beside it the percentile bootstrap's."""
    for name, (draw, truth) in (WIN_RATES | FEW_WINS).items():
        rng = np.random.default_rng(1)
        ours = bootstrap = 0
        for seed in range(EVALUATIONS):
            values = np.asarray(draw(rng, PROMPTS), dtype=np.float64)
            low, high = win_rate(values).interval or (math.nan, math.nan)
            ours += low <= 100 * truth <= high
            _, (low, high) = bootstrap_mean(values, samples=500, seed=seed)
            bootstrap += low <= truth <= high
        note = f"; percentile bootstrap {_percent(bootstrap)}"
        yield _coverage(f"win rate: {name}", ours, note=note, asked=name in WIN_RATES)


def paired() -> Iterator[Line]:
    """Coverage of a paired difference, and how often each test rejects equal models at 5 %."""
    for name, draw in PAIRS.items():
        truth = _true_difference(draw)
        rng = np.random.default_rng(2)
        covered = signs = means = 0
        for seed in range(EVALUATIONS):
            a, b = draw(rng)
            found = compare(Outcomes(IDS, a), Outcomes(IDS, b), samples=1_000, flips=999, seed=seed)
            low, high = found.difference.interval or (math.nan, math.nan)
            covered += low <= 100 * truth <= high
            signs += found.sign_test <= 0.05
            means += found.mean_test <= 0.05
        yield _coverage(f"paired difference: {name}", covered)
        if truth == 0:
            yield _level(f"test of the mean: {name}", means)
            yield _level(f"sign test: {name}", signs, asked=name not in SIGNS_DIFFER)


def many_models() -> Iterator[Line]:
    """Six equal models, fifteen pairs: how often any of them is called better."""
    rng = np.random.default_rng(3)
    wrong = uncorrected = 0
    for seed in range(EVALUATIONS):
        easy = rng.normal(0, 2, PROMPTS)
        outcomes = {
            f"m{m}": Outcomes(IDS, 1.0 * (rng.random(PROMPTS) < _sigmoid(easy))) for m in range(6)
        }
        verdicts = compare_all(outcomes, samples=2, flips=1_999, seed=seed)
        wrong += any(verdict.better for verdict in verdicts)
        uncorrected += any(verdict.comparison.mean_test <= 0.05 for verdict in verdicts)
    yield _level(
        "any false 'better' among six equal models",
        wrong,
        note=f"; uncorrected {_percent(uncorrected)}",
    )


def bradley_terry_coverage() -> Iterator[Line]:
    """Ratings of four models that met on every prompt."""
    names, truth = ["a", "b", "c", "d"], np.array([1.0, 0.3, -0.2, -1.1])
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    first = [names[i] for _ in range(PROMPTS) for i, _ in pairs]
    second = [names[j] for _ in range(PROMPTS) for _, j in pairs]
    prompts = [id_ for id_ in IDS for _ in pairs]
    wins = np.tile([float(_sigmoid(truth[i] - truth[j])) for i, j in pairs], PROMPTS)
    rng, covered = np.random.default_rng(4), dict.fromkeys(names, 0)
    for seed in range(EVALUATIONS):
        verdicts = 1.0 * (rng.random(wins.size) < wins)
        board = bradley_terry_leaderboard(prompts, first, second, verdicts, samples=300, seed=seed)
        for model, rating in zip(board.models, board.ratings, strict=True):
            low, high = rating.interval or (math.nan, math.nan)
            covered[model] += low <= truth[names.index(model)] <= high
    for name, true in zip(names, truth, strict=True):
        yield _coverage(f"Bradley-Terry rating, truth {true:g}", covered[name])


# Coefficients of length, difficulty and the constant; whether there is a calibration.
LENGTH_CONTROLLED: dict[str, tuple[float, float, float, bool]] = {
    "calibrated, 58 %": (1.0, 1.0, 0.4, True),
    "calibrated, 14 %": (1.0, 0.8, -2.0, True),
    "uncalibrated, 60 %": (1.0, 0.0, 0.4, False),
    "uncalibrated, 18 %": (1.0, 0.0, -1.5, False),
}


def length_controlled_coverage() -> Iterator[Line]:
    """Coverage of a length-controlled win rate whose model is true, with two strengths C.

    Without a calibration C is not chosen but 10,000 already.
    """
    difficulties = np.random.default_rng(0).normal(size=2_000_000)
    for name, (theta, psi, phi, calibrated) in LENGTH_CONTROLLED.items():
        truth = 100 * float(_sigmoid(psi * difficulties + phi).mean())
        covered: dict[float | None, int] = dict.fromkeys((None, 1e4) if calibrated else (None,), 0)
        values = []
        for seed in range(EVALUATIONS):
            evaluation = _evaluation(
                np.random.default_rng((9, seed)), theta, psi, phi, calibrated=calibrated
            )
            for strength in covered:
                found = length_controlled_win_rate(
                    *evaluation[:3],
                    index=range(PROMPTS),
                    calibration=evaluation[3],
                    strength=strength,
                    samples=200,
                    seed=seed,
                ).win_rate
                low, high = found.interval or (math.nan, math.nan)
                covered[strength] += low <= truth <= high
                if strength is None:
                    values.append(found.value)
        bias, spread = float(np.mean(values)) - truth, float(np.std(values))
        note = f"; C = 10,000 {_percent(covered[1e4])}" if calibrated else ""
        note += f"; bias {bias:+.2f}, sd {spread:.2f} points"
        yield _coverage(f"length-controlled win rate: {name}", covered[None], note=note)


def _evaluation(
    rng: np.random.Generator, theta: float, psi: float, phi: float, *, calibrated: bool
) -> tuple[Array, Array, Array, AlpacaCalibration | None]:
    """Preferences, lengths of both and calibration, drawn from the regression's own model."""
    difficulty = rng.normal(size=PROMPTS)
    baseline = np.round(rng.lognormal(7.2, 0.5, PROMPTS))
    model = np.round(baseline * rng.lognormal(0.1, 0.4, PROMPTS))
    length = np.tanh((baseline - model) / np.std(baseline - model, ddof=1))
    wins = 1.0 * (rng.random(PROMPTS) < _sigmoid(theta * length + psi * difficulty + phi))
    if not calibrated:
        return wins, model, baseline, None
    gamed = np.tanh(rng.normal(0, 1, 2 * PROMPTS))
    return (
        wins,
        model,
        baseline,
        AlpacaCalibration(difficulty, gamed, np.tile(difficulty, 2), _sigmoid(theta * gamed)),
    )


PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    "win_rates": win_rate_coverage,
    "paired": paired,
    "many_models": many_models,
    "length_control": length_controlled_coverage,
    "bradley_terry": bradley_terry_coverage,
}


def rows() -> Iterator[Line]:
    """All of them."""
    for part in PARTS.values():
        yield from part()


def _true_difference(draw: Callable[[np.random.Generator], tuple[Array, Array]]) -> float:
    """From 20,000 other evaluations; 0 where it is by construction."""
    if draw in (PAIRS["won or lost, one ahead"], PAIRS["soft, one ahead"]):
        rng = np.random.default_rng(8)
        return float(np.mean([np.mean(a - b) for a, b in (draw(rng) for _ in range(20_000))]))
    return 0.0


def _sigmoid(logits: npt.ArrayLike) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64))))


def _percent(count: int) -> str:
    return f"{100 * count / EVALUATIONS:.1f} %"


def _coverage(what: str, covered: int, *, note: str = "", asked: bool = True) -> Line:
    ok = 0.93 <= covered / EVALUATIONS <= 0.97
    wanted = ", wanted 93 to 97" if asked else ""
    return Line(
        what, f"covers {_percent(covered)} of {EVALUATIONS:,}{wanted}{note}", ok if asked else None
    )


def _level(what: str, rejected: int, *, note: str = "", asked: bool = True) -> Line:
    """Within the level, three standard errors of the simulation allowed."""
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / EVALUATIONS)
    figure = f"rejects {_percent(rejected)} of {EVALUATIONS:,} at 5 %{note}"
    return Line(what, figure, rejected / EVALUATIONS <= most if asked else None)


if __name__ == "__main__":
    for line in rows():
        print(line, flush=True)
