"""The losses of one kind of items, where a training has several."""

from prefine.errors import ConfigError
from prefine.losses.facts import bare, losses_within
from prefine.losses.kinds import by_kind
from prefine.training.relations.protocol import NamedLosses


def losses_of_kind(losses: NamedLosses, kind: str) -> NamedLosses:
    """The losses that read items of a kind: its own, and the regularizer.

    Raises:
        ConfigError: There is no loss for the kind.
    """
    found = []
    for name, function in losses:
        own = function
        if bare(function) is by_kind:
            within = losses_within(function)
            if kind not in within:
                raise ConfigError(f"{name}: names no loss for {kind}; give one beside the others")
            own = within[kind]
            name = f"{name}, the loss {bare(own).__name__!r} of {kind}"
        found.append((name, own))
    return found
