"""prefine: preference optimization, end to end.

Sample completions, rank them by pairwise judging, make preference pairs, train under a likelihood budget,
evaluate with honest intervals, report. The stable surface is `__all__`.
"""

from importlib.metadata import version

__version__ = version("prefine")
__all__ = ["__version__"]
