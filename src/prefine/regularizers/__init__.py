"""Regularizers: same signature as losses; added to any loss with `regularizer_weight`."""
