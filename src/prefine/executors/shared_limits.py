"""The limits of a whole run, divided among workers that know nothing of each other."""

import inspect
from collections.abc import Mapping
from typing import Any

from prefine.config.components import lookup
from prefine.config.given import is_given
from prefine.config.named import components
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.models.protocol import Launches

_RATES = ("requests_per_minute", "tokens_per_minute")
_NOT_SPREAD = ("bridge.", "train.")
"""Sections whose models are asked by the process of the command, whatever the executor."""


def limits_of_one(config: RunConfig, workers: int) -> dict[str, Any]:
    """The configuration as one of several workers has it, as JSON values.

    What a host may be asked is divided: its `requests_per_minute`, `tokens_per_minute` and
    `concurrency`, which is at least 1. None of them changes an answer.
    """
    values: dict[str, Any] = _divided(config.resolved(), workers)
    return values


def refuse_given(config: RunConfig) -> None:
    """Check that other processes can import every component.

    Raises:
        ConfigError: One is a function or an object that only this process has.
    """
    for where, kind, component in components(config):
        if is_given(component.name):
            raise ConfigError(
                f"{where}: a {kind} that was given as an object or a function of this process, "
                "which other workers cannot import; put it into a module and name it "
                "my_module:thing, or use executor: local"
            )


def refuse_served(config: RunConfig, stage: str | None = None) -> None:
    """Check that no worker would start servers.

    Args:
        config: The configuration.
        stage: The stage that is to be run; None for all of them.

    Raises:
        ConfigError: A model that workers would ask is served by prefine.
    """
    for where, kind, component in components(config):
        if kind != "backend" or where.startswith(_NOT_SPREAD) or not _asks(config, stage, where):
            continue
        backend = component.lookup("backend", where=where)
        if Launches in getattr(backend, "capabilities", ()):
            raise ConfigError(
                f"{where}: workers of a cluster would each start servers of {component.name!r}, "
                "and again for every task; use executor: local for what asks this model, or start "
                "its server yourself and write {name: openai, base_url: …}"
            )


def _asks(config: RunConfig, stage: str | None, where: str) -> bool:
    """Return True if a stage may ask the model at a config path."""
    own_sampler = config.sample is not None and config.sample.model is not None
    asked: dict[str, tuple[str, ...]] = {
        "sample": ("sample.",) if own_sampler else ("policy",),
        "rank": ("rank.",),
        "pair": (),
        "evaluate": ("policy", "evaluate.", *(("rank.",) if config.evaluate.judge is None else ())),
    }
    return stage is None or where.startswith(asked[stage])


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
