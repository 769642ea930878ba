"""The likelihood budget that a configuration sets."""

from typing import TYPE_CHECKING, NamedTuple

from prefine.config.sections import RunConfig
from prefine.report.data import BudgetPer, fall_unit
from prefine.schedules import last

if TYPE_CHECKING:  # its module imports torch
    from prefine.training.budget.settings import AutomaticBudget


class Budget(NamedTuple):
    """The fall that chosen answers may have at the end of training."""

    delta: float
    per: BudgetPer
    of: str = "mean"

    @property
    def fall(self) -> str:
        """The column of the logs that it limits."""
        return "token_fall" if self.per == "token" else "fall"

    @property
    def unit(self) -> str:
        """The unit of delta and of the fall."""
        return fall_unit(self.per)


def budget_of(config: RunConfig) -> Budget | None:
    """The budget of the configured regularizer, if it has one and it is a number."""
    regularizer = config.train.regularizer
    if regularizer is None or regularizer.name not in ("budget", "step_budget"):
        return None
    kind = config.train.regularizer_kind
    options = regularizer.options
    if not isinstance(options.get("delta"), int | float) or options.get("of", "mean") != "mean":
        # Defaults and schedules are known to the regularizer, whose module imports torch.
        options = regularizer.resolve(kind, where="train.regularizer").keywords
    if options["delta"] in (None, "auto"):
        return None  # what `auto` has chosen is in the manifest's notes
    delta = last(options["delta"])
    of = "mean" if options.get("of", "mean") == "mean" else f"{options['quantile']:g} quantile"
    return Budget(delta, "token" if options.get("per") == "token" else "sequence", of)


def automatic_budget(config: RunConfig) -> "AutomaticBudget | None":
    """The configured budget whose weight is set during training; None without one.

    Raises:
        ConfigError: Its options do not go together.
    """
    settings = config.train
    if settings.regularizer is None or settings.regularizer_weight != "auto":
        return None
    bound = settings.regularizer.resolve("automatic", where="train.regularizer")
    budget: AutomaticBudget = bound()
    budget.check()
    return budget
