"""Modules that are imported on first use: exports of a package, and values named in tables."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def imported(target: str) -> Any:
    """Return the attribute that `module:name`, an entry of a table of ours, names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def lazy_exports(
    package: str, homes: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return a package's `__getattr__`, `__dir__` and `__all__`.

    Args:
        package: The package's `__name__`.
        homes: The exported names by the module that defines them.
    """
    home_of = {name: home for home, names in homes.items() for name in names}
    exported = sorted(home_of)

    def getattr_(name: str) -> Any:
        if name not in home_of:
            from difflib import get_close_matches

            near = get_close_matches(name, exported, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"module {package!r} has no attribute {name!r}{meant}")
        home = importlib.import_module(home_of[name])
        if name in vars(home):
            return vars(home)[name]
        # A submodule is an attribute of its package only after its import.
        return importlib.import_module(f"{home.__name__}.{name}")

    return getattr_, lambda: exported, exported
