"""Queries for lists of prompts: filters and order as a link states them, and their SQL."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

from prefine.errors import ConfigError

Order = Literal["run", "margin", "gap", "fall", "gain", "ratio", "p_chosen"]

OUTCOMES = ("won", "tied", "lost")
DISAGREE = ("orders", "judges", "any")
USES = ("trained", "held-out", "evaluated", "unused")
SCOPES = ("texts", "prompts", "answers", "judge")
ORDERS: dict[str, str] = {
    "run": "number",
    "margin": "margin",
    "gap": "gap",
    "fall": "fall",
    "gain": "gain",
    "ratio": "ratio",
    "p_chosen": "p_chosen",
}
"""Names in links, and the columns that they stand for; what comes from a link is looked up here."""
_LONGEST_WORD = 200

_CONDITIONS = {
    "outcome": "outcome = $outcome",
    "orders": "orders_apart > 0",
    "judges": "judges_apart > 0",
    "any": "(orders_apart > 0 OR judges_apart > 0)",
    "truncated": "truncated > 0",
    "failed": "failed > 0",
    "shortest": "ratio >= $shortest",
    "longest": "ratio <= $longest",
    "constraint": "list_contains(constraints, $constraint)",
    "source": "source = $source",
    "round": "round = $round",
    "use": "use = $use",
    "flagged": "EXISTS (FROM noted n WHERE n.round = facts.round "
    "AND n.prompt_id = facts.prompt_id AND n.flag)",
    "noted": "EXISTS (FROM noted n WHERE n.round = facts.round "
    "AND n.prompt_id = facts.prompt_id AND n.note <> '')",
}


class PromptQuery(NamedTuple):
    """Filters, order and page of a list of prompts; None, "" and False do not filter.

    `shortest` and `longest` bound the length of the chosen (or trained) answer over the length of
    the rejected one (or the baseline's).
    """

    q: str = ""
    scope: str = "texts"
    outcome: str = ""
    disagree: str = ""
    truncated: bool = False
    failed: bool = False
    shortest: float | None = None
    longest: float | None = None
    constraint: str = ""
    source: str | None = None
    round: int | None = None
    use: str = ""
    flagged: bool = False
    noted: bool = False
    sort: str = "run"
    down: bool = True
    page: int = 1

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "PromptQuery":
        """Read a link's values.

        Raises:
            ConfigError: A value is none that it may have.
        """
        return cls(
            q=values.get("q", "").strip()[:_LONGEST_WORD],
            scope=_one_of(values, "scope", SCOPES) or "texts",
            outcome=_one_of(values, "outcome", OUTCOMES),
            disagree=_one_of(values, "disagree", DISAGREE),
            truncated=_flag(values, "truncated"),
            failed=_flag(values, "failed"),
            shortest=_number(values, "shortest"),
            longest=_number(values, "longest"),
            constraint=values.get("constraint", ""),
            source=values.get("source") or None,
            round=_whole(values, "round"),
            use=_one_of(values, "use", USES),
            flagged=_flag(values, "flagged"),
            noted=_flag(values, "noted"),
            sort=_one_of(values, "sort", tuple(ORDERS)) or "run",
            down=values.get("way", "down") != "up",
            page=max(1, _whole(values, "page") or 1),
        )

    def link(self, **changes: Any) -> str:
        """The query of a link to this list with some values changed; empty for all prompts."""
        changed = self._replace(**changes)
        values = {
            name: "1" if value is True else f"{value:g}" if isinstance(value, float) else value
            for name, value in changed._asdict().items()
            if value not in (None, "", False) and name != "down"
        }
        for name, plain in (("scope", "texts"), ("sort", "run"), ("page", 1)):
            if values.get(name) == plain:
                del values[name]
        if not changed.down and changed.sort != "run":
            values["way"] = "up"
        return f"?{urlencode(values)}" if values else ""

    @property
    def filters(self) -> int:
        """The number of filters that are set, the search not counted."""
        plain = PromptQuery()
        shown = ("q", "scope", "sort", "down", "page")
        return sum(
            value != getattr(plain, name)
            for name, value in self._asdict().items()
            if name not in shown
        )

    def condition(self) -> tuple[str, dict[str, Any]]:
        """The WHERE of the filters, and its parameters; the search is not in it."""
        wanted = [self.disagree] if self.disagree else []
        wanted += [n for n in ("truncated", "failed", "flagged", "noted") if getattr(self, n)]
        values: dict[str, Any] = {
            name: value
            for name in ("outcome", "shortest", "longest", "constraint", "source", "round", "use")
            if (value := getattr(self, name)) not in (None, "")
        }
        parts = [_CONDITIONS[name] for name in (*wanted, *values)]
        if self.sort != "run":
            parts.append(f"{ORDERS[self.sort]} IS NOT NULL")
        return " AND ".join(parts) or "true", values

    def order(self) -> str:
        """The ORDER BY: the order of the run, or by a figure with the run's order among equals."""
        if self.sort == "run":
            return "number"
        return f"{ORDERS[self.sort]} {'DESC' if self.down else 'ASC'}, number"


def _one_of(values: Mapping[str, str], name: str, allowed: Sequence[str]) -> str:
    value = values.get(name, "")
    if value and value not in allowed:
        raise ConfigError(f"{name}={value[:80]}: choose {', '.join(allowed)}")
    return value


def _flag(values: Mapping[str, str], name: str) -> bool:
    return _one_of(values, name, ("1",)) == "1"


def _number(values: Mapping[str, str], name: str) -> float | None:
    text = values.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{name}={text[:80]}: give a number")
    return value


def _whole(values: Mapping[str, str], name: str) -> int | None:
    text = values.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise ConfigError(f"{name}={text[:80]}: give a whole number")
    return int(text)
