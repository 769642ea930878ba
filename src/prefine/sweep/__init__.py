"""Sweeps: one run for each setting and seed, and their comparison."""
