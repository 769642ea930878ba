"""What a loss has declared, seen through partials and for composites of all their parts together."""

import inspect
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, get_args, get_type_hints

from prefine.config.components import Nested
from prefine.losses.protocol import LossFunction, LossKind, Need, Reads


def bare(function: LossFunction) -> LossFunction:
    """The function that was decorated, under any partials that fill in its hyper-parameters."""
    while isinstance(function, partial):
        function = function.func
    return function


def options_of(function: LossFunction) -> dict[str, Any]:
    """The hyper-parameters that the function will be called with; those without a value are left out."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }


def option_of(function: LossFunction, name: str) -> Any:
    """The value a hyper-parameter will have when the function is called, None if it has no such parameter."""
    return options_of(function).get(name)


@cache
def nested_options(function: LossFunction) -> frozenset[str]:
    """The names of the options that are losses, or several, by their annotation; of the bare function."""
    hints = get_type_hints(function, include_extras=True)
    return frozenset(name for name, hint in hints.items() if _holds_losses(hint))


def _holds_losses(hint: Any) -> bool:
    if any(isinstance(mark, Nested) for mark in getattr(hint, "__metadata__", ())):
        return True
    return any(_holds_losses(part) for part in get_args(hint) if part is not ...)


def parts_of(function: LossFunction, path: str = "") -> Iterator[tuple[str, LossFunction]]:
    """The function and all losses within it, each with its path, such as `losses.1.loss`."""
    yield path, function
    options = options_of(function)
    for name in sorted(nested_options(bare(function)) & options.keys()):
        inner, value = f"{path}.{name}" if path else name, options[name]
        if isinstance(value, tuple):
            for index, part in enumerate(value):
                yield from parts_of(part, f"{inner}.{index}")
        else:
            yield from parts_of(value, inner)


def _facts(function: LossFunction, name: str, absent: Any) -> list[Any]:
    return [getattr(bare(part), name, absent) for _, part in parts_of(function)]


def kind_of(function: LossFunction) -> LossKind:
    """Coupled if a part is; undeclared is coupled, which is right for every function."""
    return "coupled" if "coupled" in _facts(function, "kind", "coupled") else "local"


def needs_of(function: LossFunction) -> frozenset[Need]:
    """Which values beyond the policy's it reads; undeclared is all that other models say of the pair itself."""
    everything: frozenset[Need] = frozenset({"reference", "initial"})
    return frozenset().union(*_facts(function, "needs", everything))


def reads_of(function: LossFunction) -> Reads:
    """What the most demanding part reads."""
    return max(_facts(function, "reads", "pairs"), key=get_args(Reads).index)


def per_pair(function: LossFunction) -> bool:
    """Whether value i belongs to pair i; undeclared is so."""
    return all(_facts(function, "per_pair", True))
