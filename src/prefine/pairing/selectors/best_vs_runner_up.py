"""The champion against the second best."""

from prefine.pairing.protocol import Choice, selector
from prefine.records import Ranking


@selector(needs={"best", "order"}, pairs_per_prompt=1)
def best_vs_runner_up(ranking: Ranking) -> list[Choice]:
    """The champion over the second best, then over the others downwards."""
    if ranking.champion is None or ranking.order is None:
        return []
    return [Choice(ranking.champion, id_) for id_ in ranking.order if id_ != ranking.champion]
