"""A ranking as a selector sees it, and the evidence that it has on two completions.

Completions that are left out are gone from it, and its scores are corrected for length.
"""

import math
from collections.abc import Mapping
from statistics import fmean

from prefine.config.sections import PairConfig
from prefine.errors import DataError
from prefine.pairing.protocol import Choice, scores_of
from prefine.records import Completion, Ranking


def narrowed(
    ranking: Ranking, completions: Mapping[str, Completion], options: PairConfig
) -> Ranking:
    """The ranking of the completions that are left, in the order of their ids.

    A champion or a worst one that was left out is replaced by the best or worst of those left, if
    order or scores tell; nothing becomes known that was not. A penalty on length ranks all by the
    corrected scores.

    Args:
        ranking: One prompt's ranking.
        completions: Its completions, by id.
        options: The completions to leave out, and the penalty. Those without a verdict are left
            out, too.

    Raises:
        DataError: A completion of the ranking is not among those given.
    """

    def completion(id_: str) -> Completion:
        return find(ranking.prompt_id, completions, id_)

    without_verdict = unjudged(ranking)
    ids = sorted(
        id_
        for id_ in ranking.completions
        if id_ not in without_verdict
        and (not options.drop_truncated or completion(id_).finish_reason != "length")
    )
    scores, penalty = scores_of(ranking), options.length_penalty
    if penalty and scores is None:
        # Without scores for all of them (duels are missing), nobody can say who is best at equal
        # length.
        return Ranking(
            prompt_id=ranking.prompt_id, strategy=ranking.strategy, completions=tuple(ids)
        )
    order = None if ranking.order is None else [id_ for id_ in ranking.order if id_ in ids]
    # The completions that are left, best first, as far as that is known.
    ranked = order
    if scores is not None:
        if penalty:
            scores = {id_: scores[id_] - penalty * len(completion(id_).text) for id_ in ids}
        if penalty or not order:
            known = {id_: place for place, id_ in enumerate(order or ())}
            ends = {ranking.champion: -1, ranking.worst: 1}
            ranked = sorted(ids, key=lambda i: (-scores[i], known.get(i, 0), ends.get(i, 0), i))

    def end(before: str | None, place: int) -> str | None:
        """The first or the last one, if one was known."""
        if before is None or (before in ids and not penalty):
            return before
        return ranked[place] if ranked else None

    champion = end(ranking.champion, 0)
    last_loser_stays = ranking.last_loser in ids and champion == ranking.champion
    errors = dict(zip(ranking.completions, ranking.standard_errors or (), strict=False))
    return ranking.model_copy(
        update={
            "completions": tuple(ids),
            "champion": champion,
            "worst": end(ranking.worst, -1),
            "last_loser": ranking.last_loser if last_loser_stays else None,
            "order": None if order is None else tuple(ranked or ()),
            "scores": None if scores is None else tuple(scores[id_] for id_ in ids),
            "standard_errors": tuple(errors[id_] for id_ in ids) if errors else None,
            "cyclic_triads": ranking.cyclic_triads
            if len(ids) == len(ranking.completions)
            else None,
        }
    )


def unjudged(ranking: Ranking) -> set[str]:
    """Return the completions that have neither a rating nor a duel with a verdict.

    A failed call says nothing of an answer: it may be the best one. Where one order of a duel
    failed, a challenger's win in the other order is no verdict, because both orders must agree on
    it (see `ranking.orders`); a loss or a tie is one.
    """
    nothing_failed = ranking.rated is None and not ranking.failed_calls
    if ranking.scores is not None or nothing_failed:
        return set()
    chances: dict[tuple[str, str], list[float | None]] = {}
    for duel in ranking.duels:
        p_second = None if duel.p_first is None else 1 - duel.p_first
        chances.setdefault((duel.first, duel.second), []).append(duel.p_first)
        chances.setdefault((duel.second, duel.first), []).append(p_second)
    judged = set(ranking.rated or ())
    for (one, _), found in chances.items():
        answered = [p for p in found if p is not None]
        if answered and (
            len(answered) == len(found) or min(answered) <= 0.5 or one == ranking.champion
        ):
            judged.add(one)
    # A ranking that does not say what was rated is believed about those that met somebody.
    known = ranking.completions if ranking.rated is not None else [one for one, _ in chances]
    return set(known) - judged


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


class PairEvidence:
    """Probabilities and gaps of a ranking's pairs, looked up once for all pairs.

    Args:
        ranking: The ranking to select pairs from; gaps are those of its scores.
        judged: The ranking before its scores were corrected for length: a probability is what the
            judge said.
    """

    def __init__(self, ranking: Ranking, judged: Ranking) -> None:
        self._scores = scores_of(ranking)
        self._log_odds = scores_of(judged) if judged.score_unit == "log_odds" else None
        self._answers: dict[tuple[str, str], list[float]] = {}
        for duel in judged.duels:
            if duel.p_first is not None:
                self._answers.setdefault((duel.first, duel.second), []).append(duel.p_first)

    def p_chosen(self, choice: Choice) -> float | None:
        """P(chosen is better), if above .5.

        The mean over the answered duels of the two, un-swapped; if they never met, by log-odds.
        """
        one, other = choice.chosen, choice.rejected
        answers = self._answers.get((one, other), []) + [
            1 - p for p in self._answers.get((other, one), ())
        ]
        if answers:
            found = fmean(answers)
        elif self._log_odds is None:
            return None
        else:
            gap = self._log_odds[one] - self._log_odds[other]
            found = 1 / (1 + math.exp(-gap)) if gap > 0 else 0.5
        return found if found > 0.5 else None

    def gap(self, choice: Choice) -> float | None:
        """The score of the chosen minus that of the rejected, if above 0."""
        if self._scores is None:
            return None
        gap = self._scores[choice.chosen] - self._scores[choice.rejected]
        return gap if gap > 0 else None
