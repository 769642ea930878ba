"""The champion against a random other completion."""

from prefine.pairing.protocol import Choice, selector
from prefine.records import Ranking, content_hash


@selector(needs={"best"}, pairs_per_prompt=1)
def best_vs_random(ranking: Ranking, *, seed: int) -> list[Choice]:
    """The champion over the others in random order, each with the same chance to be the first."""
    others = sorted(set(ranking.completions) - {ranking.champion})
    if ranking.champion is None or not others:
        return []
    drawn = others.pop(seed % len(others))
    return [Choice(ranking.champion, id_) for id_ in (drawn, *shuffled(others, seed))]


def shuffled(ids: list[str], seed: int) -> list[str]:
    """The ids in an order that depends on them and on the seed alone."""
    return sorted(ids, key=lambda id_: content_hash(seed, id_))
