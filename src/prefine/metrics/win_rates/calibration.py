"""What AlpacaEval 2's length control takes from outside one evaluation: difficulties, and the gamed baselines."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prefine.metrics.statistics.intervals import Array, finite_values
from prefine.metrics.win_rates.win_rates import verdicts
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
        rows = len(arrays["gamed_length"])
        for name in ("gamed_difficulty", "gamed_preference"):
            if len(arrays[name]) != rows:
                raise ValueError(
                    f"{name} has {len(arrays[name])} rows, but gamed_length has {rows}"
                )
        outside = np.flatnonzero(np.abs(arrays["gamed_length"]) > 1)
        if outside.size:
            value = arrays["gamed_length"][outside[0]]
            raise ValueError(
                f"gamed_length must be in [-1, 1] (tanh taken), got {value} at index {outside[0]}"
            )
        for name, array in arrays.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @cached_property
    def hash(self) -> str:
        """A hash of the content: the same numbers have the same one, wherever they were read from."""
        labels = [None if np.isnan(label) else label for label in self.gamed_preference.tolist()]
        return content_hash(
            self.difficulty.tolist(),
            self.gamed_length.tolist(),
            self.gamed_difficulty.tolist(),
            labels,
        )

    def gamed_rows(self) -> tuple[Array, Array]:
        """Features (length, difficulty) [g, 2] and labels [g] of the gamed rows that have an annotation."""
        known = ~np.isnan(self.gamed_preference)
        features = np.column_stack([self.gamed_length, self.gamed_difficulty])[known]
        return features, self.gamed_preference[known]
