"""The regularizers, under the name that the package exports; see `prefine.losses.regularizers`."""

from prefine.losses.regularizers import budget, nll, step_budget

__all__ = ["budget", "nll", "step_budget"]
