"""Regularizers: same signature as losses; added to any loss with `regularizer_weight`."""

from prefine.regularizers.budget import budget
from prefine.regularizers.nll import nll

__all__ = ["budget", "nll"]
