"""A ranking as a selector sees it: without the completions that are left out, its scores corrected for length."""

from collections.abc import Mapping

from prefine.errors import DataError
from prefine.pairing.filters import PairOptions
from prefine.records import Completion, Ranking


def narrowed(
    ranking: Ranking, completions: Mapping[str, Completion], options: PairOptions
) -> Ranking:
    """The ranking of the completions that are left, in the order of their ids.

    What was known is still known where order or scores tell: the champion is the best of those that
    are left, the worst their worst. What they do not tell is None; nothing becomes known that was
    not. A penalty on length moves all of it to where the corrected scores say.

    Args:
        ranking: One prompt's ranking.
        completions: Its completions, by id.
        options: Says which are left out, and the penalty.

    Raises:
        DataError: A completion of the ranking is not among those given.
    """
    kept = sorted(
        (
            place
            for place, id_ in enumerate(ranking.completions)
            if _wanted(ranking, completions, id_, options)
        ),
        key=lambda place: ranking.completions[place],
    )
    ids = tuple(ranking.completions[place] for place in kept)
    scores = _corrected(ranking, completions, options, kept)
    if options.length_penalty and scores is None:
        # Without scores for all of them (duels are missing), nobody can say who is best at equal
        # length.
        return Ranking(prompt_id=ranking.prompt_id, strategy=ranking.strategy, completions=ids)
    left = set(ids)
    order = None if ranking.order is None else tuple(id_ for id_ in ranking.order if id_ in left)
    by_score: tuple[str, ...] | None = None
    if scores is not None:
        value = dict(zip(ids, scores, strict=True))
        known = {id_: place for place, id_ in enumerate(order or ())}
        ends = {ranking.champion: -1, ranking.worst: 1}
        by_score = tuple(sorted(ids, key=lambda i: (-value[i], known.get(i, 0), ends.get(i, 0), i)))
    moved = by_score if options.length_penalty else None
    champion = _end(ranking.champion, 0, left, moved, order, by_score)
    errors = ranking.standard_errors
    return ranking.model_copy(
        update={
            "completions": ids,
            "champion": champion,
            "worst": _end(ranking.worst, -1, left, moved, order, by_score),
            "last_loser": ranking.last_loser
            if ranking.last_loser in left and champion == ranking.champion
            else None,
            "order": order if order is None or moved is None else moved,
            "scores": scores,
            "standard_errors": None if errors is None else tuple(errors[place] for place in kept),
            "cyclic_triads": ranking.cyclic_triads
            if len(ids) == len(ranking.completions)
            else None,
        }
    )


def find(prompt_id: str, completions: Mapping[str, Completion], id_: str) -> Completion:
    """The completion that a ranking names.

    Raises:
        DataError: It is unknown, or answers another prompt.
    """
    completion = completions.get(id_)
    if completion is None or completion.prompt_id != prompt_id:
        found = (
            "is not among the completions"
            if completion is None
            else f"answers prompt {completion.prompt_id}"
        )
        raise DataError(
            f"prompt {prompt_id}: its ranking names completion {id_}, which {found}; rank again"
        )
    return completion


def _wanted(
    ranking: Ranking, completions: Mapping[str, Completion], id_: str, options: PairOptions
) -> bool:
    return (
        not options.drop_truncated
        or find(ranking.prompt_id, completions, id_).finish_reason != "length"
    )


def _corrected(
    ranking: Ranking, completions: Mapping[str, Completion], options: PairOptions, kept: list[int]
) -> tuple[float, ...] | None:
    if ranking.scores is None:
        return None
    if not options.length_penalty:
        return tuple(ranking.scores[place] for place in kept)
    lengths = [
        len(find(ranking.prompt_id, completions, ranking.completions[place]).text) for place in kept
    ]
    return tuple(
        ranking.scores[place] - options.length_penalty * length
        for place, length in zip(kept, lengths, strict=True)
    )


def _end(
    before: str | None,
    end: int,
    left: set[str],
    moved: tuple[str, ...] | None,
    order: tuple[str, ...] | None,
    by_score: tuple[str, ...] | None,
) -> str | None:
    """The first or the last, where it was known."""
    if before is None or not left:
        return None
    if moved:
        return moved[end]
    if before in left:
        return before
    ranked = order or by_score
    return ranked[end] if ranked else None
