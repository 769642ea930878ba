"""Remedies for command lines that click refuses."""

from collections.abc import Iterator
from typing import Any


def usage_hint(error: Any) -> str:
    """Return a line to print below a usage error; empty if its own message says enough.

    Args:
        error: Click's. A missing argument is explained by its help, and an option that another
            command has by the commands that have it.
    """
    parameter: Any = getattr(error, "param", None)
    if type(error).__name__ == "MissingParameter" and parameter.help:
        return f"{parameter.metavar or parameter.name}: {parameter.help}"
    option = getattr(error, "option_name", None)
    if type(error).__name__ != "NoSuchOption" or error.possibilities:
        return ""
    root = error.ctx.find_root().command
    having = [f"`prefine {path}`" for path, names in _options(root) if option in names]
    if having:
        return f"{', '.join(having)} {'has' if len(having) == 1 else 'have'} {option}."
    return f"`{error.ctx.command_path} --help` lists its options."


def _options(command: Any, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yield each command below this one, with its options."""
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            below = f"{path} {name}".strip()
            yield below, {option for one in inner.params for option in one.opts}
            yield from _options(inner, below)
