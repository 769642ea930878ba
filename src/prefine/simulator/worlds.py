"""Simulated worlds: completions of known quality, every verdict of a noisy judge on them, and a scorer's ratings."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from prefine.errors import ConfigError
from prefine.ranking.noise import SOFTNESS, Verdicts, first_slot_logit, noise_sd
from prefine.simulator.bounds import check

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class JudgeModel:
    """A judge to simulate, as `judges.noise` defines it, and a scorer that sees as much.

    Attributes:
        accuracy: Probability that two random completions are judged rightly when there is no bias;
            in (0.5, 1].
        first_slot_bias: What the first slot adds to the margin [sigma]; from -10 to 10.
        order_noise: Share of the noise variance that is drawn anew for each order; in [0, 1].
        verdicts: "hard" answers 0 or 1, "soft" sigmoid(3 margin / sigma).
        graded: The scorer gives grades from 1 to 5, many of them equal, instead of what it sees.

    Raises:
        ConfigError: One of them is not allowed.
    """

    accuracy: float = 0.75
    first_slot_bias: float = 0.5
    order_noise: float = 0.5
    verdicts: Verdicts = "hard"
    graded: bool = True

    def __post_init__(self) -> None:
        for name in ("accuracy", "first_slot_bias", "order_noise", "verdicts"):
            check(name, getattr(self, name))
        if not isinstance(self.graded, bool):
            raise ConfigError(f"graded {self.graded!r}: must be True or False")

    @property
    def sigma(self) -> float:
        """The noise of one verdict [quality sd]."""
        return noise_sd(self.accuracy)

    @property
    def first_slot_logit(self) -> float:
        """The bias as a strategy is told it [logit]; 0 for a judge without noise."""
        return first_slot_logit(self.first_slot_bias, self.verdicts) if self.sigma else 0.0


@dataclass(frozen=True)
class Worlds:
    """W prompts with M completions each: qualities [W, M], P(first) by (first, second) [W, M, M], ratings [W, M]."""

    quality: Array
    p_first: Array
    ratings: Array


def draw_worlds(
    judge: JudgeModel, completions: int, count: int, rng: np.random.Generator
) -> Worlds:
    """`count` worlds of qualities N(0, 1). A verdict is fixed per ordered pair: the same question, the same answer.

    The scorer of the same quality sees s = quality + N(0, sigma^2 / 2), so that a difference of two
    ratings has the noise of one verdict. Equal grades are left equal: as indices say nothing about
    quality, whoever breaks a tie by index breaks it at random.
    """
    w, m = count, completions
    quality = rng.standard_normal((w, m))
    pair = np.zeros((w, m, m))
    above = np.triu_indices(m, 1)
    pair[:, above[0], above[1]] = rng.standard_normal((w, len(above[0])))
    pair -= pair.transpose(0, 2, 1)
    own = rng.standard_normal((w, m, m))
    sigma = judge.sigma
    margin = quality[:, :, None] - quality[:, None, :]
    margin += sigma * (np.sqrt(1 - judge.order_noise) * pair + np.sqrt(judge.order_noise) * own)
    margin += sigma * judge.first_slot_bias
    if judge.verdicts == "soft" and sigma:
        p_first = 0.5 + 0.5 * np.tanh(SOFTNESS / 2 * margin / sigma)
    else:
        p_first = (np.sign(margin) + 1) / 2
    seen = quality + sigma * np.sqrt(0.5) * rng.standard_normal((w, m))
    return Worlds(
        quality, p_first, np.clip(np.round(2.5 + 0.9 * seen), 1, 5) if judge.graded else seen
    )
