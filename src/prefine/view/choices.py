"""The values that filters of a list of prompts offer: only what there is."""

from typing import Any

from prefine.view.index import PromptIndex
from prefine.view.query import DISAGREE, ORDERS, OUTCOMES, SCOPES, USES

_MOST = 200
"""Sources, constraints or rounds that a filter offers."""
_COUNTED = {
    name: f"SELECT {name}, count(*) FROM facts WHERE {name} IS NOT NULL GROUP BY ALL "
    "ORDER BY count(*) DESC, 1 LIMIT ?"
    for name in ("outcome", "use", "source", "round")
}
_CONSTRAINTS = """
SELECT name, count(*) FROM (SELECT unnest(constraints) AS name FROM facts) GROUP BY name
ORDER BY count(*) DESC, name LIMIT ?
"""
_HAS = """
SELECT true AS run, bool_or(truncated > 0) AS truncated, bool_or(failed > 0) AS failed,
    bool_or(ratio IS NOT NULL) AS ratio, bool_or(margin IS NOT NULL) AS margin,
    bool_or(gap IS NOT NULL) AS gap, bool_or(fall IS NOT NULL) AS fall,
    bool_or(gain IS NOT NULL) AS gain, bool_or(p_chosen IS NOT NULL) AS p_chosen,
    bool_or(orders_apart > 0) AS orders, bool_or(judges_apart > 0) AS judges
FROM facts
"""


def choices(index: PromptIndex) -> dict[str, Any]:
    """The values of each filter, those with a count by their number."""
    counted = {
        name: dict(index.database.rows(statement, [_MOST])) for name, statement in _COUNTED.items()
    }
    (has,) = index.database.dicts(_HAS)
    has["any"] = has["orders"] and has["judges"]
    return {
        "has": has,
        "outcomes": [one for one in OUTCOMES if one in counted["outcome"]],
        "uses": [one for one in USES if one in counted["use"]],
        "disagree": [one for one in DISAGREE if has[one]],
        "scopes": SCOPES,
        "orders": [one for one in ORDERS if has[one]],
        "sources": [(name, count) for name, count in counted["source"].items() if name],
        "constraints": index.database.rows(_CONSTRAINTS, [_MOST]),
        "rounds": sorted(counted["round"]) if len(index.folders) > 1 else [],
    }
