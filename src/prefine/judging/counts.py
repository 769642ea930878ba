"""Counts of judgments and scores: which of them failed, and whether one slot always won."""

from collections import Counter
from collections.abc import Sequence

from prefine.calls.engine import check_share, top_reasons
from prefine.calls.protocol import AnswerLog
from prefine.records import Judgment, Score

_ENOUGH_VERDICTS = 50
_NEARLY_ALL = 0.97
_IDS_SHOWN = 3


class JudgeCounts:
    """Counts over all shards, for the limit on failures and for notes to the user."""

    def __init__(self) -> None:
        self._judgments = self._ratings = self._decided = self._first_won = 0
        self._reasons: Counter[str] = Counter()
        self._first_ids: dict[str, None] = {}

    def merge(self, other: "JudgeCounts") -> None:
        """Add the counts of others, who judged other prompts."""
        self._judgments += other._judgments
        self._ratings += other._ratings
        self._decided += other._decided
        self._first_won += other._first_won
        self._reasons += other._reasons
        room = _IDS_SHOWN - len(self._first_ids)
        self._first_ids |= dict.fromkeys(list(other._first_ids)[: max(0, room)])

    def add(self, judgments: Sequence[Judgment], scores: Sequence[Score] = ()) -> None:
        """Count these; a tie or a failure decides for no slot."""
        self._judgments += len(judgments)
        self._ratings += len(scores)
        for judgment in judgments:
            if judgment.p_first is None:
                self._failed(judgment.error or "no verdict", judgment.comparison.prompt_id)
            elif judgment.p_first != 0.5:
                self._decided += 1
                self._first_won += judgment.p_first > 0.5
        for score in scores:
            if score.value is None:
                self._failed(score.error or "no rating", score.completion_id)

    def _failed(self, reason: str, id_: str) -> None:
        self._reasons[reason] += 1
        if len(self._first_ids) < _IDS_SHOWN:
            self._first_ids[id_] = None

    def check(self, allowed: float, *, where: str, journal: AnswerLog) -> None:
        """Raise LimitError if a larger share than `allowed` failed.

        The message has the top reasons and three ids, of prompts or of rated completions.
        """
        check_share(
            self._reasons,
            list(self._first_ids),
            self._judgments + self._ratings,
            allowed,
            where=where,
            what=self._what,
            journal=journal,
        )

    def failure_notes(self) -> list[str]:
        """A line on what failed, if anything did."""
        if not self._reasons:
            return []
        return [
            f"{self._reasons.total():,} of {self._judgments + self._ratings:,} {self._what} "
            "failed and count as missing, not as "
            f"{'ties' if self._judgments else 'low ratings'}: {top_reasons(self._reasons)}"
        ]

    def slot_notes(self) -> list[str]:
        """A warning if one slot wins nearly always: no pair of answers explains that."""
        if self._decided < _ENOUGH_VERDICTS:
            return []
        share = self._first_won / self._decided
        if _NEARLY_ALL > share > 1 - _NEARLY_ALL:
            return []
        slot = "first" if share > 0.5 else "second"
        return [
            f"the judge chose the {slot} slot in {max(share, 1 - share):.0%} of "
            f"{self._decided:,} verdicts, so it hardly looks at the answers: try another judge or "
            "prompt before you trust the pairs"
        ]

    @property
    def _what(self) -> str:
        counted = {"judgments": self._judgments, "ratings": self._ratings}
        return " and ".join(kind for kind, count in counted.items() if count)
