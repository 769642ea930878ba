"""From a ranking to a preference list."""

from collections.abc import Callable, Mapping

from prefine.pairing.evidence import same_answer
from prefine.pairing.filters import SAME_ANSWER, TOO_CLOSE, TOO_UNEQUAL, PairOptions, lengths_match
from prefine.pairing.view import find, narrowed
from prefine.records import Completion, PreferenceList, Prompt, Ranking

NOTHING = "no list selected"


def select_list(
    prompt: Prompt,
    completions: Mapping[str, Completion],
    ranking: Ranking,
    propose: Callable[[Ranking], list[str]],
    options: PairOptions,
) -> PreferenceList | str:
    """The list of a prompt, with scores where there are any and else with ranks; or why there is none.

    From the best downwards, a completion whose score is not below the last kept one's by more than
    the minimum gap is left out, and so is one whose length does not match the best one's, or whose
    answer stands there already.

    Args:
        prompt: What was answered.
        completions: Its completions, by id.
        ranking: Their ranking.
        propose: A selector that makes lists, its own options bound.
        options: What all selectors share.

    Raises:
        DataError: The ranking names an unknown completion.
    """
    view = narrowed(ranking, completions, options)
    scores = None if view.scores is None else dict(zip(view.completions, view.scores, strict=True))
    kept: list[str] = []
    found: list[Completion] = []
    left_out = NOTHING
    for id_ in propose(view):
        next_ = find(prompt.id, completions, id_)
        if any(same_answer(one, next_) for one in found):
            left_out = SAME_ANSWER
        elif kept and not lengths_match(found[0], next_, options):
            left_out = TOO_UNEQUAL
        elif (
            kept
            and options.min_gap is not None
            and (not scores or scores[kept[-1]] - scores[id_] <= options.min_gap)
        ):
            left_out = TOO_CLOSE
        else:
            kept.append(id_)
            found.append(next_)
    if len(kept) < 2:
        return left_out
    if scores is not None and scores[kept[0]] == scores[kept[-1]]:
        return TOO_CLOSE
    return PreferenceList(
        prompt=prompt,
        completions=tuple(found),
        scores=None if scores is None else tuple(scores[id_] for id_ in kept),
        ranks=None if scores is not None else tuple(range(1, len(kept) + 1)),
    )
