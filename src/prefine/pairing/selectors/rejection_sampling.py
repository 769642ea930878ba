"""Statistical rejection sampling: pairs of completions drawn from the policy's own optimum."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from prefine.pairing.protocol import Choice, selector
from prefine.records import Ranking

Float64Array = npt.NDArray[np.float64]


class Accepted(NamedTuple):
    """The accepted candidates by index, in the order of acceptance.

    `first_pass_acceptance` is the share of all candidates that would pass in the first pass.
    """

    indices: tuple[int, ...]
    first_pass_acceptance: float


Scale = Literal["score", "percentile"]


def acceptance(
    ranking: Ranking, *, beta: float = 0.5, scale: Scale = "score"
) -> Mapping[str, float]:
    """The expected share of a prompt's completions that the first pass accepts.

    Source: arXiv:2309.06657, theorem 1: the mean of exp((reward - the highest reward) / beta).
    """
    if ranking.scores is None or len(ranking.completions) < 2:
        return {}
    rewards = rewards_of(ranking.scores, scale)
    return {"accepted by the first pass": float(_chances(rewards, beta).mean())}


@selector(needs={"scores"}, shares=acceptance)
def rejection_sampling(
    ranking: Ranking,
    *,
    seed: int,
    beta: Annotated[float, Field(gt=0)] = 0.5,
    accepted: Annotated[int, Field(ge=2)] = 8,
    pairing: Literal["first_round", "tournament"] = "first_round",
    scale: Scale = "score",
) -> list[Choice]:
    """Pairs among completions accepted as if drawn from policy * exp(score / beta).

    The higher score is chosen. Equal scores say nothing, so two such completions that meet form no
    pair.

    Args:
        ranking: One prompt's ranking, with scores; log-odds (Bradley-Terry) are the paper's
            rewards.
        seed: Of the draws.
        beta: Inverse sharpness [score]; towards 0 the best are accepted, a large one accepts any.
        accepted: How many are accepted; all of them if there are no more.
        pairing: "first_round" pairs them at random, half as many pairs; "tournament" lets the
            winners meet again until one is left, one pair fewer than completions.
        scale: The reward is the "score", or its "percentile" among the prompt's completions, the
            share of them with no higher score: 1 is the best, and `beta` is in percentiles,
            whatever unit the scores have.

    Source: arXiv:2309.06657, algorithm 1, and its first-round and tournament ranking; percentiles:
        arXiv:2410.04203 (RSO+). Deviation: the candidates are shuffled first.
    """
    if ranking.scores is None or len(ranking.completions) < 2:
        return []
    rng = np.random.default_rng(seed)
    # Algorithm 1 favours who stands first when a pass has more than are wanted: with scores in
    # ascending order it would accept worse ones than with the same scores shuffled, so nobody may
    # stand there by merit.
    order = rng.permutation(len(ranking.scores)).tolist()
    rewards = rewards_of(ranking.scores, scale)[order]
    drawn = accept(rewards.tolist(), k=accepted, beta=beta, rng=rng)
    players = [order[drawn.indices[place]] for place in rng.permutation(len(drawn.indices))]
    met = (
        _first_round(players) if pairing == "first_round" else _tournament(players, ranking.scores)
    )
    return [
        Choice(ranking.completions[winner], ranking.completions[loser])
        for winner, loser in (_by_score(*pair, ranking.scores) for pair in met)
        if ranking.scores[winner] > ranking.scores[loser]
    ]


def rewards_of(scores: Sequence[float], scale: Scale) -> Float64Array:
    """The rewards of a prompt's completions [n]: their scores, or the percentiles of these."""
    values = np.asarray(scores, dtype=np.float64)
    if scale == "score":
        return values
    return np.searchsorted(np.sort(values), values, side="right") / values.size


def accept(rewards: Sequence[float], *, k: int, beta: float, rng: np.random.Generator) -> Accepted:
    """Draw k of the candidates without replacement; chances grow as exp(reward / beta).

    In a pass, every candidate that is left is accepted with probability exp((reward - the highest
    reward left) / beta), in the order given, until there are k; what was accepted leaves, and the
    next pass begins. The best of a pass is accepted for sure, so this ends. beta -> 0 accepts the k
    best, beta -> infinity the first k: shuffle the candidates before, unless their order is random.
    They are told apart by their index, so equal ones do not merge; with k or fewer candidates all
    of them are accepted.

    Args:
        rewards: One for each candidate [n], finite.
        k: How many to accept, at least 1.
        beta: Above 0 [reward].
        rng: Where the chances come from.
    Returns: The accepted, and which share of all candidates would pass in the first pass if it did
        not end at k: its expectation is that of the paper's theorem 1, the mean of exp((reward -
        the highest reward) / beta).

    Raises:
        ValueError: There is no candidate, a reward is not finite, or k or beta is too small.
    Source: arXiv:2309.06657, algorithm 1.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if not values.size or not np.isfinite(values).all() or k < 1 or not beta > 0:
        raise ValueError(
            f"rejection sampling needs finite rewards, k >= 1 and beta > 0; got {rewards}, {k}, "
            f"{beta}"
        )
    left = np.arange(values.size)
    found: list[int] = []
    first_pass: float | None = None
    while len(found) < k and left.size:
        passes = rng.random(left.size) < _chances(values[left], beta)
        if first_pass is None:
            first_pass = float(passes.mean())
        found += left[passes].tolist()
        left = left[~passes]
    assert first_pass is not None, "there is a candidate and k is at least 1"
    return Accepted(tuple(found[:k]), first_pass)


def _chances(rewards: Float64Array, beta: float) -> Float64Array:
    """The chance of each candidate in a pass [n]; that of the best is 1."""
    # At most 0, so that the exponential cannot overflow; a tiny beta makes it -inf, the best one
    # stays at 0.
    with np.errstate(over="ignore"):
        chances: Float64Array = np.exp((rewards - rewards.max()) / beta)
    return chances


def _first_round(players: list[int]) -> list[tuple[int, int]]:
    """Neighbours meet; the last of an odd number meets nobody."""
    return list(zip(players[::2], players[1::2], strict=False))


def _tournament(players: list[int], scores: Sequence[float]) -> list[tuple[int, int]]:
    """Rounds of neighbours, the better going on, until one is left; an odd last one has a bye."""
    met: list[tuple[int, int]] = []
    while len(players) > 1:
        games = _first_round(players)
        met += games
        players = [_by_score(*game, scores)[0] for game in games] + players[len(games) * 2 :]
    return met


def _by_score(one: int, other: int, scores: Sequence[float]) -> tuple[int, int]:
    return (one, other) if scores[one] >= scores[other] else (other, one)
