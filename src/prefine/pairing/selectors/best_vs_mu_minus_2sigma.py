"""The champion against a completion two standard deviations below the mean."""

from statistics import fmean, pstdev

from prefine.pairing.protocol import Choice, selector
from prefine.records import Ranking


@selector(needs={"best", "scores"}, pairs_per_prompt=1)
def best_vs_mu_minus_2sigma(ranking: Ranking) -> list[Choice]:
    """The champion over those with a lower score, the nearest to mean - 2 sd of the prompt's scores first.

    With many completions the very worst ones are broken in ways that teach little; this takes a bad
    but typical one.

    Source: arXiv:2502.16825, rejected at mu - 2 sigma. Deviation: the standard deviation divides by
        the number of
    completions, and a completion that does not score below the champion is never rejected.
    """
    if ranking.champion is None or ranking.scores is None:
        return []
    score = dict(zip(ranking.completions, ranking.scores, strict=True))
    target = fmean(ranking.scores) - 2 * pstdev(ranking.scores)
    lower = [id_ for id_ in ranking.completions if score[id_] < score[ranking.champion]]
    return [
        Choice(ranking.champion, id_)
        for id_ in sorted(lower, key=lambda i: (abs(score[i] - target), i))
    ]
