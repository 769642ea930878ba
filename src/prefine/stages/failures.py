"""Judgments without a verdict and ratings without a value: counted by reason, and how many there may be."""

from collections import Counter
from collections.abc import Sequence

from prefine.calls.base import AnswerLog
from prefine.calls.engine import check_share, top_reasons
from prefine.records import Judgment, Score


class Failures:
    """Counts judgments and scores as they come."""

    def __init__(self) -> None:
        self.judged = 0
        self._what = "judgments"
        self.reasons: Counter[str] = Counter()
        self._ids: dict[str, None] = {}

    def count(self, judgments: Sequence[Judgment]) -> None:
        """Take these into account."""
        failed = [judgment for judgment in judgments if judgment.p_first is None]
        self.judged += len(judgments)
        self.reasons.update(judgment.error or "no verdict" for judgment in failed)
        self._ids |= dict.fromkeys(judgment.comparison.prompt_id for judgment in failed)

    def count_scores(self, scores: Sequence[Score]) -> None:
        """Take these into account."""
        if not scores:
            return
        failed = [score for score in scores if score.value is None]
        self._what = "judgments and ratings"
        self.judged += len(scores)
        self.reasons.update(score.error or "no rating" for score in failed)
        self._ids |= dict.fromkeys(score.completion_id for score in failed)

    def check(self, allowed: float, *, where: str, journal: AnswerLog) -> None:
        """Stop when too large a share has no verdict.

        Raises:
            LimitError: With the top reasons and three ids, of prompts or of rated completions.
        """
        check_share(self.reasons, list(self._ids), self.judged, allowed, where=where, what=self._what, journal=journal)

    def notes(self) -> list[str]:
        """What to tell the user, if anything failed."""
        if not self.reasons:
            return []
        return [
            f"{sum(self.reasons.values()):,} of {self.judged:,} {self._what} have no verdict and count as missing, not "
            f"as ties: {top_reasons(self.reasons)}"
        ]
