"""Every pair of completions whose scores differ."""

from itertools import combinations

from prefine.pairing.protocol import Choice, selector
from prefine.records import Ranking, content_hash


@selector(needs={"scores"})
def all_pairs(ranking: Ranking, *, seed: int) -> list[Choice]:
    """Every pair of different scores, the higher one chosen, in random order: a limit takes a random subset."""
    if ranking.scores is None:
        return []
    scored = sorted(
        zip(ranking.completions, ranking.scores, strict=True), key=lambda pair: (-pair[1], pair[0])
    )
    choices = [Choice(a, b) for (a, high), (b, low) in combinations(scored, 2) if high > low]
    return sorted(choices, key=lambda choice: content_hash(seed, choice.chosen, choice.rejected))
