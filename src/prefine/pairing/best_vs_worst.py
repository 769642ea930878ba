"""The champion against the worst completion."""

from prefine.pairing.base import Choice, selector
from prefine.records import Ranking


@selector(needs={"best", "worst"})
def best_vs_worst(ranking: Ranking) -> list[Choice]:
    """The champion over the worst completion; nothing when one of the two was not found."""
    if ranking.champion is None or ranking.worst is None or ranking.champion == ranking.worst:
        return []
    return [Choice(ranking.champion, ranking.worst)]
