"""The limits of a whole run, divided among workers that know nothing of each other."""

import inspect
from collections.abc import Mapping
from typing import Any

from prefine.config.components import lookup
from prefine.config.sections import RunConfig

_RATES = ("requests_per_minute", "tokens_per_minute")


def limits_of_one(config: RunConfig, workers: int) -> dict[str, Any]:
    """The configuration as one of several workers has it, as JSON values.

    What a host may be asked is divided: its `requests_per_minute`, `tokens_per_minute` and
    `concurrency`, which is at least 1. None of them changes an answer.
    """
    values: dict[str, Any] = _divided(config.resolved(), workers)
    return values


def _divided(value: Any, workers: int) -> Any:
    if isinstance(value, list):
        return [_divided(one, workers) for one in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: _divided(one, workers) for key, one in value.items()}
    for rate in _RATES:
        if isinstance(found.get(rate), int | float):
            found[rate] = found[rate] / workers
    concurrency = found.get("concurrency", _default_concurrency(found))
    if isinstance(concurrency, int):
        found["concurrency"] = max(1, concurrency // workers)
    return found


def _default_concurrency(component: Mapping[str, Any]) -> int | None:
    """The requests in flight of a backend at a server, where nobody set them."""
    name = component.get("name")
    if not isinstance(name, str) or not (name == "openai" or "base_url" in component):
        return None
    backend = lookup("backend", name, where="executor")
    parameter = inspect.signature(backend).parameters.get("concurrency")
    return None if parameter is None else parameter.default
