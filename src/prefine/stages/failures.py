"""Judgments without a verdict and ratings without a value: counted by reason, and how many there may be."""

from collections import Counter
from collections.abc import Sequence

from prefine.calls.engine import check_share, top_reasons
from prefine.calls.protocol import AnswerLog
from prefine.records import Judgment, Score


class Failures:
    """Counts judgments and scores as they come."""

    def __init__(self) -> None:
        self._judgments = self._ratings = 0
        self.reasons: Counter[str] = Counter()
        self._ids: dict[str, None] = {}

    def count(self, judgments: Sequence[Judgment]) -> None:
        """Take these into account."""
        failed = [judgment for judgment in judgments if judgment.p_first is None]
        self._judgments += len(judgments)
        self.reasons.update(judgment.error or "no verdict" for judgment in failed)
        self._ids |= dict.fromkeys(judgment.comparison.prompt_id for judgment in failed)

    def count_scores(self, scores: Sequence[Score]) -> None:
        """Take these into account."""
        failed = [score for score in scores if score.value is None]
        self._ratings += len(scores)
        self.reasons.update(score.error or "no rating" for score in failed)
        self._ids |= dict.fromkeys(score.completion_id for score in failed)

    def check(self, allowed: float, *, where: str, journal: AnswerLog) -> None:
        """Stop when too large a share has no verdict.

        Raises:
            LimitError: With the top reasons and three ids, of prompts or of rated completions.
        """
        total = self._judgments + self._ratings
        check_share(
            self.reasons,
            list(self._ids),
            total,
            allowed,
            where=where,
            what=self._what,
            journal=journal,
        )

    def notes(self) -> list[str]:
        """What to tell the user, if anything failed."""
        if not self.reasons:
            return []
        return [
            f"{sum(self.reasons.values()):,} of {self._judgments + self._ratings:,} {self._what} "
            "failed and count as "
            f"missing, not as {'ties' if self._judgments else 'low ratings'}: "
            f"{top_reasons(self.reasons)}"
        ]

    @property
    def _what(self) -> str:
        """What was asked for."""
        counted = {"judgments": self._judgments, "ratings": self._ratings}
        return " and ".join(kind for kind, count in counted.items() if count)
