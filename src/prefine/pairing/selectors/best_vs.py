"""Selectors of the champion against one of the others."""

from statistics import fmean, pstdev

from prefine.pairing.protocol import Choice, scores_of, selector
from prefine.records import Ranking, content_hash


@selector(needs={"best"}, pairs_per_prompt=1)
def best_vs_random(ranking: Ranking, *, seed: int) -> list[Choice]:
    """The champion over the others in random order, each as likely to be the first."""
    others = sorted(set(ranking.completions) - {ranking.champion})
    if ranking.champion is None or not others:
        return []
    drawn = others.pop(seed % len(others))
    others.sort(key=lambda id_: content_hash(seed, id_))
    return [Choice(ranking.champion, id_) for id_ in (drawn, *others)]


@selector(needs={"best", "order"}, pairs_per_prompt=1)
def best_vs_runner_up(ranking: Ranking) -> list[Choice]:
    """The champion over the second best, then over the others downwards."""
    if ranking.champion is None or ranking.order is None:
        return []
    return [Choice(ranking.champion, id_) for id_ in ranking.order if id_ != ranking.champion]


@selector(needs={"best", "last_loser"}, pairs_per_prompt=1)
def best_vs_last_loser(ranking: Ranking) -> list[Choice]:
    """The champion over the loser of the last duel that it won, if there is such a duel."""
    if ranking.champion is None or ranking.last_loser is None:
        return []
    return [Choice(ranking.champion, ranking.last_loser)]


@selector(needs={"best", "worst"}, pairs_per_prompt=1)
def best_vs_worst(ranking: Ranking) -> list[Choice]:
    """The champion over the worst, then, if an order is known, over the others from below."""
    if ranking.champion is None or ranking.worst is None:
        return []
    others = [
        ranking.worst,
        *(id_ for id_ in reversed(ranking.order or ()) if id_ != ranking.worst),
    ]
    return [Choice(ranking.champion, id_) for id_ in others if id_ != ranking.champion]


@selector(needs={"best", "scores"}, pairs_per_prompt=1)
def best_vs_mu_minus_2sigma(ranking: Ranking) -> list[Choice]:
    """The champion over those with a lower score, the nearest to mean - 2 sd first.

    With many completions the very worst ones are broken in ways that teach little; this takes a bad
    but typical one.

    Source: arXiv:2502.16825, rejected at mu - 2 sigma. Deviation: the standard deviation divides by
        the number of
    completions, and a completion that does not score below the champion is never rejected.
    """
    champion, scores = ranking.champion, scores_of(ranking)
    if champion is None or scores is None:
        return []
    target = fmean(scores.values()) - 2 * pstdev(scores.values())
    lower = [id_ for id_ in scores if scores[id_] < scores[champion]]
    lower.sort(key=lambda id_: (abs(scores[id_] - target), id_))
    return [Choice(champion, id_) for id_ in lower]


@selector(needs={"best"}, pairs_per_prompt=1, standing="reference")
def reference_vs_sample(ranking: Ranking, *, seed: int) -> list[Choice]:
    """The prompt's reference answer over its samples, in random order; nobody judges.

    Source: arXiv:2401.01335 (SPIN), where the policy of each round plays against the data.
    """
    return best_vs_random(ranking, seed=seed)
