"""Judgments of our own as JSON Lines, one record a line, such as `judgment.model_dump_json()` writes."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from prefine.data.layouts.protocol import show
from prefine.errors import DataError
from prefine.records import Judgment
from prefine.suites.reading import rows_of


@dataclass
class JudgeRows:
    """What one judge said, as the metrics take it; None is no verdict.

    Attributes:
        p_first: P(first is better) of each judgment [n].
        prompt_ids: Its prompt [n].
        both: P(first is better) of the pairs that were asked in both orders, in one of them [k].
        swapped: The same in the other order [k].
        both_prompt_ids: Prompts of these pairs [k].
        once: How many judgments lack the other order.
    """

    p_first: list[float | None] = field(default_factory=list)
    prompt_ids: list[str] = field(default_factory=list)
    both: list[float | None] = field(default_factory=list)
    swapped: list[float | None] = field(default_factory=list)
    both_prompt_ids: list[str] = field(default_factory=list)
    once: int = 0


def read_judgments(path: Path) -> dict[str, JudgeRows]:
    """Judgments by judge.

    Raises:
        DataError: A row is no judgment, or one is there twice; the message has the row.
    """
    found: dict[str, JudgeRows] = {}
    open_: dict[tuple[str, int, str, str, str], Judgment] = {}
    seen: dict[tuple[str, int, str, str, str], str] = {}
    for row in rows_of(path):
        try:
            one = Judgment.model_validate(row.values)
        except ValidationError as error:
            (first, *_) = error.errors()
            where = ".".join(map(str, first["loc"])) or "judgment"
            raise DataError(
                f"{row.where}: {where}: {first['msg']} (got {show(first['input'])}); a row is a "
                "Judgment of ours"
            ) from error
        shown = one.comparison
        key = (one.judge, one.sample_index, shown.prompt_id, shown.first, shown.second)
        if key in seen:
            raise DataError(f"{row.where}: the same judgment as in {seen[key]}; remove one")
        seen[key] = row.where
        rows = found.setdefault(one.judge, JudgeRows())
        rows.p_first.append(one.p_first)
        rows.prompt_ids.append(shown.prompt_id)
        other = open_.pop(
            (one.judge, one.sample_index, shown.prompt_id, shown.second, shown.first), None
        )
        if other is None:
            open_[key] = one
            continue
        rows.both.append(other.p_first)
        rows.swapped.append(one.p_first)
        rows.both_prompt_ids.append(shown.prompt_id)
    for judge, *_ in open_:
        found[judge].once += 1
    return found
