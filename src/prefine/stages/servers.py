"""Ask the servers of a configuration whether they are there: one question each, which is free."""

import asyncio
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from prefine.calls.http import url_below
from prefine.errors import BackendError
from prefine.models.protocol import ListsModels, ModelList

_SHOWN = 5


def ask_servers(models: Mapping[str, ListsModels]) -> tuple[str, ...]:
    """Ask each server once for its models; return notes on what is not as configured.

    Args:
        models: By their config paths; those of one URL and key share a question.

    Raises:
        BackendError: A server is not there, or refuses the key; with its own words.
    """
    try:
        lists = asyncio.run(_lists({model.server: model for model in models.values()}))
    except BackendError as error:
        raise BackendError(f"{error} (--offline asks no server)") from error
    notes = (_note(where, model, lists[model.server]) for where, model in models.items())
    return tuple(dict.fromkeys(note for note in notes if note))


def models_beside(model: ListsModels) -> list[str]:
    """Ask a model's server once; return the names of all its models, sorted.

    Raises:
        BackendError: It is not there, refuses the key, or has no such list; with its own words.
    """
    url = url_below(model.server[0], "/models")
    try:
        listed = asyncio.run(_lists({model.server: model}))[model.server]
    except BackendError as error:
        raise BackendError(f"{url}: no list of models: {error}") from error
    if listed.names is None:
        raise BackendError(f"{url}: no list of models: {listed.why}")
    return sorted(listed.names)


async def _lists(
    servers: Mapping[tuple[str, ...], ListsModels],
) -> dict[tuple[str, ...], ModelList]:
    try:
        found: Sequence[ModelList] = await asyncio.gather(
            *(model.models() for model in servers.values())
        )
    finally:
        for model in servers.values():
            await model.aclose()
    return dict(zip(servers, found, strict=True))


def _note(where: str, model: ListsModels, listed: ModelList) -> str:
    url = model.server[0]
    if listed.names is None:
        return f"{url}: whether it has the model {model.name!r} is not known: {listed.why}"
    # Google's names stand behind "models/".
    if {model.name, f"models/{model.name}"} & listed.names:
        return ""
    near = get_close_matches(model.name, listed.names, n=_SHOWN, cutoff=0.3)
    shown = near or sorted(listed.names)[:_SHOWN]
    others = len(listed.names) - len(shown)
    return f"{where}.model: {url} lists no model {model.name!r}; it has {', '.join(shown)}" + (
        f" and {others:,} others" if others else ""
    )
