"""The length-controlled win rate of AlpacaEval 2: the win rate at equal lengths of both answers."""

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.glm import (
    STRENGTHS,
    cross_validated_strength,
    penalised_logistic,
)
from prefine.metrics.statistics.normal import NORMAL_QUANTILE
from prefine.metrics.statistics.resampling import Resampling
from prefine.metrics.statistics.values import Array, Values, finite_values
from prefine.metrics.win_rates.length_data import (
    GAMED_WEIGHT,
    AlpacaCalibration,
    Index,
    LengthTable,
    checked_rows,
)
from prefine.metrics.win_rates.win_rates import win_rate
from prefine.records import MetricValue

Alignment = Literal["instruction_id", "row"]

# How far the controlled win rate may be from the plain one before that is worth a warning: points,
# part of the way.
_FAR, _PART = 10.0, 4.0


class Weights(NamedTuple):
    """Coefficients of the regression, in logits.

    Attributes:
        length: theta, of the length feature.
        difficulty: psi, of an instruction's difficulty; 0 without a calibration.
        constant: phi.
        shown_first: omega, what being shown first rather than second adds; 0 if not asked for.
    """

    length: float
    difficulty: float
    constant: float
    shown_first: float = 0.0


BASELINE = Weights(0.0, 0.0, 0.0)
"""The coefficients of the baseline against itself."""


class LengthControl(NamedTuple):
    """A length-controlled win rate, and how it came about.

    Attributes:
        win_rate: In %, with a bootstrap over instructions that refits; `n` counts annotated rows.
        plain: The win rate of the same rows.
        weights: Coefficients.
        strength: C, the inverse strength of the penalty; None where nothing was fitted (the
            baseline against itself).
        calibration: Hash of the calibration; None without.
        alignment: How difficulties were joined to rows.
        missing: Rows without an annotation. They are no part of the fit; their instructions are of
            the prediction.
        deviation: 100 sd / sqrt(n) of the predictions, which upstream publishes as
            `lc_standard_error`. It says how much instructions differ, and nothing about how well
            the coefficients are known.
        warnings: What makes the number doubtful, in words.
        ids: Ids of the rows, in the order of `difficulty`.
        difficulty: Difficulties of the rows [n]; 0 without a calibration.
        draws: Coefficients on each bootstrap sample [S, 4], in the order of `Weights`.
        seed: Seed of the bootstrap.
    """

    win_rate: MetricValue
    plain: MetricValue
    weights: Weights
    strength: float | None
    calibration: str | None
    alignment: Alignment
    missing: int
    deviation: float
    warnings: tuple[str, ...]
    ids: tuple[int | str, ...]
    difficulty: Array
    draws: Array
    seed: int


def length_controlled_win_rate(
    preferences: Values,
    model_lengths: npt.ArrayLike,
    baseline_lengths: npt.ArrayLike,
    *,
    index: Index,
    calibration: AlpacaCalibration | None,
    alignment: Alignment = "instruction_id",
    shown_first: npt.ArrayLike | None = None,
    strength: float | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> LengthControl:
    """The win rate at equal lengths in %: the mean of sigmoid(psi d_i + phi), d_i difficulties.

    A row's preference is sigmoid(theta t_i + psi d_i + phi) with t_i = tanh((baseline's length -
    model's) / sd), sd that of the differences (ddof 1, not centred). theta, psi and phi minimise
    |theta| + |psi| + |phi| plus C times the cross-entropy, gamed rows weighted `GAMED_WEIGHT`. All
    lengths equal and all preferences 1/2 is the baseline against itself: 50. Without a calibration
    there are theta and phi only, and the name ends in `_uncalibrated`.

    Args:
        preferences: P(the model is better) of each row [n], in [0, 1]; None or NaN for no
            annotation.
        model_lengths: Characters of the model's answers [n].
        baseline_lengths: Characters of the baseline's [n].
        index: Instruction of each row [n], none twice. With a calibration, its number there, 0 … I
            - 1.
        calibration: Difficulties and gamed rows, or None.
        alignment: "instruction_id": a row has the difficulty of its instruction, and the order of
            rows does not matter. "row": row r has the difficulty of instruction r, whatever its
            own, as in published numbers.
        shown_first: Whether the judge saw the model's answer first [n]. Then the difference that
            makes is one more coefficient, and taken out of the win rate; for verdicts of one order
            only.
        strength: C; None chooses it by cross-validation, or without a calibration takes the weakest
            penalty, C = 10^4: theta and phi need none, and a chosen one may be so strong on few
            rows that it pulls everything to 50.
        samples: Number of bootstrap samples over instructions, 0 for no interval. Each fits the
            coefficients anew; C, sd and the gamed rows stay. The interval is the estimate's logit
            plus or minus 1.96 standard errors of it, times sqrt(n / (n - 1)).
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Arrays of different length, a preference outside [0, 1], a length that is
            negative or not finite, an instruction twice or without a difficulty, fewer than two
            annotated rows, length differences that are all the same, one order for all rows, or a
            strength that is not positive.
    Source: arXiv:2404.04475; https://github.com/tatsu-lab/alpaca_eval (`glm_winrate.py`).
    Deviation: solved exactly, difficulties joined by id, an interval, no calibration built in.
    """
    if strength is not None and not 0 < strength < math.inf:
        raise ValueError(f"strength must be positive and finite, got {strength}")
    rows = checked_rows(preferences, model_lengths, baseline_lengths, index, shown_first)
    if alignment == "instruction_id":
        rows = rows.sorted()
    difficulty = (
        np.zeros(len(rows.ids))
        if calibration is None
        else _difficulties(rows, calibration, alignment)
    )
    resampling = Resampling(samples, seed)
    if rows.is_baseline:
        strength, found, draws = None, np.zeros(4), np.zeros((samples, 4))
    else:
        strength, found, draws = _fit(rows, difficulty, calibration, strength, resampling)
    name = (
        "length_controlled_win_rate"
        if shown_first is None
        else "length_and_order_controlled_win_rate"
    )
    metric = _metric(
        name if calibration is not None else f"{name}_uncalibrated",
        found,
        draws,
        difficulty,
        n=int(rows.known.sum()),
        seed=seed,
    )
    plain = win_rate(rows.preferences[rows.known])
    return LengthControl(
        win_rate=metric,
        plain=plain,
        weights=Weights(*map(float, found)),
        strength=strength,
        calibration=None if calibration is None else calibration.hash,
        alignment=alignment,
        missing=int((~rows.known).sum()),
        deviation=100
        * float(_predictions(found, difficulty).std(ddof=1))
        / math.sqrt(len(difficulty)),
        warnings=_warnings(plain.value, metric.value, rows),
        ids=rows.ids,
        difficulty=difficulty,
        draws=draws,
        seed=seed,
    )


def controlled_against(model: LengthControl, other: LengthControl) -> MetricValue:
    """The length-controlled win rate in % of a model against another, both of one baseline.

    It is the mean of sigmoid((phi - phi') + (psi - psi') d_i) over the instructions, with the
    bootstrap of both on the same samples. Against the baseline itself it is the model's own win
    rate; a model against itself has 50.

    Raises:
        ValueError: The two differ in instructions, calibration, alignment, kind of control, or
            bootstrap samples.
    Source: upstream's `predict_winrate`.
    """
    for what, one, two in (
        ("instructions", model.ids, other.ids),
        ("calibrations", model.calibration, other.calibration),
        ("alignments", model.alignment, other.alignment),
        ("kinds of control", model.win_rate.name, other.win_rate.name),
        ("bootstrap seeds", model.seed, other.seed),
        ("numbers of bootstrap samples", len(model.draws), len(other.draws)),
    ):
        if one != two:
            shown = (
                f"{len(model.ids)} and {len(other.ids)} rows"
                if what == "instructions"
                else f"{one} and {two}"
            )
            raise ValueError(
                f"the two have different {what} ({shown}); evaluate both in the same way"
            )
    difference = np.array(model.weights) - np.array(other.weights)
    return _metric(
        f"{model.win_rate.name}_against",
        difference,
        model.draws - other.draws,
        model.difficulty,
        n=min(model.win_rate.n, other.win_rate.n),
        seed=model.seed,
    )


def predicted_win_rate(
    weights: Weights, difficulty: npt.ArrayLike, *, against: Weights = BASELINE
) -> MetricValue:
    """The length-controlled win rate in % that published coefficients give, without uncertainty.

    Args:
        weights: Coefficients of the model.
        difficulty: Difficulty of each instruction [n].
        against: Coefficients of another baseline than the one of the evaluation.

    Raises:
        ValueError: A coefficient or a difficulty is not a finite number.
    Source: upstream's `predict_winrate`.
    """
    difference = finite_values(weights, name="weights") - finite_values(against, name="against")
    d = finite_values(difficulty, name="difficulty")
    return _metric(
        "length_controlled_win_rate_of_weights", difference, np.zeros((0, 4)), d, n=d.size, seed=0
    )


def _difficulties(rows: LengthTable, calibration: AlpacaCalibration, alignment: Alignment) -> Array:
    known, numbers = len(calibration.difficulty), []
    for place, id_ in enumerate(rows.ids):
        if not isinstance(id_, int) or not 0 <= id_ < known:
            raise ValueError(
                f"index: {id_!r} at {place} is no instruction of the calibration (0 to {known - 1})"
            )
        numbers.append(id_ if alignment == "instruction_id" else place)
    return calibration.difficulty[numbers]


def _fit(
    rows: LengthTable,
    difficulty: Array,
    calibration: AlpacaCalibration | None,
    strength: float | None,
    resampling: Resampling,
) -> tuple[float, Array, Array]:
    """C, the coefficients [4], and those of each bootstrap sample [S, 4]."""
    known, n = rows.known, len(difficulty)
    ours = np.column_stack([rows.length, difficulty, np.ones(n), rows.order])
    gamed, labels = (
        (np.zeros((0, 2)), np.zeros(0)) if calibration is None else calibration.gamed_rows()
    )
    # Gamed rows come first: the folds of the cross-validation depend on it.
    x = np.concatenate([np.column_stack([gamed, np.zeros((len(gamed), 2))]), ours[known]])
    y = np.concatenate([labels, rows.preferences[known]])
    s = np.concatenate([np.full(len(gamed), GAMED_WEIGHT), np.ones(int(known.sum()))])
    used = np.flatnonzero(x.any(axis=0))
    x = x[:, used]
    if strength is not None:
        c = strength
    else:
        c = float(STRENGTHS[-1]) if calibration is None else cross_validated_strength(x, y, s)
    (best,) = penalised_logistic(x, y, c * s)
    found, draws = np.zeros(4), np.zeros((resampling.count, 4))
    found[used] = best

    def refit(drawn: Array) -> Array:
        """The coefficients on bootstrap samples, from how often each draws every row."""
        weights = np.empty((len(drawn), len(y)))
        weights[:, : len(gamed)] = c * GAMED_WEIGHT
        weights[:, len(gamed) :] = c * drawn[:, known]
        return penalised_logistic(x, y, weights, start=best)

    if resampling.count:
        draws[:, used] = resampling.draws(n, refit)
    return c, found, draws


def _predictions(weights: Array, difficulty: Array) -> Array:
    """P(better) at equal lengths, in neither order [..., n], by weights [..., 4]."""
    from scipy.special import expit

    p: Array = expit(weights[..., 1:2] * difficulty + weights[..., 2:3])
    return p


def _metric(
    name: str, weights: Array, draws: Array, difficulty: Array, *, n: int, seed: int
) -> MetricValue:
    from scipy.special import expit

    value = float(_predictions(weights, difficulty).mean())
    error, interval = None, None
    if len(draws):
        done, drawn_values = 0, []
        for drawn in Resampling(len(draws), seed).weights(len(difficulty)):
            p = _predictions(draws[done : done + len(drawn)], difficulty)
            drawn_values.append((drawn * p).sum(axis=1) / len(difficulty))
            done += len(drawn)
        values = np.concatenate(drawn_values)
        error = 100 * float(values.std(ddof=1))
        # On the logit scale the estimate is nearly symmetric; percentiles miss a rare win's truth
        # on one side.
        around, middle = _logit(values), float(_logit(np.array(value)))
        reach = NORMAL_QUANTILE * float(around.std(ddof=1)) * math.sqrt(n / (n - 1))
        low, high = 100 * expit(np.array([middle - reach, middle + reach]))
        interval = (min(float(low), 100 * value), max(float(high), 100 * value))
    return MetricValue(
        name=name, value=100 * value, standard_error=error, interval=interval, n=n, unit="%"
    )


def _logit(p: Array) -> Array:
    from scipy.special import logit

    logits: Array = logit(np.clip(p, 1e-15, 1 - 1e-15))
    return logits


def _warnings(plain: float, controlled: float, rows: LengthTable) -> tuple[str, ...]:
    found = []
    if controlled < min(plain - plain / _PART, plain - _FAR) or controlled > max(
        plain + (100 - plain) / _PART, plain + _FAR
    ):
        found.append(
            f"{controlled:.1f} % at equal lengths is far from the plain {plain:.1f} %; do not "
            "trust it alone"
        )
    if missing := int((~rows.known).sum()):
        found.append(f"{missing} of {len(rows.ids)} rows have no annotation")
    if rows.constant_outputs:
        found.append("all answers of the model have the same length: are they one constant text?")
    known = rows.preferences[rows.known]
    if (known == known[0]).all() and not rows.is_baseline:
        found.append(
            f"all preferences are {known[0]:g}, so the interval cannot tell how uncertain the "
            "rate is"
        )
    return tuple(found)
