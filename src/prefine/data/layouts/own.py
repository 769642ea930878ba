"""Our own columns, which are TRL's explicit ones: prompt, completions, chosen, rejected."""

from collections.abc import Mapping
from typing import Any

from prefine.data.layouts.protocol import SourceRow, Values, rest

MARK = "prefine_layout"


def unchanged(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """The row itself."""
    return rest(row.values, MARK)
