"""Regularizers: same signature as losses; added to any loss with `regularizer_weight`."""

from prefine.regularizers.budget import budget
from prefine.regularizers.nll import nll
from prefine.regularizers.step_budget import step_budget

__all__ = ["budget", "nll", "step_budget"]
