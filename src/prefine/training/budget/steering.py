"""The automatic budget of a training: measure the probe, move the weight, say what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from prefine.losses.facts import option_of
from prefine.records import Record
from prefine.training.budget.anchors import AnchorPull, AnchorSets
from prefine.training.budget.controller import WeightController
from prefine.training.budget.feasibility import Feasibility
from prefine.training.budget.probe import Probe
from prefine.training.budget.settings import AutomaticBudget
from prefine.training.objective.objective import Objective

if TYPE_CHECKING:
    from prefine.training.objective.gradient import StepTerms

_SMALLEST = 1e-3
"""The error is divided by at least this, in the budget's unit, so that rounding is no error."""


class BudgetRow(Record):
    """A measurement of the probe after `step` updates, and the weight of the updates from there.

    `fall` is in the budget's unit, `weight` in units of the loss's `slope`: what the objective has
    is their product, `regularizer_weight`. `infeasible` says that more weight no longer helped. At
    the end of training the untouched items are measured, too; `untouched` counts their answers.
    """

    step: int
    delta: float | None
    fall: float
    fall_se: float
    weight: float
    slope: float
    regularizer_weight: float
    at_largest: bool
    infeasible: bool
    learning_rate_factor: float
    untouched_fall: float | None = None
    untouched_fall_se: float | None = None
    untouched: int = 0

    @property
    def headline(self) -> str:
        """The row in a few words."""
        return f"probe fell {self.fall:.2f}, weight {self.regularizer_weight:.3g}"


@dataclass
class BudgetSteering:
    """Sets the weight of the budget between the updates of a training.

    Args:
        budget: The options.
        probe: What is measured.
        untouched: What is measured once, at the end.
        anchors: What the weight pulls at beside the items' own answers.
        controller: Moves the weight.
        feasibility: Notices that weight no longer helps.
        slope: Mean size of the loss's derivative in the log-probability of a scored token, in units
            of that of the mean negative log-probability; 0 until it is known.
        learning_rate_factor: Of the scheduled learning rate.
        stopped: The budget is infeasible and training ends for it.
        reached: The largest weight so far.
        infeasible: How often more weight did not help.
    """

    budget: AutomaticBudget
    probe: Probe
    untouched: Probe
    anchors: AnchorSets
    controller: WeightController = field(init=False)
    feasibility: Feasibility = field(default_factory=Feasibility)
    slope: float = 0.0
    learning_rate_factor: float = 1.0
    stopped: bool = False
    reached: float = 0.0
    infeasible: int = 0

    def __post_init__(self) -> None:
        self.controller = controller_of(self.budget)

    @property
    def regularizer_weight(self) -> float:
        """The weight of the objective."""
        return self.controller.weight * self.slope

    def is_due(self, step: int) -> bool:
        """Return True if the probe is measured before update number `step` (from 0)."""
        return step % self.budget.every == 0

    def rows(self, step: int) -> int:
        """The measurements before update number `step`."""
        return -(-step // self.budget.every)

    def measure(
        self,
        step: int,
        objective: Objective,
        *,
        climbing: float | None = None,
        last: bool = False,
    ) -> BudgetRow:
        """Measure the probe before update number `step` and move the weight.

        Args:
            step: Updates made so far.
            objective: Its regularizer has the current delta.
            climbing: The delta of `delta: auto`, in place of that.
            last: Training is over; the untouched half is measured, too.
        """
        assert objective.regularizer is not None, "the objective has the pull of the budget"
        delta = option_of(objective.regularizer, "delta") if climbing is None else climbing
        fall, error = self.probe.fall(self.budget)
        infeasible = False
        if delta is not None:
            infeasible = self.feasibility.update(
                fall,
                error,
                delta=delta,
                weight=self.controller.weight,
                largest=self.budget.largest_weight,
            )
            self.controller.update(relative_error(fall, delta, error))
            self.reached = max(self.reached, self.controller.weight)
        if infeasible:
            self.infeasible += 1
            # At the end there is nothing left to stop: an alarm or the last step has ended it.
            self.stopped |= self.budget.infeasible == "stop" and not last
            if self.budget.infeasible == "lower_learning_rate":
                self.learning_rate_factor /= 2
        promised = self.untouched.fall(self.budget) if last else None
        return BudgetRow(
            step=step,
            delta=delta,
            fall=fall,
            fall_se=error,
            weight=self.controller.weight,
            slope=self.slope,
            regularizer_weight=self.regularizer_weight,
            at_largest=self.controller.weight >= self.budget.largest_weight,
            infeasible=infeasible,
            learning_rate_factor=self.learning_rate_factor,
            untouched_fall=promised and promised.value,
            untouched_fall_se=promised and promised.standard_error,
            untouched=len(self.untouched.items) if last else 0,
        )

    def weighted(self, objective: Objective) -> Objective:
        """The objective with the current weight on the step's own answers."""
        share = self.budget.shares.get("chosen", 0.0)
        return replace(objective, regularizer_weight=share * self.regularizer_weight)

    def pull(self, step: int) -> AnchorPull | None:
        """The pull at the other anchors at update number `step`."""
        return self.anchors.pull(step, self.regularizer_weight)

    def learn_slope(self, terms: "StepTerms") -> None:
        """Take the loss's slope from the first step that has one."""
        if terms.slopes is not None:
            share = terms.table.weight / terms.table.weight.sum()
            unit = share
            if self.budget.per == "sequence":
                counts = terms.table.counts.to(share.device)
                unit = share.repeat_interleave(counts) * terms.table.tokens
                unit = unit / counts.repeat_interleave(counts)
            self.slope = float(terms.slopes.double().sum() / unit.double().sum())

    def go_back(self, state: Mapping[str, float]) -> None:
        """Take the controller's state of earlier weights; counts for the notes go on."""
        self.controller.load_state_dict(state)
        self.feasibility = Feasibility()

    def notes(self) -> list[str]:
        """Notes on how the budget went, for the end."""
        budget = self.budget
        if budget.delta is None:
            return []
        if not self.reached:
            return [
                "the budget never bound: the probe's fall stayed so far below delta that the "
                "weight was 0 throughout; this is the training without a budget"
            ]
        found = []
        if self.reached >= budget.largest_weight:
            found.append(
                f"the budget's weight reached its largest, {budget.largest_weight:g} times the "
                "loss's slope: the budget is not feasible at this learning rate; lower it, train "
                "for less long, or raise delta"
            )
        if self.infeasible:
            found.append(
                f"more weight no longer lowered the probe's fall ({self.infeasible} times): the "
                f"budget is infeasible (train.regularizer.infeasible: {budget.infeasible})"
            )
        return found

    def state_dict(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        return {
            "slope": self.slope,
            "learning_rate_factor": self.learning_rate_factor,
            "stopped": float(self.stopped),
            "reached": self.reached,
            "infeasible": float(self.infeasible),
            **self.controller.state_dict(),
            **self.feasibility.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a state."""
        self.slope, self.reached = state["slope"], state["reached"]
        self.learning_rate_factor = state["learning_rate_factor"]
        self.stopped, self.infeasible = bool(state["stopped"]), int(state["infeasible"])
        self.controller.load_state_dict(state)
        self.feasibility.load_state_dict(state)


def controller_of(budget: AutomaticBudget) -> WeightController:
    """The controller with the gains of a budget."""
    return WeightController(
        budget.gain,
        budget.proportional,
        budget.integral,
        budget.smoothing,
        budget.largest_weight,
    )


def relative_error(fall: float, delta: float, standard_error: float) -> float:
    """The excess of a fall over delta, in units of delta or, if larger, its standard error."""
    return (fall - delta) / max(abs(delta), standard_error, _SMALLEST)
