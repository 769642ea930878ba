"""Whether a judge looks at the answers at all, or at the slot that they stand in."""

from collections.abc import Sequence

from prefine.records import Judgment

_ENOUGH = 50
_SHARE = 0.97


class Slots:
    """Counts which slot won."""

    def __init__(self) -> None:
        self.first = 0
        self.decided = 0

    def count(self, judgments: Sequence[Judgment]) -> None:
        """Take these into account; ties and failures decide nothing."""
        decided = [j.p_first for j in judgments if j.p_first is not None and j.p_first != 0.5]
        self.decided += len(decided)
        self.first += sum(p > 0.5 for p in decided)

    def notes(self) -> list[str]:
        """A warning where one slot wins nearly always, which no pair of answers explains."""
        if self.decided < _ENOUGH:
            return []
        share = self.first / self.decided
        if _SHARE > share > 1 - _SHARE:
            return []
        slot = "first" if share > 0.5 else "second"
        return [
            f"the judge chose the {slot} slot in {max(share, 1 - share):.0%} of {self.decided:,} "
            "verdicts, so it "
            "hardly looks at the answers: try another judge or prompt before you trust the pairs"
        ]
