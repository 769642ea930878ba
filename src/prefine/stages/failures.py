"""Judgments without a verdict: counted by reason, and how many there may be."""

from collections import Counter
from collections.abc import Sequence

from prefine.calls.base import AnswerLog
from prefine.calls.engine import check_share, top_reasons
from prefine.records import Judgment


class Failures:
    """Counts judgments as they come."""

    def __init__(self) -> None:
        self.judged = 0
        self.reasons: Counter[str] = Counter()
        self._prompts: dict[str, None] = {}

    def count(self, judgments: Sequence[Judgment]) -> None:
        """Take these into account."""
        failed = [judgment for judgment in judgments if judgment.p_first is None]
        self.judged += len(judgments)
        self.reasons.update(judgment.error or "no verdict" for judgment in failed)
        self._prompts |= dict.fromkeys(judgment.comparison.prompt_id for judgment in failed)

    def check(self, allowed: float, *, where: str, journal: AnswerLog) -> None:
        """Stop when too large a share has no verdict.

        Raises:
            LimitError: With the top reasons and three prompts.
        """
        check_share(
            self.reasons, list(self._prompts), self.judged, allowed, where=where, what="judgments", journal=journal
        )

    def notes(self) -> list[str]:
        """What to tell the user, if anything failed."""
        if not self.reasons:
            return []
        return [
            f"{sum(self.reasons.values()):,} of {self.judged:,} judgments have no verdict and count as missing, not as "
            f"ties: {top_reasons(self.reasons)}"
        ]
