"""The settings that decide what is computed, and which of them a begun run may still change."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, JsonValue
from pydantic_core import to_jsonable_python

from prefine.config.sections import RunConfig, Section

# What each stage reads of the configuration. A section may still change while no stage that reads
# it has begun.
STAGE_SECTIONS: dict[str, tuple[str, ...]] = {
    "sample": ("policy", "prompts", "completions", "sample"),
    "rank": ("rank",),
    "pair": ("pair", "pairs"),
    "train": ("policy", "train"),
    "evaluate": ("evaluate",),
    "report": ("report",),
}
# Making pairs costs nothing, so this section may change until a later stage has worked on what it
# made.
_SETTLED_BY = {"pair": "train"}
# Growing these extends a run; shrinking or changing anything else would mix two runs in one folder.
_MAY_GROW = {
    "sample.completions_per_prompt",
    "prompts.count",
    "prompts.limit",
    "completions.limit",
    "rank.judge.max_new_tokens",
    "evaluate.judge.max_new_tokens",
}
# These say how hard to try, what to spend or what to show, not what to compute.
_FREE = {
    "sample.max_failed_fraction",
    "sample.max_cost",
    "rank.max_failed_fraction",
    "rank.max_calls",
    "rank.max_cost",
    "train.reference_cache",
    "evaluate.max_failed_fraction",
    "report.title",
    "report.examples",
    "train.tracking",
}
# Where a server is and how it is asked change no answer, and people move servers.
_TRANSPORT = {
    *("base_url", "api_key_env", "headers_env", "concurrency", "prices"),
    *("timeout_s", "max_retries", "patience_s", "requests_per_minute", "tokens_per_minute"),
}


def fingerprinted(sections: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The settings that decide what is computed.

    Left out are limits, settings of what is shown, and where and how servers are asked.

    Keys that are missing, since an older version wrote the sections, count with their defaults.
    """
    found: dict[str, JsonValue] = _without_free(with_new_defaults(sections), "")
    return found


def refused_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], stages: Collection[str]
) -> list[str]:
    """The changes that a run does not allow once these stages have begun, as lines."""
    before = with_new_defaults(before)
    begun = {section for stage in stages for section in STAGE_SECTIONS.get(stage, ())}
    begun &= before.keys()
    begun -= {section for section, stage in _SETTLED_BY.items() if stage not in stages}
    return [
        f"{path}: {_show(old)} → {_show(new)}"
        for path, (old, new) in config_diff(before, with_new_defaults(now)).items()
        if path.split(".")[0] in begun and not _may_change(path, old, new)
    ]


def config_diff(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configurations differ: each path with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= config_diff(before, after, f"{prefix}{name}.")
        elif before != after:
            found[prefix + name] = (before, after)
    return found


def with_new_defaults(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections, with defaults for the settings that did not exist when they were written."""
    models = {
        name: list(_sections(field.annotation)) for name, field in RunConfig.model_fields.items()
    }
    return {name: _filled(value, models.get(name, [])) for name, value in sections.items()}


def _filled(value: Any, models: list[type[BaseModel]]) -> Any:
    if not isinstance(value, Mapping):
        return value
    filled = dict(value)
    for model in models:
        for name, field in model.model_fields.items():
            if name in filled:
                filled[name] = _filled(filled[name], list(_sections(field.annotation)))
            elif not field.is_required():
                filled[name] = to_jsonable_python(field.get_default(call_default_factory=True))
    return filled


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that an annotation allows; components have options and no keys of their own."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, Section):
            yield one


def _without_free(value: Any, prefix: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        name: _without_free(inner, f"{prefix}{name}.")
        for name, inner in value.items()
        if not _is_free(prefix + name)
    }


def _is_free(path: str) -> bool:
    names = path.split(".")
    parents = {".".join(names[:depth]) for depth in range(1, len(names) + 1)}
    return bool(parents & _FREE or _TRANSPORT & set(names))


def _may_change(path: str, old: Any, new: Any) -> bool:
    if _is_free(path):
        return True
    # Options of components are checked later, so what should be a number may still be anything.
    if path not in _MAY_GROW or not isinstance(old, int | float):
        return False
    return new is None or (isinstance(new, int | float) and new >= old)


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
