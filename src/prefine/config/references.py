"""The references that a training compares with, as the configuration states them."""

import math
from typing import NamedTuple

from prefine.config.base import Component

INITIAL, WEIGHT = "initial", "weight"


class StatedReference(NamedTuple):
    """A reference: its model, its weight, and its config path for messages.

    `model` None is the policy with its initial weights. Weights sum to 1.
    """

    model: Component | None
    weight: float
    where: str


def stated_references(
    value: "str | Component | tuple[str | Component, ...]",
) -> tuple[StatedReference, ...]:
    """Return the references of `train.reference`, the first one first.

    References of a list that state no weight share equally what the others leave of 1.

    Raises:
        ValueError: A weight is none, the weights do not sum to 1, or a model is named twice.
    """
    if not isinstance(value, tuple):
        alone = None if isinstance(value, str) else value
        return (StatedReference(alone, 1.0, "train.reference"),)
    if not value:
        raise ValueError("reference: the list is empty; name a model, or leave reference out")
    given = [_weight(one, index) for index, one in enumerate(value)]
    models = [_without_weight(one) for one in value]
    for index, model in enumerate(models):
        if model in models[:index]:
            raise ValueError(
                f"reference: {index} is the same model as {models.index(model)}; name each once, "
                "with its weight"
            )
    return tuple(
        StatedReference(model, weight, f"train.reference.{index}")
        for index, (model, weight) in enumerate(zip(models, _filled(given), strict=True))
    )


def _without_weight(value: str | Component) -> Component | None:
    if isinstance(value, str):
        return None
    options = {name: option for name, option in value.options.items() if name != WEIGHT}
    return value if WEIGHT not in value.options else Component(name=value.name, **options)


def _weight(reference: str | Component, index: int) -> float | None:
    if isinstance(reference, str):
        return None
    if reference.name == INITIAL:
        raise ValueError(
            f"reference: {index} is {INITIAL}, which is a word and no component; its weight is "
            "what the others leave"
        )
    value = reference.options.get(WEIGHT)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise ValueError(f"reference: {index}.weight is {value!r}, and no number from 0 to 1")
    return float(value)


def _filled(given: list[float | None]) -> list[float]:
    """The weights, with an equal share of what is left for each that states none."""
    stated = math.fsum(weight for weight in given if weight is not None)
    without = given.count(None)
    if (not without and abs(stated - 1) > 1e-6) or (without and stated >= 1):
        left = f", and nothing is left for {without} without a weight" if without else ""
        raise ValueError(
            f"reference: the weights sum to {stated:g}{left}; let all sum to 1, or leave some out, "
            "which then share what the others leave"
        )
    return [(1 - stated) / without if weight is None else weight for weight in given]
