"""The champion against the worst completion."""

from prefine.pairing.protocol import Choice, selector
from prefine.records import Ranking


@selector(needs={"best", "worst"}, pairs_per_prompt=1)
def best_vs_worst(ranking: Ranking) -> list[Choice]:
    """The champion over the worst, then, as far as an order is known, over the others from the bottom upwards."""
    if ranking.champion is None or ranking.worst is None:
        return []
    others = [
        ranking.worst,
        *(id_ for id_ in reversed(ranking.order or ()) if id_ != ranking.worst),
    ]
    return [Choice(ranking.champion, id_) for id_ in others if id_ != ranking.champion]
