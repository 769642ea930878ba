"""Selectors: a stored ranking → preference pairs; re-runnable without one judge call."""
