"""From a judge's answers across prompts to the better answer of two."""

from collections import Counter
from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

from prefine.records import Judgment

NO_VERDICT = "across prompts: no verdict"
TIED = "across prompts: a tie"


class Decided(NamedTuple):
    """The better of two answers to two prompts, by ids, and P(it is better), above .5."""

    prompt: str
    chosen: str
    rejected_prompt: str
    rejected: str
    p_chosen: float


def decided(judgments: Iterable[Judgment], dropped: Counter[str]) -> list[Decided]:
    """The comparisons that name a winner, in the order in which they were asked.

    Of both orders it is the mean. A comparison one of whose orders has no verdict is missing: with
    a judge that prefers a slot, the other order alone would decide by that. What names no winner is
    counted in `dropped`.
    """
    asked: dict[tuple[tuple[str, str], tuple[str, str]], list[float | None]] = {}
    for judgment in judgments:
        pair, p_first = judgment.comparison, judgment.p_first
        assert pair.second_prompt_id is not None, "a comparison across prompts"
        first, second = (pair.prompt_id, pair.first), (pair.second_prompt_id, pair.second)
        if (second, first) in asked:
            asked[second, first].append(None if p_first is None else 1 - p_first)
        else:
            asked.setdefault((first, second), []).append(p_first)
    found: list[Decided] = []
    for (first, second), chances in asked.items():
        answered = [p for p in chances if p is not None]
        if len(answered) < len(chances):
            dropped[NO_VERDICT] += 1
        elif (chance := fmean(answered)) == 0.5:
            dropped[TIED] += 1
        elif chance > 0.5:
            found.append(Decided(*first, *second, chance))
        else:
            found.append(Decided(*second, *first, 1 - chance))
    return found
