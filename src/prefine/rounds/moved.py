"""A folder of rounds that was moved: its rounds name the models of one another by path."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefine.atomic import write_text
from prefine.config.sections import RunConfig
from prefine.run.manifests import begun_config

_FILES = ("config.json", "manifest.json")


def follow_move(config: RunConfig) -> None:
    """Write today's place of the rounds into a round that was begun at another.

    The weights are known by their hash, so nothing is computed anew.

    Args:
        config: Of the round, with today's paths.
    """
    begun = begun_config(config.run_dir)
    if with_todays_paths(begun, begun, config) == begun:
        return
    for name in _FILES:
        file = config.run_dir / name
        if file.is_file():
            value = json.loads(file.read_text(encoding="utf-8"))
            moved = with_todays_paths(value, begun, config)
            write_text(file, json.dumps(moved, indent=1, ensure_ascii=False) + "\n")


def with_todays_paths(value: Any, begun: Mapping[str, Any], config: RunConfig) -> Any:
    """Return JSON of a round with the paths of other rounds as they are today.

    Args:
        value: What may have such paths.
        begun: The configuration that the round was begun with.
        config: That of today.
    """
    policy = begun.get("policy")
    path = policy.get("path") if isinstance(policy, dict) else None
    today = config.policy.options.get("path")
    if not isinstance(path, str) or not isinstance(today, str) or path == today:
        return value
    was, now = Path(path), Path(today)
    if was.parts[-2:] != now.parts[-2:] or config.run_dir.resolve().parent not in now.parents:
        return value
    return _moved(value, str(was.parents[1]), str(now.parents[1]))


def _moved(value: Any, before: str, after: str) -> Any:
    """The value with paths below one folder as paths below another."""
    if isinstance(value, dict):
        return {name: _moved(inner, before, after) for name, inner in value.items()}
    if isinstance(value, list):
        return [_moved(inner, before, after) for inner in value]
    if isinstance(value, str) and value.startswith(f"{before}/round-"):
        return after + value.removeprefix(before)
    return value
