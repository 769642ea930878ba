"""By how much the chosen answer is preferred: of the columns that say so, under the names that data sets use."""

import re

from prefine.data.import_report import UselessRow
from prefine.data.layouts.protocol import SourceRow, has, number
from prefine.errors import DataError

_SCORE = re.compile(
    r"(?:(?:avg_)?(?:score|rating)[_-](?:chosen|rejected)|(?:chosen|rejected)[_-](?:avg_)?(?:score|rating))\Z"
)


def score_gap(row: SourceRow) -> float | int | None:
    """The score of the chosen answer minus that of the rejected one; None where there are no scores.

    Raises:
        UselessRow: The scores are equal, or say the opposite.
        DataError: There is only one score, or one is no number.
    """
    for name in row.values:
        if not _SCORE.match(name):
            continue
        chosen, rejected = _both(name)
        if missing := {chosen, rejected} - row.values.keys():
            raise DataError(
                f"{row.where}: no column {missing.pop()!r} beside {name!r}; {has(row.values)}; "
                "add it, or map "
                f"{name!r} to a name of another kind with columns"
            )
        if row.values[chosen] is None and row.values[rejected] is None:
            continue
        gap = number(row, chosen) - number(row, rejected)
        says = f"{row.where}: {chosen} {row.values[chosen]} and {rejected} {row.values[rejected]}"
        if gap == 0:
            raise UselessRow(
                "tie",
                f"{says}: both answers are equally good, which is no preference: remove the row",
            )
        if gap < 0:
            raise UselessRow(
                "scores say the opposite", f"{says}: swap the sides, or remove the row"
            )
        return gap
    return None


def _both(name: str) -> tuple[str, str]:
    return name.replace("rejected", "chosen"), name.replace("chosen", "rejected")
