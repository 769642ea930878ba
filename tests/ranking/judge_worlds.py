"""Worlds for ranking tests: prompts with P(first is better) of every ordered pair, and an
`answer` for `drive`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from prefine.ranking.protocol import Answers, Ask, Duel, Outcome, Strategy
from prefine.ranking.run import drive

Array = npt.NDArray[np.float64]


@dataclass
class World:
    """Qualities [N, M] and verdicts [N, M, M]: p_first[n, i, j] when i is shown first. Counts
    what it is asked.
    """

    quality: Array
    p_first: Array
    calls: int = 0
    rounds: int = 0
    calls_of: Counter[str] = field(default_factory=Counter)

    def answer(self, asks: list[tuple[str, Ask]]) -> Answers:
        self.rounds += 1
        self.calls += len(asks)
        answers: Answers = []
        for key, ask in asks:
            assert isinstance(ask, Duel)
            assert ask.first != ask.second
            self.calls_of[key] += 1
            p = self.p_first[int(key), ask.first, ask.second]
            answers.append(None if np.isnan(p) else float(p))
        return answers

    def run(self, strategy: Callable[[int], Strategy]) -> list[Outcome]:
        """The outcome of every prompt, in order."""
        self.calls, self.rounds, self.calls_of = 0, 0, Counter()
        prompts, completions = self.quality.shape
        outcomes = drive({str(n): strategy(completions) for n in range(prompts)}, self.answer)
        return [outcomes[str(n)] for n in range(prompts)]

    def p_best(self, outcomes: list[Outcome]) -> float:
        """How often the champion is the best."""
        return float(
            np.mean(
                [
                    o.champion == best
                    for o, best in zip(outcomes, self.quality.argmax(1), strict=True)
                ]
            )
        )

    def regret(self, outcomes: list[Outcome]) -> float:
        """Mean quality that the champion lacks, in sd."""
        champions = np.array([outcome.champion for outcome in outcomes])
        return float(
            np.mean(self.quality.max(1) - self.quality[np.arange(len(champions)), champions])
        )


def noisy_world(
    prompts: int, completions: int, *, sigma: float, bias: float, soft: bool, seed: int
) -> World:
    """The simulated judge of RANKING §2, half of the noise shared by both orders; sigma is
    sqrt(2) at accuracy .75.
    """
    rng = np.random.default_rng(seed)
    shape = (prompts, completions, completions)
    quality = rng.normal(size=(prompts, completions))
    upper = np.triu(rng.normal(size=shape), 1)
    shared = upper - upper.transpose(0, 2, 1)
    own = rng.normal(size=shape)
    margin = (
        quality[:, :, None] - quality[:, None, :] + sigma * (np.sqrt(0.5) * (shared + own) + bias)
    )
    return World(
        quality, 1 / (1 + np.exp(-3 * margin / sigma)) if soft else (margin > 0).astype(np.float64)
    )


def table_world(p_first: npt.ArrayLike) -> World:
    """One prompt with the given verdicts [M, M]; NaN is a failed call."""
    table = np.asarray(p_first, dtype=np.float64)
    return World(np.zeros((1, len(table))), table[None])


def transitive_table(quality: npt.ArrayLike) -> Array:
    """Noiseless verdicts on qualities [M]; equal ones tie."""
    q = np.asarray(quality, dtype=np.float64)
    return (np.sign(q[:, None] - q[None, :]) + 1) / 2
