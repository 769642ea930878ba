"""What a loss has declared, seen through partials and for composites of all their parts together."""

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

from prefine.losses.base import LossFunction, LossKind, Need, Reads


def bare(function: LossFunction) -> LossFunction:
    """The function that was decorated, under any partials that fill in its hyper-parameters."""
    while isinstance(function, partial):
        function = function.func
    return function


def options_of(function: LossFunction) -> dict[str, Any]:
    """The hyper-parameters that the function will be called with; those without a value are left out."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}


def option_of(function: LossFunction, name: str) -> Any:
    """The value a hyper-parameter will have when the function is called, None if it has no such parameter."""
    return options_of(function).get(name)


def parts_of(function: LossFunction, path: str = "") -> Iterator[tuple[str, LossFunction]]:
    """The function and all losses within it, each with its path, such as `losses.1.loss`."""
    yield path, function
    for name, value in options_of(function).items():
        inner = f"{path}.{name}" if path else name
        if isinstance(value, tuple):
            for index, part in enumerate(value):
                if callable(part):
                    yield from parts_of(part, f"{inner}.{index}")
        elif callable(value):
            yield from parts_of(value, inner)


def _facts(function: LossFunction, name: str, absent: Any) -> list[Any]:
    return [getattr(bare(part), name, absent) for _, part in parts_of(function)]


def kind_of(function: LossFunction) -> LossKind:
    """Coupled if a part is; undeclared is coupled, which is right for every function."""
    return "coupled" if "coupled" in _facts(function, "kind", "coupled") else "local"


def needs_of(function: LossFunction) -> frozenset[Need]:
    """Which values beyond the policy's it reads; undeclared is all that summed log-probabilities can offer."""
    everything: frozenset[Need] = frozenset({"reference", "initial", "p_chosen"})
    return frozenset().union(*_facts(function, "needs", everything))


def reads_of(function: LossFunction) -> Reads:
    """What the most demanding part reads."""
    return max(_facts(function, "reads", "pairs"), key=get_args(Reads).index)


def per_pair(function: LossFunction) -> bool:
    """Whether value i belongs to pair i; undeclared is so."""
    return all(_facts(function, "per_pair", True))
