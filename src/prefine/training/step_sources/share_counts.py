"""The number of items of each kind in a step, where a training has several kinds."""

import math
from collections.abc import Iterator, Mapping

from prefine.errors import ConfigError

_ROUNDING = 1e-9


def shares_of(weights: Mapping[str, float]) -> dict[str, float]:
    """The share of each kind in a step; they add up to 1."""
    total = sum(weights.values())
    return {kind: weight / total for kind, weight in weights.items()}


def check_shares(weights: Mapping[str, float], items_per_step: int) -> None:
    """Check that every step has an item of every kind.

    Args:
        weights: Of the kinds, by name.
        items_per_step: Of a step.

    Raises:
        ConfigError: A kind's share of a step is less than one item.
    """
    for kind, share in shares_of(weights).items():
        if share * items_per_step < 1 - _ROUNDING:
            raise ConfigError(
                f"{kind}.weight: {weights[kind]:g} of {sum(weights.values()):g} is "
                f"{share * items_per_step:.2g} of the {items_per_step} items of a step, and every "
                f"step needs one of each kind; raise train.pairs_per_step or {kind}.weight"
            )


def counts_of_steps(shares: Mapping[str, float], items_per_step: int) -> Iterator[dict[str, int]]:
    """Yield the number of items of each kind in step after step, without end.

    A step has the whole part of every share; what is left of it goes to the kinds that are furthest
    behind, so that over any number of steps each is within one item of its share.
    """
    exact = {kind: share * items_per_step for kind, share in shares.items()}
    behind = dict.fromkeys(exact, 0.0)
    while True:
        counts = {kind: int(number) for kind, number in exact.items()}
        for kind, number in exact.items():
            behind[kind] += number - counts[kind]
        for kind in sorted(behind, key=lambda one: -behind[one])[
            : items_per_step - sum(counts.values())
        ]:
            counts[kind] += 1
            behind[kind] -= 1
        yield counts


def most_of_step(share: float, items_per_step: int) -> int:
    """The most items of a kind that a step has."""
    return math.ceil(share * items_per_step - _ROUNDING)


def steps_of_epoch(
    numbers: Mapping[str, int], weights: Mapping[str, float], items_per_step: int
) -> int:
    """The steps after which every item of every kind has been in one.

    Args:
        numbers: The items of each kind.
        weights: Of the kinds.
        items_per_step: Of a step, all kinds together.
    """
    shares = shares_of(weights)
    counted: dict[str, int] = dict.fromkeys(numbers, 0)
    for step, counts in enumerate(counts_of_steps(shares, items_per_step), start=1):
        for kind, count in counts.items():
            counted[kind] += count
        if all(counted[kind] >= number for kind, number in numbers.items()):
            return step
    raise AssertionError("every step has an item of every kind")


def planned_steps(
    numbers: Mapping[str, int], weights: Mapping[str, float], items_per_step: int
) -> int:
    """The steps of an epoch; `weights` are empty where there is one kind of items."""
    if weights:
        return steps_of_epoch(numbers, weights, items_per_step)
    return -(-sum(numbers.values()) // items_per_step)


def kept_below(pairs: int, quantile: float | None) -> int:
    """The number of pairs at or below a quantile of their scores, at least 1; None keeps all."""
    return pairs if quantile is None else max(1, math.ceil(quantile * pairs - 1e-9))
