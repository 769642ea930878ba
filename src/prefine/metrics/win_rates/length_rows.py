"""The rows of one evaluation as length control needs them, checked."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import Array, Values, finite_values
from prefine.metrics.win_rates.preferences import DRAW
from prefine.metrics.win_rates.win_rates import verdicts

Index = Sequence[int] | Sequence[str] | npt.NDArray[np.generic]


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
    def known(self) -> npt.NDArray[np.bool_]:
        """Which rows have an annotation [n]."""
        return ~np.isnan(self.preferences)

    @property
    def is_baseline(self) -> bool:
        """It is the baseline against itself: no answer is longer, no preference is other than 1/2."""
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
    for name, size in (
        ("model_lengths", model.size),
        ("baseline_lengths", baseline.size),
        ("index", len(ids)),
    ):
        if size != y.size:
            raise ValueError(f"{y.size} preferences, but {name} has {size}: give one for each row")
    for name, lengths in (("model_lengths", model), ("baseline_lengths", baseline)):
        negative = np.flatnonzero(lengths < 0)
        if negative.size:
            raise ValueError(
                f"{name} must not be negative, got {lengths[negative[0]]:g} at index {negative[0]}"
            )
    _refuse_twice(ids)
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


def _refuse_twice(ids: tuple[int | str, ...]) -> None:
    first: dict[int | str, int] = {}
    for place, id_ in enumerate(ids):
        if first.setdefault(id_, place) != place:
            raise ValueError(
                f"index: instruction {id_!r} is there twice, at {first[id_]} and {place}"
            )


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
