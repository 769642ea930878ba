"""Checks before the first round: inputs of all rounds, and that begun rounds stay what they are."""

import json
from collections import Counter
from typing import NamedTuple

from prefine.config.rounds import LaterPrompts
from prefine.config.sections import RunConfig
from prefine.data.import_report import ImportReport
from prefine.errors import ConfigError, DataError, at_config_path
from prefine.rounds.configs import RoundsPlan
from prefine.rounds.moved import with_todays_paths
from prefine.run.config_changes import STAGE_SECTIONS, config_diff, fingerprinted, refused_changes
from prefine.run.manifests import begun_config, read_manifests
from prefine.stages.check import check
from prefine.stages.inputs import part_of, prompts_to_answer, read_prompts

_MAY_CHANGE = ("evaluate", "report")
"""Sections that decide nothing of the rounds behind: some of their settings may change."""


class RoundInputs(NamedTuple):
    """The number of prompts of each round, by its name, and notes on the inputs, each once."""

    counts: dict[str, int]
    notes: tuple[str, ...]


def check_rounds(rounds: RoundsPlan, *, strict: bool = False) -> RoundInputs:
    """Check everything that can be known of all rounds before the first begins.

    Args:
        rounds: The rounds.
        strict: Refuse the first row that would be set aside.

    Raises:
        PrefineError: As `stages.check.check`.
        ConfigError: A round has no prompts, or what a begun round did was to change.
        DataError: An evaluation prompt would be trained on in some round.
    """
    _check_count(rounds)
    for number in rounds.numbers:
        _check_begun(rounds, number)
    whole = _whole(rounds)
    notes: dict[str, None] = {}
    for number, config in enumerate(whole, start=1):
        # The prompts of the first round are those of section prompts.
        with at_config_path("rounds" if number > 1 else "", "prompts"):
            notes |= dict.fromkeys(check(config, strict=strict).notes)
    ids = [prompt.id for config in whole for prompt in prompts_to_answer(config, ImportReport())]
    _check_unseen(rounds.config, set(ids))
    sizes = _sizes(rounds, whole, ids)
    counts = {
        f"prompts of {rounds.name(number)}": size
        for number, size in zip(rounds.numbers, sizes, strict=True)
    }
    return RoundInputs(counts, tuple(notes))


def _check_count(rounds: RoundsPlan) -> None:
    """Check that no round has begun behind the last one that is wanted.

    Raises:
        ConfigError: One has: the page and the figures of all rounds would be without it, and yet
            it would lie there.
    """
    count = rounds.settings.count
    number = count + 1
    while read_manifests(rounds.folder(number)):
        number += 1
    begun = number - 1
    if begun > count:
        raise ConfigError(
            f"rounds.count: {count} is fewer than the {begun} rounds that have begun in "
            f"{rounds.config.run_dir}; a round that has begun is not taken back. Write "
            f"rounds.count: {begun} or more, or use another --run-dir for fewer rounds"
        )


def _whole(rounds: RoundsPlan) -> list[RunConfig]:
    """The configurations that read each input once: that of all prompts, or one of each file."""
    if isinstance(rounds.settings.prompts, LaterPrompts):
        return [rounds.config_of(number, planned=True) for number in rounds.numbers]
    first = rounds.config_of(1, planned=True)
    assert first.sample is not None, "checked by RoundsPlan"
    every = first.sample.model_copy(update={"part": None})
    return [first.model_copy(update={"sample": every})]


def _sizes(rounds: RoundsPlan, whole: list[RunConfig], ids: list[str]) -> tuple[int, ...]:
    """The number of prompts of each round.

    Raises:
        ConfigError: A round has none.
    """
    settings = rounds.settings
    if isinstance(settings.prompts, LaterPrompts):
        return tuple(sum(1 for _ in prompts_to_answer(config, ImportReport())) for config in whole)
    if settings.prompts == "same":
        return (len(ids),) * settings.count
    assert settings.parts is not None, "settled by RoundsPlan"
    counted = Counter(part_of(id_, settings.parts) for id_ in ids)
    sizes = tuple(counted[1 + (number - 1) % settings.parts] for number in rounds.numbers)
    if 0 in sizes:
        raise ConfigError(
            f"rounds.prompts: split gives round {sizes.index(0) + 1} none of {len(ids)} prompts; "
            "give more prompts, fewer rounds, or prompts: same"
        )
    return sizes


def _check_unseen(config: RunConfig, ids: set[str]) -> None:
    """Check that no evaluation prompt is trained on in any round: all have the same ones.

    Raises:
        DataError: There is one.
    """
    if config.evaluate.prompts is None:
        return
    read = read_prompts(config.evaluate.prompts, where="evaluate.prompts", report=ImportReport())
    leaked = [prompt for prompt in read if prompt.id in ids]
    if leaked:
        raise DataError(
            f"evaluate.prompts: {len(leaked)} of its prompts are among those of the rounds (first "
            f"{leaked[0].source or leaked[0].id}), which would measure memory; remove them there "
            "or here"
        )


def _check_begun(rounds: RoundsPlan, number: int) -> None:
    """Check that a begun round would still do what it did, before anything is written.

    Raises:
        ConfigError: A setting has changed that a begun stage reads; of a round that has ended, any
            that decides what later rounds start from.
    """
    folder = rounds.folder(number)
    manifests = read_manifests(folder)
    if not manifests:
        return
    config = rounds.config_of(number)
    begun = begun_config(folder)
    begun, now = with_todays_paths(begun, begun, config), config.resolved()
    if has_ended(rounds, number):
        before, after = (
            {name: value for name, value in fingerprinted(one).items() if name not in _MAY_CHANGE}
            for one in (begun, now)
        )
        changes = [
            f"{path}: {json.dumps(old, ensure_ascii=False)} → {json.dumps(new, ensure_ascii=False)}"
            for path, (old, new) in config_diff(before, after).items()
        ]
        # Its answers are not judged again, so figures of it would be of the old settings.
        every = refused_changes(begun, now, STAGE_SECTIONS)
        changes += [line for line in every if line.startswith("evaluate.")]
        state = "has ended, and later rounds start from it"
    else:
        changes = refused_changes(begun, now, manifests)
        state = "has begun"
    if changes:
        lines = "\n".join(f"  {line}" for line in changes)
        raise ConfigError(
            f"{folder}: round {number} {state}; what it was begun with has changed:\n{lines}\n"
            "Take the change back to go on (rounds.count may grow), or use another --run-dir"
        )


def has_ended(rounds: RoundsPlan, number: int) -> bool:
    """Return True if a round has come to its report."""
    report = read_manifests(rounds.folder(number)).get("report")
    return report is not None and report.complete
