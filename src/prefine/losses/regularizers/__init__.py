"""Regularizers: same signature as losses; added to any loss with `regularizer_weight`."""

from prefine.losses.regularizers.budget import budget
from prefine.losses.regularizers.nll import nll
from prefine.losses.regularizers.step_budget import step_budget

__all__ = ["budget", "nll", "step_budget"]
