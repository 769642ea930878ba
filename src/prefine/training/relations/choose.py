"""The relation that the losses of a training read."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType

from prefine.config.training import TrainConfig
from prefine.errors import ConfigError
from prefine.losses.facts import relations_in
from prefine.losses.protocol import Reads
from prefine.training.relations.protocol import NamedLosses, Relation

_HOMES: Mapping[Reads, tuple[str, dict[str, bool]]] = MappingProxyType(
    {
        "pairs": ("pairs:Pairs", {}),
        "joint": ("pairs:Pairs", {"joint": True}),
        "lists": ("lists:Lists", {}),
        "labels": ("labels:Labels", {}),
    }
)


@cache
def named_relation(reads: Reads, items: Reads = "pairs") -> Relation:
    """The relation that a loss declared; its module is imported for the first who asks.

    Args:
        reads: The declaration.
        items: The kind of the items, where the loss reads rewards.
    """
    if reads == "rewards":
        from prefine.training.relations.rewards import RewardItems

        return RewardItems(named_relation(items))
    home, options = _HOMES[reads]
    module, _, name = home.partition(":")
    made: Relation = getattr(import_module(f"prefine.training.relations.{module}"), name)(**options)
    return made


def configured_losses(settings: TrainConfig) -> NamedLosses:
    """Loss and regularizer of a configuration, bound; an automatic budget reads any items."""
    if settings.reward is not None:
        loss, where = settings.reward.loss, "train.reward.loss"
        return [(f"{where} {loss.name!r}", loss.resolve("reward_loss", where=where))]
    named = [
        (f"train.loss {settings.loss.name!r}", settings.loss.resolve("loss", where="train.loss"))
    ]
    if (regularizer := settings.fixed_regularizer) is not None:
        function = regularizer.resolve("regularizer", where="train.regularizer")
        named.append((f"train.regularizer {regularizer.name!r}", function))
    return named


def relation_of(losses: NamedLosses, items: Reads = "pairs") -> Relation:
    """The relation that loss and regularizer read together; of rewards that of these items.

    Raises:
        ConfigError: They, or the parts of one, read different ones.
    """
    found: dict[Reads, str] = {}
    for name, function in losses:
        for reads in relations_in(function):
            if reads != "any":
                found.setdefault(reads, name)
    if [*found] == ["rewards"]:
        return named_relation("rewards", items)
    names = {named_relation(reads).name: f"{name} reads {reads}" for reads, name in found.items()}
    if len(names) > 1:
        raise ConfigError(
            f"{', '.join(names.values())}: a training has items of one kind; leave out what reads "
            "other items"
        )
    return named_relation("joint" if "joint" in found else next(iter(found), "pairs"))
