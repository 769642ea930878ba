"""Simulated worlds: completions of known quality, and a noisy judge's verdicts on them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from prefine.errors import ConfigError
from prefine.ranking.noise import SOFTNESS, Verdicts, first_slot_logit, noise_sd

Array: TypeAlias = npt.NDArray[np.float64]

WORLDS_PER_CHUNK = 250
"""Worlds that are drawn, and held, together: a few MB at M = 32."""
# Up to so many completions; a chunk of more would take a core more than a few seconds.
_FULL_CHUNKS = 32


class Bounds(NamedTuple):
    """The numbers that a setting may be, in words and from `low` to `high`.

    `low` itself is not allowed if the setting must be `above` it. NaN and infinity never are.
    """

    words: str
    low: float
    high: float = float(np.finfo(float).max)
    above: bool = False
    whole: bool = False
    optional: bool = False

    def allow(self, value: object) -> bool:
        """Return True for a number within them, and for None if the setting is optional."""
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number = float(value)
        return self.low < number <= self.high or (number == self.low and not self.above)


BOUNDS: Mapping[str, Bounds] = {
    "completions": Bounds("a whole number from 2 to 128", 2, 128, whole=True),
    "accuracy": Bounds("above 0.5 and at most 1", 0.5, 1, above=True),
    "first_slot_bias": Bounds("from -10 to 10", -10, 10),
    "order_noise": Bounds("from 0 to 1", 0, 1),
    "duel": Bounds("above 0", 0, above=True),
    "rating": Bounds("above 0", 0, above=True),
    "answer_price": Bounds("at least 0", 0),
    "worlds": Bounds("a whole number from 2 to 1,000,000", 2, 1_000_000, whole=True),
    "seed": Bounds("a whole number of at least 0", 0, whole=True),
    "max_calls": Bounds("above 0", 0, above=True, optional=True),
    "max_cost": Bounds("above 0", 0, above=True, optional=True),
    "processes": Bounds("a whole number of at least 1", 1, whole=True),
}
"""By name: arguments of `simulate`, and attributes of `JudgeModel` and `Prices`."""


def check(name: str, value: object, *, where: str | None = None) -> None:
    """Raise ConfigError with the value and what is allowed, unless a setting may have it.

    Args:
        name: One of `BOUNDS`, or "verdicts".
        value: The user's value.
        where: The user's name of the setting, such as an option of the command; by default `name`.
    """
    if name == "verdicts":
        if value not in ("hard", "soft"):
            raise ConfigError(
                f"{where or name} {value}: choose hard (one of the two) or soft (a probability)"
            )
    elif not BOUNDS[name].allow(value):
        raise ConfigError(f"{where or name} {value}: must be {BOUNDS[name].words}")


@dataclass(frozen=True)
class JudgeModel:
    """A judge to simulate, as `prefine.ranking.noise` defines it, and a scorer as good as it.

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
    """W prompts with M completions each.

    Attributes:
        quality: [W, M].
        p_first: P(first is better) by first and second [W, M, M].
        ratings: [W, M].
    """

    quality: Array
    p_first: Array
    ratings: Array


@dataclass(frozen=True)
class Chunk:
    """The first `count` worlds of a random stream; drawn when a process needs them."""

    judge: JudgeModel
    completions: int
    count: int
    stream: tuple[int, int]

    def draw(self) -> Worlds:
        """Draw the worlds."""
        # A full chunk is drawn before it is cut, so that the last one begins like a full one.
        size, rng = worlds_per_chunk(self.completions), np.random.default_rng(self.stream)
        drawn, count = draw_worlds(self.judge, self.completions, size, rng), self.count
        return Worlds(drawn.quality[:count], drawn.p_first[:count], drawn.ratings[:count])


def chunks_of(judge: JudgeModel, completions: int, worlds: int, seed: int) -> Iterator[Chunk]:
    """The worlds of a seed, chunk by chunk.

    Each chunk has its own random stream, so worlds do not depend on who draws them, on the
    strategies, or on how many more there are.
    """
    size = worlds_per_chunk(completions)
    for number, start in enumerate(range(0, worlds, size)):
        yield Chunk(judge, completions, min(size, worlds - start), (seed, number))


def worlds_per_chunk(completions: int) -> int:
    """The worlds between two steps of the progress; worlds depend on it, so M alone decides."""
    return max(1, WORLDS_PER_CHUNK * _FULL_CHUNKS**2 // max(completions, _FULL_CHUNKS) ** 2)


def draw_worlds(
    judge: JudgeModel, completions: int, count: int, rng: np.random.Generator
) -> Worlds:
    """Draw `count` worlds of qualities N(0, 1).

    A verdict is fixed per ordered pair: the same question, the same answer. The scorer of the same
    quality sees s = quality + N(0, sigma^2 / 2), so that a difference of two ratings has the noise
    of one verdict. Equal grades are left equal: as indices say nothing about quality, whoever
    breaks a tie by index breaks it at random.
    """
    w, m = count, completions
    quality = rng.standard_normal((w, m))
    pair = np.zeros((w, m, m))
    above = np.triu_indices(m, 1)
    pair[:, above[0], above[1]] = rng.standard_normal((w, len(above[0])))
    pair -= pair.transpose(0, 2, 1)
    order = rng.standard_normal((w, m, m))
    sigma = judge.sigma
    margin = quality[:, :, None] - quality[:, None, :]
    margin += sigma * (np.sqrt(1 - judge.order_noise) * pair + np.sqrt(judge.order_noise) * order)
    margin += sigma * judge.first_slot_bias
    if judge.verdicts == "soft" and sigma:
        p_first = 0.5 + 0.5 * np.tanh(SOFTNESS / 2 * margin / sigma)
    else:
        p_first = (np.sign(margin) + 1) / 2
    seen = quality + sigma * np.sqrt(0.5) * rng.standard_normal((w, m))
    ratings = np.clip(np.round(2.5 + 0.9 * seen), 1, 5) if judge.graded else seen
    return Worlds(quality, p_first, ratings)
