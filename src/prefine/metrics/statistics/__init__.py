"""Intervals, resampling, regressions and tests that all metrics share."""
