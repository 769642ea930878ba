"""Calls with wrong arguments, answered with the right ones."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar

from prefine.config.foreign_keys import HERE
from prefine.config.training import TrainConfig

P = ParamSpec("P")
R = TypeVar("R")


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with a TypeError that says what to write instead of wrong arguments."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            signature.bind(*arguments, **named)
        except TypeError as error:
            remedy = _unknown(named, signature) or _missing(function, str(error), signature)
            raise TypeError(f"{function.__name__}() {remedy or error}") from None
        return function(*arguments, **named)

    return call


def _unknown(named: Mapping[str, object], signature: inspect.Signature) -> str:
    """Return what to write instead of the first keyword that the function lacks, if it has one."""
    known = list(signature.parameters)
    name = next((name for name in named if name not in known), None)
    if name is None:
        return ""
    setting = HERE.get(name, name).removeprefix("train.")
    if near := get_close_matches(name, known, n=1, cutoff=0.7):
        instead = f"did you mean {near[0]!r}?"
    elif "settings" in known and setting in TrainConfig.model_fields:
        instead = f"it is a setting: settings={{{setting!r}: …}}"
    else:
        instead = f"it has {', '.join(known)}"
    return f"got an unexpected keyword argument {name!r}; {instead}"


def _missing(function: Callable[..., object], said: str, signature: inspect.Signature) -> str:
    """Return what Python said of a missing argument, with the meaning of this argument."""
    # Here and not above: only a call that fails reads its docstring.
    from prefine.losses.cards.docstrings import parse

    name = next((name for name in signature.parameters if said.endswith(f": {name!r}")), None)
    meaning = parse(function.__doc__).arguments.get(name or "")
    return f"is {said}: {meaning}" if meaning else ""
