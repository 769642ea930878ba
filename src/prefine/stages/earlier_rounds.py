"""Prompts that the rounds before a round have trained on, and held out."""

from pathlib import Path
from typing import NamedTuple

from prefine.config.rounds import round_name
from prefine.config.sections import ITEM_ENTRIES, RunConfig
from prefine.run.tables import column, existing_parts
from prefine.stages.inputs import trained_on


class EarlierPrompts(NamedTuple):
    """Prompts of earlier rounds, by id: held out there, and trained on there."""

    held_out: frozenset[str] = frozenset()
    trained_on: frozenset[str] = frozenset()


def earlier_prompts(config: RunConfig) -> EarlierPrompts:
    """The prompts of the rounds before a round; none for a run that is no round, or the first."""
    lineage = config.lineage
    if lineage is None:
        return EarlierPrompts()
    parent = (config.run_dir / lineage.parent_run).resolve()
    folders = [parent / round_name(number) for number in range(1, lineage.round)]
    return EarlierPrompts(
        frozenset(id_ for folder in folders for id_ in _held_out(folder)),
        frozenset(id_ for folder in folders for id_ in trained_on(folder)),
    )


def _held_out(folder: Path) -> set[str]:
    return {
        id_
        for kind in ITEM_ENTRIES
        for path in existing_parts(folder / f"heldout_{kind}")
        for id_ in column(path, "prefine_prompt_id")
    }
