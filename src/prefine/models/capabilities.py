"""Backends declare what they can do; who needs more of one gets a message and no late error."""

import inspect
from collections.abc import Callable
from typing import TypeVar, cast

from prefine.config.base import Component
from prefine.errors import ConfigError
from prefine.models.protocol import At, Checks, HasWeights, Replies, Samples

C = TypeVar("C", bound=type)
P = TypeVar("P")

_LACKS: dict[type, str] = {
    Samples: "draws no completions; use hf, openai or scripted",
    Replies: "answers no conversations; use openai, hf or scripted",
    HasWeights: "has no weights to train; use {name: hf, path: FOLDER}",
    At: "cannot be pointed at another folder; use {name: hf, path: FOLDER}",
}


def provides(*capabilities: type) -> Callable[[C], C]:
    """Declare a class as one whose objects have these capabilities.

    Args:
        capabilities: Protocols of `prefine.models.protocol`, such as `Samples`.

    Raises:
        TypeError: The class lacks a method of one of them.
    """

    def declare(backend: C) -> C:
        for capability in capabilities:
            for name, member in vars(capability).items():
                public_method = inspect.isfunction(member) and not name.startswith("_")
                if public_method and not hasattr(backend, name):
                    raise TypeError(
                        f"{backend.__name__} declares {capability.__name__} and has no method "
                        f"{name!r}"
                    )
        backend.capabilities = frozenset(capabilities)  # type: ignore[attr-defined]
        return backend

    return declare


def provided(backend: object, capability: type[P]) -> P | None:
    """Return the object as one with this capability, or None if its class does not declare it."""
    declared: frozenset[type] = getattr(backend, "capabilities", frozenset())
    return cast(P, backend) if capability in declared else None


def backend_of(component: Component, capability: type[P], *, where: str) -> P:
    """Make the backend that a configuration names, for someone who needs this capability.

    Args:
        component: Its name and options.
        capability: A protocol of `prefine.models.protocol`.
        where: Config path of the component, for messages.

    Raises:
        ConfigError: A name or option is wrong, or the backend does not declare the capability.
    """
    made = component.resolve("backend", where=where)()
    return required(made, capability, what=f"{where}.name: {component.name!r}")


def required(backend: object, capability: type[P], *, what: str) -> P:
    """Return a backend as one with this capability.

    Args:
        backend: The backend.
        capability: A protocol of `prefine.models.protocol`.
        what: The backend's name, for the message.

    Raises:
        ConfigError: Its class does not declare the capability.
    """
    found = provided(backend, capability)
    if found is None:
        message = f"{what} {_LACKS[capability]}"
        if not type(backend).__module__.startswith("prefine."):
            message += (
                f". A class of your own says that it can: decorate it with "
                f"prefine.models.capabilities.provides({capability.__name__})"
            )
        raise ConfigError(message)
    return found


def check_model(backend: object) -> None:
    """Raise if the settings or the folder of a model, or of a judge's model, cannot be used."""
    if (found := provided(backend, Checks)) is not None:
        found.check_model()
