"""A whole ranking, for list losses."""

from prefine.pairing.protocol import selector
from prefine.records import Ranking


@selector(needs=set(), needs_one_of={"order", "scores"}, makes="lists")
def lists(ranking: Ranking) -> list[str]:
    """All completions, best first: by score where there are scores, else in the order that was found."""
    if ranking.scores is None:
        return list(ranking.order or ())
    score = dict(zip(ranking.completions, ranking.scores, strict=True))
    place = {id_: number for number, id_ in enumerate(ranking.order or ())}
    return sorted(ranking.completions, key=lambda id_: (-score[id_], place.get(id_, 0), id_))
