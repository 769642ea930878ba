"""The objective of a step, and its hyper-parameters: scheduled by the step, or adapted to it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefine.losses.facts import (
    bare,
    differences_of,
    kind_of,
    losses_within,
    needs_of,
    options_of,
    parts_of,
)
from prefine.losses.kinds import MixedLogps, StepLogps, of_each_kind
from prefine.losses.protocol import Controller, LossFunction, LossKind, Need
from prefine.losses.token_diff import Differences
from prefine.schedules import Schedule


@dataclass(frozen=True)
class Objective:
    """A loss, an optional regularizer and its weight, every hyper-parameter a number."""

    loss: LossFunction
    regularizer: LossFunction | None = None
    regularizer_weight: float = 0.0

    @property
    def functions(self) -> list[LossFunction]:
        """The loss and, if there is one, the regularizer."""
        return [self.loss] if self.regularizer is None else [self.loss, self.regularizer]

    @property
    def kind(self) -> LossKind:
        """Coupled if either function is."""
        return "coupled" if "coupled" in map(kind_of, self.functions) else "local"

    @property
    def needs(self) -> frozenset[Need]:
        """The values that the functions read beyond the policy's."""
        return frozenset[Need]().union(*map(needs_of, self.functions))

    @property
    def differences(self) -> Differences:
        """The way in which the tokens are found in which two answers differ."""
        return differences_of(*self.functions)

    def terms(self, logps: StepLogps) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Loss and regularizer (unweighted) per item, nats."""
        loss = self.loss(logps)
        if self.regularizer is None:
            return loss, torch.zeros_like(loss)
        return loss, of_each_kind(self.regularizer, logps)

    def value(
        self, loss: Float[Tensor, " B"], regularizer: Float[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """The minimised value per item."""
        # Not `loss + 0 * regularizer`: with weight 0 the run is the run without a regularizer, to
        # the bit.
        return (
            loss if self.regularizer_weight == 0 else loss + self.regularizer_weight * regularizer
        )

    def changed(self, change: "Change", **fields: Any) -> "Objective":
        """The objective with the options of its losses, also of those within others, changed."""
        for side in ("loss", "regularizer"):
            if (function := getattr(self, side)) is not None:
                fields[side] = _changed(function, side, change)
        return replace(self, **fields)


Change = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Given a loss's path, such as `loss.losses.1`, and its options: its new options."""

Control = Callable[[Objective, StepLogps], Objective]
"""Adapts an objective to the values of the whole step, see `HyperparameterController.control`."""


class HyperparameterController:
    """Resolves scheduled and adaptive hyper-parameters for each step.

    They are named by paths such as `loss.beta` and `loss.losses.1.delta`.

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
        weight: Any = regularizer_weight
        self._configured = Objective(loss, regularizer, weight)
        self._steps = steps
        self._controllers: dict[str, Controller] = {
            path: controller()
            for path, part in _parts(self._configured)
            if (controller := getattr(bare(part), "controller", None)) is not None
        }

    def at_step(self, step: int) -> Objective:
        """The objective of update number `step` (from 0), with numbers in place of schedules."""

        def number(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(number, value))
            return value.at(step, self._steps) if isinstance(value, Schedule) else value

        return self._configured.changed(
            lambda _, options: {name: number(value) for name, value in options.items()},
            regularizer_weight=number(self._configured.regularizer_weight),
        )

    def control(self, objective: Objective, logps: StepLogps) -> Objective:
        """Adapt the objective to the values of the whole step; called once per step."""

        def adapt(path: str, options: dict[str, Any]) -> dict[str, Any]:
            controller = self._controllers.get(path)
            if controller is None:
                return options
            # Within a loss by kind, such as `loss.pairs.delta`, the items of this kind count.
            read = logps.parts.get(path.split(".")[1]) if isinstance(logps, MixedLogps) else logps
            if read is None:
                return options  # a step without items of this kind
            return options | controller.update(read, options)

        return objective.changed(adapt) if self._controllers else objective

    def current_values(self, objective: Objective) -> dict[str, float]:
        """The hyper-parameters that differ between steps, at their values in this objective."""
        adaptive = {
            f"{path}.{name}"
            for path, controller in self._controllers.items()
            for name in controller.gives
        }
        configured, current = _numbers(self._configured), _numbers(objective)
        return {
            path: current[path]
            for path, value in configured.items()
            if isinstance(value, Schedule) or path in adaptive
        }

    def state_dict(self) -> dict[str, dict[str, float]]:
        """The state of every controller by its path; schedules have none."""
        return {path: controller.state_dict() for path, controller in self._controllers.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Continue from a state."""
        for path, controller in self._controllers.items():
            controller.load_state_dict(state[path])


def _changed(function: LossFunction, path: str, change: Change) -> LossFunction:
    # First the loss's own options, then the losses among these, as a controller reads the options
    # that it was configured with.
    options = change(path, options_of(function))
    for name, value in losses_within(partial(function, **options)).items():
        inner = f"{path}.{name}"
        options[name] = (
            tuple(_changed(part, f"{inner}.{i}", change) for i, part in enumerate(value))
            if isinstance(value, tuple)
            else _changed(value, inner, change)
        )
    return partial(function, **options)


def _parts(objective: Objective) -> Iterator[tuple[str, LossFunction]]:
    """All losses of an objective, also those within others, with their paths."""
    for side, function in zip(("loss", "regularizer"), objective.functions, strict=False):
        yield from parts_of(function, side)


def _numbers(objective: Objective) -> dict[str, Any]:
    """Every hyper-parameter by its path."""
    found = {"regularizer_weight": objective.regularizer_weight}
    for path, part in _parts(objective):
        for name, value in options_of(part).items():
            if isinstance(value, tuple):
                found |= {f"{path}.{name}.{i}": item for i, item in enumerate(value)}
            else:
                found[f"{path}.{name}"] = value
    return found
