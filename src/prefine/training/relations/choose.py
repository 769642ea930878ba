"""The relation that the losses of a training read."""

from collections.abc import Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, cast

from prefine.config.base import Component
from prefine.config.sections import ITEM_ENTRIES
from prefine.config.training import TrainConfig
from prefine.errors import ConfigError
from prefine.lazy import imported
from prefine.losses.facts import bare, losses_within, parts_of, relations_in
from prefine.losses.kinds import by_kind
from prefine.losses.protocol import LossFunction, Reads
from prefine.training.relations.protocol import ItemKind, NamedLosses, Relation

_HOMES: Mapping[Reads, tuple[str, dict[str, bool]]] = MappingProxyType(
    {
        "pairs": ("pairs:Pairs", {}),
        "joint": ("pairs:Pairs", {"joint": True}),
        "lists": ("lists:Lists", {}),
        "labels": ("labels:Labels", {}),
    }
)


@cache
def named_relation(reads: Reads, items: Reads = "pairs") -> ItemKind:
    """The kind of items that a loss declared; its module is imported for the first who asks.

    Args:
        reads: The declaration.
        items: The kind of the items, where the loss reads rewards.
    """
    if reads == "rewards":
        from prefine.training.relations.rewards import RewardItems

        return RewardItems(named_relation(items))
    home, options = _HOMES[reads]
    made: ItemKind = imported(f"prefine.training.relations.{home}")(**options)
    return made


def configured_loss(settings: TrainConfig) -> LossFunction:
    """The loss of a configuration, bound; where it names one for each kind, they are one."""
    found: dict[str, Any] = {
        where: loss.resolve(settings.loss_kind, where=where)
        for where, loss in settings.losses.items()
    }
    if isinstance(settings.minimised, Component):
        (only,) = found.values()
        return cast(LossFunction, only)
    return partial(by_kind, **{where.rpartition(".")[2]: loss for where, loss in found.items()})


def configured_losses(settings: TrainConfig) -> NamedLosses:
    """Loss and regularizer of a configuration, bound; an automatic budget reads any items."""
    loss = configured_loss(settings)
    where = "train.loss" if settings.reward is None else "train.reward.loss"
    name = where if bare(loss) is by_kind else f"{where} {settings.loss_name!r}"
    named = [(name, loss)]
    if settings.reward is not None:
        return named
    if (regularizer := settings.fixed_regularizer) is not None:
        function = regularizer.resolve("regularizer", where="train.regularizer")
        named.append((f"train.regularizer {regularizer.name!r}", function))
    return named


def relation_of(losses: NamedLosses, items: Reads = "pairs") -> Relation:
    """The relation that loss and regularizer read together.

    Args:
        losses: With their names for messages.
        items: The kind that there is, for losses that read any, or rewards.

    Raises:
        ConfigError: They, or the parts of one, read different ones.
    """
    kinds = [kind for _, function in losses for kind in _kinds_within(function)]
    if not kinds:
        return kind_of_items(losses, items)
    from prefine.training.relations.mixed import Mixed

    found = tuple(kind_of_items(losses_of_kind(losses, kind), kind) for kind in kinds)
    for kind, relation in zip(kinds, found, strict=True):
        if relation.name != kind:
            (name, _), *_ = losses_of_kind(losses, kind)
            raise ConfigError(f"{name} reads {relation.name}; give another loss of {kind}")
    for name, function in losses:
        moved = [part for _, part in parts_of(function) if getattr(bare(part), "controlled", ())]
        if moved and not _kinds_within(function):
            raise ConfigError(
                f"{name}: {bare(moved[0]).__name__} sets itself from the items of one kind, and "
                "there are several; choose another"
            )
    return Mixed(found)


def _kinds_within(function: LossFunction) -> tuple[Reads, ...]:
    """The kinds that a function has a loss for, each its own."""
    within = losses_within(function) if bare(function) is by_kind else {}
    return tuple(kind for kind in ITEM_ENTRIES if kind in within)


def kind_of_items(losses: NamedLosses, items: Reads = "pairs") -> ItemKind:
    """The one kind of items that losses read; that of `items` where they read any, or rewards.

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
    return named_relation("joint" if "joint" in found else next(iter(found), items))


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
