"""The champion against the last one that it beat."""

from prefine.pairing.protocol import Choice, selector
from prefine.records import Ranking


@selector(needs={"best", "last_loser"}, pairs_per_prompt=1)
def best_vs_last_loser(ranking: Ranking) -> list[Choice]:
    """The champion over the loser of the last duel that it won; nothing when there is no such duel."""
    if ranking.champion is None or ranking.last_loser is None:
        return []
    return [Choice(ranking.champion, ranking.last_loser)]
