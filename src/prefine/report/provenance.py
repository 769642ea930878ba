"""The foot of the page: where the results come from, in words."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefine.report.data import ReportData, StageOrigin

_SHOWN_OF_COMMIT = 12


@dataclass(frozen=True)
class Provenance:
    """The origin of a run's results.

    Attributes:
        facts: Date, command and prefine, each a label with one or more lines.
        seeds: Stages with their seeds.
        hashes: Stage, direction, name and hash of each table and input.
        prompts: Judges' questions, each with the stages that asked it.
    """

    facts: list[tuple[str, list[str]]]
    seeds: list[tuple[str, str]]
    hashes: list[tuple[str, str, str, str]]
    prompts: list[tuple[str, str]]


def provenance(data: ReportData) -> Provenance | None:
    """Return the origin of a run's results; None before any stage has begun."""
    origins = data.origins
    if not origins:
        return None
    return Provenance(
        facts=[
            (label, [_labelled(*one, alone=len(found) == 1) for one in found])
            for label, of_stage in _FACTS
            if (found := _by_value(origins, of_stage))
        ],
        seeds=[(one.stage, str(one.seed)) for one in origins if one.seed is not None],
        hashes=[
            (one.stage, way, name, value)
            for one in origins
            for way, hashes in (("read", one.inputs), ("made", one.outputs))
            for name, value in hashes.items()
            if value
        ],
        prompts=[
            (" and ".join(stages), prompt)
            for prompt, stages in _by_value(origins, lambda one: one.judge_prompt)
        ],
    )


def _began(origin: StageOrigin) -> str | None:
    """Return the minute at which a stage was begun."""
    if origin.began_at is None:
        return None
    return f"{origin.began_at[:16].replace('T', ' ')} UTC"


def _command(origin: StageOrigin) -> str | None:
    return None if origin.command is None else shlex.join(origin.command)


def _prefine(origin: StageOrigin) -> str:
    if origin.commit is None:
        return origin.code_version
    commit, dirty = origin.commit.removesuffix("-dirty"), origin.commit.endswith("-dirty")
    changed = ", with uncommitted changes" if dirty else ""
    return f"{origin.code_version}, commit {commit[:_SHOWN_OF_COMMIT]}{changed}"


_FACTS: tuple[tuple[str, Callable[[StageOrigin], str | None]], ...] = (
    ("Begun", _began),
    ("Command", _command),
    ("prefine", _prefine),
)


def _by_value(
    origins: Sequence[StageOrigin], of_stage: Callable[[StageOrigin], str | None]
) -> list[tuple[str, list[str]]]:
    """Return each known value once, with the stages that have it."""
    found: dict[str, list[str]] = {}
    for origin in origins:
        value = of_stage(origin)
        if value:
            found.setdefault(value, []).append(origin.stage)
    return list(found.items())


def _labelled(value: str, stages: Sequence[str], *, alone: bool) -> str:
    return value if alone else f"{value} ({', '.join(stages)})"
