"""Comparison → call → judgment."""
