"""Intervals of means that are close to normal."""

NORMAL_QUANTILE = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


def normal_interval(mean: float, standard_error: float) -> tuple[float, float]:
    """Return the 95 % interval of a normal mean."""
    reach = NORMAL_QUANTILE * standard_error
    return mean - reach, mean + reach
