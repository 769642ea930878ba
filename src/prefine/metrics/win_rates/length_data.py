"""The rows of AlpacaEval 2's length control: of one evaluation, and of a calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.values import (
    Array,
    Bools,
    Values,
    finite_values,
    refuse,
    refuse_repeats,
    same_size,
    verdicts,
)
from prefine.metrics.win_rates.win_rates import DRAW
from prefine.records import content_hash

GAMED_WEIGHT = 0.1
"""Weight of a gamed row, an own row's is 1: lambda = 0.2, for two gamed baselines."""


@dataclass(frozen=True, eq=False)
class AlpacaCalibration:
    """The fixed part of the regression; arrays are copied and cannot be written to.

    Gamed rows are the baseline against itself, once asked to be concise and once to be verbose (G
    rows in all).

    Attributes:
        difficulty: Difficulty of each instruction [I], by instruction id 0 … I - 1; logits per unit
            of psi.
        gamed_length: Length feature of each gamed row [G], in [-1, 1], tanh taken.
        gamed_difficulty: Difficulty of each gamed row's instruction [G].
        gamed_preference: Label of each gamed row [G], in [0, 1]; NaN for no annotation, such a row
            is not used.

    Raises:
        ValueError: Not finite, lengths that differ, a gamed length outside [-1, 1], or a label
            outside [0, 1].
    Source: arXiv:2404.04475, section 3.
    """

    difficulty: Array
    gamed_length: Array
    gamed_difficulty: Array
    gamed_preference: Array

    def __post_init__(self) -> None:
        """Check the arrays, and keep copies of them."""
        arrays = {
            "difficulty": finite_values(self.difficulty, name="difficulty"),
            "gamed_length": finite_values(self.gamed_length, name="gamed_length"),
            "gamed_difficulty": finite_values(self.gamed_difficulty, name="gamed_difficulty"),
            "gamed_preference": verdicts(self.gamed_preference, name="gamed_preference"),
        }
        gamed = {name: array for name, array in arrays.items() if name.startswith("gamed")}
        same_size(**gamed)
        length = arrays["gamed_length"]
        refuse(np.abs(length) > 1, length, "must be in [-1, 1] (tanh taken)", name="gamed_length")
        for name, array in arrays.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @cached_property
    def hash(self) -> str:
        """A hash of the numbers, wherever they were read from."""
        labels = [None if np.isnan(label) else label for label in self.gamed_preference.tolist()]
        return content_hash(
            self.difficulty.tolist(),
            self.gamed_length.tolist(),
            self.gamed_difficulty.tolist(),
            labels,
        )

    def gamed_rows(self) -> tuple[Array, Array]:
        """Features (length, difficulty) [g, 2] and labels [g] of the annotated gamed rows."""
        known = ~np.isnan(self.gamed_preference)
        features = np.column_stack([self.gamed_length, self.gamed_difficulty])[known]
        return features, self.gamed_preference[known]


Index = Sequence[int | str] | npt.NDArray[np.generic]


class LengthTable(NamedTuple):
    """One model's rows [n].

    Attributes:
        ids: Id of each row's instruction, none twice.
        preferences: P(the model is better); NaN for no annotation.
        length: The length feature, tanh((baseline's length - model's) / sd).
        order: 1/2 where the model was shown first, -1/2 where second, 0 where nobody asks.
        constant_outputs: All of the model's answers have the same length.
    """

    ids: tuple[int | str, ...]
    preferences: Array
    length: Array
    order: Array
    constant_outputs: bool

    @property
    def known(self) -> Bools:
        """The rows that have an annotation [n]."""
        return ~np.isnan(self.preferences)

    @property
    def is_baseline(self) -> bool:
        """True if it is the baseline against itself: all lengths equal, all preferences 1/2."""
        return not self.length.any() and bool((self.preferences[self.known] == DRAW).all())

    def sorted(self) -> "LengthTable":
        """The rows in the order of their ids."""
        order = np.array(sorted(range(len(self.ids)), key=self.ids.__getitem__))
        ids = tuple(self.ids[place] for place in order)
        return self._replace(
            ids=ids,
            preferences=self.preferences[order],
            length=self.length[order],
            order=self.order[order],
        )


def checked_rows(
    preferences: Values,
    model_lengths: npt.ArrayLike,
    baseline_lengths: npt.ArrayLike,
    index: Index,
    shown_first: npt.ArrayLike | None,
) -> LengthTable:
    """The rows, in the order given.

    Raises:
        ValueError: Lengths that differ, a value that cannot be, an instruction twice, fewer than
            two annotated rows, length differences that are all the same, or one order for all rows.
    """
    y = verdicts(preferences, name="preferences")
    ids = tuple(np.asarray(index).tolist())
    model = finite_values(model_lengths, name="model_lengths")
    baseline = finite_values(baseline_lengths, name="baseline_lengths")
    same_size(preferences=y, model_lengths=model, baseline_lengths=baseline, index=ids)
    for name, lengths in (("model_lengths", model), ("baseline_lengths", baseline)):
        refuse(lengths < 0, lengths, "must not be negative", name=name)
    refuse_repeats(ids, name="index")
    annotated = int((~np.isnan(y)).sum())
    if annotated < 2:
        raise ValueError(
            f"length control needs at least two annotated rows, got {annotated} in {y.size}"
        )
    longer = baseline - model
    if (longer == longer[0]).all():
        length = np.zeros(y.size)
        if longer[0] or (y[~np.isnan(y)] != DRAW).any():
            raise ValueError(
                f"baseline_lengths - model_lengths is {longer[0]:g} in all {y.size} rows: the "
                "effect of length cannot "
                "be told; report the plain win rate"
            )
    else:
        # Sorted, so that the last digit does not depend on the order of rows.
        length = np.tanh(longer / np.sort(longer).std(ddof=1))
    constant = bool((model == model[0]).all()) and not (baseline == baseline[0]).all()
    return LengthTable(ids, y, length, _order(shown_first, y.size), constant)


def _order(shown_first: npt.ArrayLike | None, rows: int) -> Array:
    if shown_first is None:
        return np.zeros(rows)
    given = np.asarray(shown_first)
    if given.dtype != np.bool_ or given.shape != (rows,):
        raise ValueError(
            f"shown_first must be {rows} truth values, got {given.dtype} of shape {given.shape}"
        )
    if given.all() or not given.any():
        raise ValueError(
            f"shown_first is {given[0]} in all {rows} rows: the effect of the order cannot be "
            "told; leave it out"
        )
    return np.where(given, 0.5, -0.5)
