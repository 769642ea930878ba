"""The pairs of each step: a function of the step number and the seed alone."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StepSchedule:
    """The order of the pairs over all epochs; an epoch takes every pair, in a smaller last step."""

    num_pairs: int
    pairs_per_step: int
    epochs: int
    seed: int
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-self.num_pairs // self.pairs_per_step)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        planned = self.steps_per_epoch * self.epochs
        return planned if self.max_steps is None else min(planned, self.max_steps)

    def pairs_of(self, step: int) -> list[int]:
        """Indices of the pairs that step number `step` (from 0) averages over."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_pairs)
        start = position * self.pairs_per_step
        return [int(index) for index in order[start : start + self.pairs_per_step]]
