"""Regularizers, one file each: same signature as losses; added with `regularizer_weight`."""
