"""A whole ranking, for list losses."""

from prefine.pairing.protocol import scores_of, selector
from prefine.records import Ranking


@selector(needs=set(), needs_one_of={"order", "scores"}, makes="lists")
def lists(ranking: Ranking) -> list[str]:
    """All completions, best first: by score if there are scores, else in the order found."""
    order, scores = list(ranking.order or ()), scores_of(ranking)
    if scores is None:
        return order
    place = {id_: number for number, id_ in enumerate(order)}
    return sorted(scores, key=lambda id_: (-scores[id_], place.get(id_, 0), id_))
