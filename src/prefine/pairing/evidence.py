"""What a ranking knows of two completions, looked up once for all pairs of the ranking."""

import math
from statistics import fmean

from prefine.pairing.protocol import Choice
from prefine.records import Completion, Ranking


class PairEvidence:
    """Probabilities and gaps of a ranking's pairs.

    Args:
        ranking: What the pairs are selected from; gaps are those of its scores.
        judged: The ranking before its scores were corrected for length: a probability is what the
            judge said.
    """

    def __init__(self, ranking: Ranking, judged: Ranking) -> None:
        self._scores = _scores(ranking)
        self._judged = _scores(judged) if judged.score_unit == "log_odds" else None
        self._answers: dict[tuple[str, str], list[float]] = {}
        for duel in judged.duels:
            if duel.p_first is not None:
                self._answers.setdefault((duel.first, duel.second), []).append(duel.p_first)

    def p_chosen(self, choice: Choice) -> float | None:
        """The mean over the answered duels of the two, un-swapped; if they never met, what log-odds say; above .5."""
        one, other = choice.chosen, choice.rejected
        answers = self._answers.get((one, other), []) + [
            1 - p for p in self._answers.get((other, one), ())
        ]
        if answers:
            found = fmean(answers)
        elif self._judged is None:
            return None
        else:
            gap = self._judged[one] - self._judged[other]
            found = 1 / (1 + math.exp(-gap)) if gap > 0 else 0.5
        return found if found > 0.5 else None

    def gap(self, choice: Choice) -> float | None:
        """Chosen minus rejected, above 0."""
        if self._scores is None:
            return None
        gap = self._scores[choice.chosen] - self._scores[choice.rejected]
        return gap if gap > 0 else None


def same_answer(one: Completion, other: Completion) -> bool:
    """Whether two answers are the same; reasoning is no part of an answer: neither the judge nor its reader sees it."""
    return one.text == other.text and one.message.tool_calls == other.message.tool_calls


def _scores(ranking: Ranking) -> dict[str, float] | None:
    return (
        None
        if ranking.scores is None
        else dict(zip(ranking.completions, ranking.scores, strict=True))
    )
