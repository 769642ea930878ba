"""What moves the hyper-parameters of an objective: schedules by the step, controllers by what the step saw."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefine.losses.facts import (
    bare,
    kind_of,
    needs_of,
    nested_options,
    options_of,
    parts_of,
)
from prefine.losses.protocol import Controller, LossFunction, LossKind, Need, PairLogps
from prefine.schedules import Schedule


@dataclass(frozen=True)
class Objective:
    """A loss, an optional regularizer and its weight, every hyper-parameter a number."""

    loss: LossFunction
    regularizer: LossFunction | None = None
    regularizer_weight: float = 0.0

    @property
    def kind(self) -> LossKind:
        """Coupled if either part is."""
        parts = [self.loss] if self.regularizer is None else [self.loss, self.regularizer]
        return "coupled" if any(kind_of(part) == "coupled" for part in parts) else "local"

    @property
    def needs(self) -> frozenset[Need]:
        """What either part reads."""
        return needs_of(self.loss) | (
            frozenset() if self.regularizer is None else needs_of(self.regularizer)
        )

    def terms(self, logps: PairLogps) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Loss and regularizer (unweighted) per pair."""
        loss = self.loss(logps)
        return loss, torch.zeros_like(loss) if self.regularizer is None else self.regularizer(logps)

    def value(
        self, loss: Float[Tensor, " B"], regularizer: Float[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """What is minimised, per pair."""
        # Not `loss + 0 * regularizer`: with weight 0 the run is the run without a regularizer, to
        # the bit.
        return (
            loss if self.regularizer_weight == 0 else loss + self.regularizer_weight * regularizer
        )


Control = Callable[[Objective, PairLogps], Objective]
"""What gives an objective the hyper-parameters that depend on the values of the whole step, see `Steering`."""


class HyperparameterController:
    """An objective whose hyper-parameters move, named by paths such as `loss.beta` and `loss.losses.1.delta`.

    Args:
        loss: Its hyper-parameters, and those of losses within it, may be schedules.
        regularizer: The same, or None.
        regularizer_weight: A number or a schedule.
        steps: Updates of the whole training.
    """

    def __init__(
        self,
        loss: LossFunction,
        regularizer: LossFunction | None = None,
        regularizer_weight: float | Schedule = 0.0,
        *,
        steps: int,
    ) -> None:
        self._loss, self._regularizer, self._weight = loss, regularizer, regularizer_weight
        self._steps = steps
        self._controllers: dict[str, Controller] = {
            path: controller()
            for path, part in [
                *parts_of(loss, "loss"),
                *(parts_of(regularizer, "regularizer") if regularizer else ()),
            ]
            if (controller := getattr(bare(part), "controller", None)) is not None
        }

    def at(self, step: int) -> Objective:
        """The objective of update number `step` (from 0), its schedules at their numbers."""

        def number(value: Any) -> Any:
            return value.at(step, self._steps) if isinstance(value, Schedule) else value

        return Objective(
            loss=_settled(self._loss, number),
            regularizer=None if self._regularizer is None else _settled(self._regularizer, number),
            regularizer_weight=number(self._weight),
        )

    def control(self, objective: Objective, logps: PairLogps) -> Objective:
        """The objective with what its controllers make of the whole step's values; called once per step."""
        for path, controller in self._controllers.items():
            side, _, inner = path.partition(".")
            function = getattr(objective, side)
            (part,) = (part for found, part in parts_of(function) if found == inner)
            given = controller.update(logps, options_of(part))
            changed: dict[str, Any] = {side: _with(function, inner, given)}
            objective = replace(objective, **changed)
        return objective

    def moved(self, objective: Objective) -> dict[str, float]:
        """The hyper-parameters that are not the same in all steps, at their values in this objective."""
        found = (
            {"regularizer_weight": objective.regularizer_weight}
            if isinstance(self._weight, Schedule)
            else {}
        )
        for side, function in (("loss", self._loss), ("regularizer", self._regularizer)):
            if function is None:
                continue
            now = dict(_numbers(getattr(objective, side), side))
            names = {
                path for path, value in _numbers(function, side) if isinstance(value, Schedule)
            }
            names |= {
                f"{path}.{name}"
                for path, controller in self._controllers.items()
                for name in controller.gives
            }
            found |= {name: now[name] for name in now if name in names}
        return found

    def state_dict(self) -> dict[str, dict[str, float]]:
        """The state of every controller by its path; schedules have none."""
        return {path: controller.state_dict() for path, controller in self._controllers.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from a state."""
        for path, controller in self._controllers.items():
            controller.load_state_dict(state[path])


def _settled(function: LossFunction, number: Any) -> LossFunction:
    """The function with `number` applied to every hyper-parameter, also of losses within it."""
    losses = nested_options(bare(function))

    def settle(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(settle(name, item) for item in value)
        return _settled(value, number) if name in losses else number(value)

    return partial(
        function, **{name: settle(name, value) for name, value in options_of(function).items()}
    )


def _with(function: LossFunction, path: str, given: Mapping[str, float]) -> LossFunction:
    """The function with hyper-parameters of the part at `path` replaced."""
    if not path:
        return partial(function, **given)
    name, _, rest = path.partition(".")
    value = options_of(function)[name]
    if not isinstance(value, tuple):
        return partial(function, **{name: _with(value, rest, given)})
    index, _, inner = rest.partition(".")
    changed = (
        _with(part, inner, given) if at == int(index) else part for at, part in enumerate(value)
    )
    return partial(function, **{name: tuple(changed)})


def _numbers(function: LossFunction, path: str) -> list[tuple[str, Any]]:
    """Every hyper-parameter with its path, also of losses within."""
    found = []
    for inner, part in parts_of(function, path):
        for name, value in options_of(part).items():
            items = enumerate(value) if isinstance(value, tuple) else None
            found += (
                [(f"{inner}.{name}", value)]
                if items is None
                else [(f"{inner}.{name}.{i}", v) for i, v in items]
            )
    return found
