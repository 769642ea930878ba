"""Every answer by itself: good or bad, for losses of labelled answers."""

from statistics import fmean

from prefine.pairing.protocol import scores_of, selector
from prefine.records import Ranking


@selector(needs={"scores"}, makes="labels")
def labelled(ranking: Ranking, *, above: float | None = None) -> dict[str, bool]:
    """All completions, good if their score is above a threshold.

    Args:
        ranking: With scores; without, as where duels failed, none is labelled.
        above: In the unit of the scores; None is the mean of the prompt's own scores, so that each
            prompt gives both labels, or none if all its scores are equal.
    """
    scores = scores_of(ranking) or {}
    if above is None and len(set(scores.values())) < 2:
        return {}
    threshold = fmean(scores.values()) if above is None else above
    return {id_: score > threshold for id_, score in scores.items()}
