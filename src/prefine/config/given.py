"""Callables that were given in Python and cannot be imported, under names of this process.

A run folder keeps the name. It has a hash of the code, so a changed function is another
configuration, and a process that is given the same function again goes on with the run.
"""

import hashlib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from prefine.errors import ConfigError

_PREFIX = "given:"
_CALLABLES: dict[str, Callable[..., Any]] = {}
_PLAIN = (bool, int, float, str, bytes, type(None))


def is_importable(function: Callable[..., Any]) -> bool:
    """Return True if another process can import it as `module:function`."""
    module = getattr(function, "__module__", None)
    if module is None or module == "__main__":
        return False
    found = getattr(importlib.import_module(module), getattr(function, "__qualname__", ""), None)
    return found is function


def given_name(function: Callable[..., Any]) -> str:
    """Keep a callable for this process; return its name."""
    word = getattr(function, "__name__", type(function).__name__).strip("<>")
    name = f"{_PREFIX}{word}-{hashlib.sha256(_code_of(function).encode()).hexdigest()[:8]}"
    _CALLABLES[name] = function
    return name


def is_given(name: str) -> bool:
    """Return True for the name of a callable that was given in Python."""
    return name.startswith(_PREFIX)


def given_callable(name: str, *, where: str) -> Callable[..., Any]:
    """Return a callable that this process was given.

    Raises:
        ConfigError: Another process was given it.
    """
    if name in _CALLABLES:
        return _CALLABLES[name]
    raise ConfigError(
        f"{where}.name: {name!r} is a function that was given in Python; only a call of the Python "
        "API that gives it again can use it. In a module of its own it has a name that every "
        "process finds: my_module:my_function"
    )


def _code_of(function: Callable[..., Any]) -> str:
    """Return the source and what it has captured; the address where that is no plain value."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = str(id(function))
    captured = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    defaults = (getattr(function, "__kwdefaults__", None) or {}).values()
    values = [value if isinstance(value, _PLAIN) else id(value) for value in (*captured, *defaults)]
    return f"{source} {values}"
