"""The true quality of a selector's chosen minus its rejected completion, by an outcome."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from prefine.ranking.protocol import Outcome

Gap = Callable[[Outcome, Sequence[float]], float | None]


def best_vs_random(outcome: Outcome, quality: Sequence[float]) -> float | None:
    """The champion over each of the others with the same chance: the mean over these draws."""
    if outcome.champion is None:
        return None
    best = quality[outcome.champion]
    return best - (sum(quality) - best) / (len(quality) - 1)


def best_vs_worst(outcome: Outcome, quality: Sequence[float]) -> float | None:
    """The champion over the worst; where they are the same, over the last of the order but it."""
    worst = outcome.worst
    if worst is not None and worst == outcome.champion:
        worst = next((i for i in reversed(outcome.order or ()) if i != worst), None)
    return _gap(outcome.champion, worst, quality)


def best_vs_last_loser(outcome: Outcome, quality: Sequence[float]) -> float | None:
    """The champion over the loser of the last duel that it won."""
    return _gap(outcome.champion, outcome.last_loser, quality)


def best_vs_runner_up(outcome: Outcome, quality: Sequence[float]) -> float | None:
    """The champion over the best of the others."""
    if outcome.order is None or outcome.champion is None:
        return None
    return _gap(outcome.champion, next(i for i in outcome.order if i != outcome.champion), quality)


def best_vs_mu_minus_2sigma(outcome: Outcome, quality: Sequence[float]) -> float | None:
    """The champion over the lower-scored one nearest to two standard deviations below the mean."""
    scores = outcome.scores
    if scores is None or outcome.champion is None:
        return None
    lower = [i for i, score in enumerate(scores) if score < scores[outcome.champion]]
    if not lower:
        return None
    mean = sum(scores) / len(scores)
    target = mean - 2 * (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5
    return _gap(outcome.champion, min(lower, key=lambda i: abs(scores[i] - target)), quality)


def all_pairs(outcome: Outcome, quality: Sequence[float]) -> float | None:
    """The mean over all pairs with different scores, the higher score chosen."""
    if outcome.scores is None:
        return None
    ranked = sorted(zip(outcome.scores, quality, strict=True))
    total, count, start = 0.0, 0, 0
    below = 0.0  # the summed quality of all with a lower score
    while start < len(ranked):
        end = start
        while end < len(ranked) and ranked[end][0] == ranked[start][0]:
            end += 1
        level = sum(q for _, q in ranked[start:end])
        total += start * level - (end - start) * below
        count += start * (end - start)
        below += level
        start = end
    return total / count if count else None


GAPS: Mapping[str, Gap] = MappingProxyType(
    {
        "best_vs_random": best_vs_random,
        "best_vs_worst": best_vs_worst,
        "best_vs_last_loser": best_vs_last_loser,
        "best_vs_runner_up": best_vs_runner_up,
        "best_vs_mu_minus_2sigma": best_vs_mu_minus_2sigma,
        "all_pairs": all_pairs,
    }
)
"""By the selector's name. None where there would be no pair."""


def _gap(chosen: int | None, rejected: int | None, quality: Sequence[float]) -> float | None:
    if chosen is None or rejected is None or chosen == rejected:
        return None
    return quality[chosen] - quality[rejected]
