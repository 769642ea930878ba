"""The trials of a sweep: a configuration, a seed and a run folder each."""

import copy
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from prefine.config.sections import RunConfig
from prefine.config.sweep import Setting, SweepConfig, read_sweep
from prefine.config.yaml import read_values, with_overrides
from prefine.errors import ConfigError
from prefine.run.manifests import with_defaults_of_its_folder

_LONGEST_NAME = 100


class Trial(NamedTuple):
    """One run of a sweep; `setting` is the place of its values among the settings."""

    name: str
    setting: int
    seed: int | None
    config: RunConfig


class Sweep(NamedTuple):
    """A sweep: the folder of its trials, its section, and its trials, seeds changing fastest."""

    folder: Path
    config: SweepConfig
    names: tuple[str, ...]
    trials: tuple[Trial, ...]


def read_trials(path: Path, overrides: Sequence[str], run_dir: str | None) -> Sweep:
    """Return the trials of a configuration with a section `sweep`.

    Args:
        path: The file; its `run_dir` is the folder of the trials.
        overrides: Settings `a.b=value` of all trials.
        run_dir: Instead of the file's.

    Raises:
        ConfigError: The file has no sweep, or one of its trials is no configuration.
    """
    values = read_values(path)
    config = read_sweep(values, where=str(path))
    base = with_overrides(copy.deepcopy(values), overrides, run_dir, where=str(path))
    if base.rounds is not None:
        raise ConfigError(
            f"{path}: rounds: a sweep does not walk rounds yet; take that section out, or run each "
            "setting with `prefine run`"
        )
    if base.storage is not None:
        raise ConfigError(
            f"{path}: run_dir: the trials of a sweep run in folders of this machine; name one, or "
            "run each setting with `prefine run` and its own URL"
        )
    names = _names(config.settings)
    trials = []
    for index, (setting, name) in enumerate(zip(config.settings, names, strict=True)):
        for seed in config.seeds or (None,):
            trial = f"trial-{name}" + ("" if seed is None else f"-seed{seed}")
            made: dict[str, JsonValue] = dict(setting)
            if seed is not None:
                made |= dict.fromkeys(config.seed_paths, seed)
            run = with_overrides(
                copy.deepcopy(values),
                [*overrides, *(f"{key}={json.dumps(value)}" for key, value in made.items())],
                base.run_dir / trial,
                where=f"{path}: {trial}",
            )
            trials.append(Trial(trial, index, seed, with_defaults_of_its_folder(run)))
    return Sweep(base.run_dir, config, names, tuple(trials))


def _names(settings: Sequence[Setting]) -> tuple[str, ...]:
    """A short name for each setting: the last word of each path with its value.

    Raises:
        ConfigError: Two settings would share a folder.
    """
    words = path_words(settings)
    names = []
    for setting in settings:
        parts = [f"{words[path]}={_text(value)}" for path, value in setting.items()]
        names.append(re.sub(r"[^\w.=+-]+", "-", "-".join(parts)).strip("-")[:_LONGEST_NAME])
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"sweep: two settings would have the folder trial-{repeated}; name components with "
            "module:attribute, or vary fewer options at once"
        )
    return tuple(names)


def path_words(settings: Sequence[Setting]) -> dict[str, str]:
    """The last word of each path of the settings; the whole path where two end in one word."""
    words = {path: path.rsplit(".", 1)[-1] for setting in settings for path in setting}
    counts = Counter(words.values())
    return {path: word if counts[word] == 1 else path for path, word in words.items()}


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)
