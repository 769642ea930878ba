"""Every pair of completions whose scores differ."""

from itertools import combinations

from prefine.pairing.protocol import Choice, scores_of, selector
from prefine.records import Ranking, content_hash


@selector(needs={"scores"})
def all_pairs(ranking: Ranking, *, seed: int) -> list[Choice]:
    """Every pair of different scores, the higher chosen, in random order: a limit takes any."""
    scores = scores_of(ranking) or {}
    downwards = sorted(scores, key=lambda id_: -scores[id_])
    choices = [Choice(a, b) for a, b in combinations(downwards, 2) if scores[a] > scores[b]]
    return sorted(choices, key=lambda choice: content_hash(seed, choice.chosen, choice.rejected))
