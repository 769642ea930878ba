"""Every pair of completions whose scores differ."""

from itertools import combinations
from typing import Annotated

from pydantic import Field

from prefine.pairing.base import Choice, selector
from prefine.records import Ranking, content_hash


@selector(needs={"scores"})
def all_pairs(
    ranking: Ranking,
    *,
    min_gap: Annotated[float, Field(ge=0)] = 0.0,
    max_pairs: Annotated[int, Field(gt=0)] | None = None,
    seed: int = 0,
) -> list[Choice]:
    """Every pair with a score gap above `min_gap`, the higher score chosen; nothing when there are no scores.

    Args:
        ranking: One prompt's ranking, with scores.
        min_gap: The gap [scores] that a pair must exceed, strictly: equal scores never form a pair.
        max_pairs: Keep at most so many, a random subset that depends on (seed, prompt id, the pairs) alone.
        seed: Names the random subset.
    """
    if ranking.scores is None:
        return []
    scored = sorted(zip(ranking.completions, ranking.scores, strict=True), key=lambda pair: -pair[1])
    choices = [Choice(a, b) for (a, high), (b, low) in combinations(scored, 2) if high - low > min_gap]
    if max_pairs is None or len(choices) <= max_pairs:
        return choices
    by_chance = sorted(choices, key=lambda choice: content_hash("all_pairs", seed, ranking.prompt_id, choice))
    drawn = set(by_chance[:max_pairs])
    return [choice for choice in choices if choice in drawn]
