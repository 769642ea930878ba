"""The champion against a random other completion."""

from prefine.pairing.base import Choice, selector
from prefine.records import Ranking, content_hash


@selector(needs={"best"})
def best_vs_random(ranking: Ranking, *, seed: int = 0) -> list[Choice]:
    """The champion over one of the others, each with the same chance; nothing when there is no champion.

    The draw is a function of (seed, prompt id, the completions), so it changes neither with the other prompts nor with
    the order of the completions.
    """
    others = sorted(set(ranking.completions) - {ranking.champion})
    if ranking.champion is None or not others:
        return []
    draw = int(content_hash("best_vs_random", seed, ranking.prompt_id), 16)
    return [Choice(ranking.champion, others[draw % len(others)])]
