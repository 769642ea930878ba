"""prefine: preference optimization, end to end.

Sample completions, rank them by pairwise judging, make preference pairs, train under a likelihood budget,
evaluate with honest intervals, report. The stable surface is `__all__`; what is in it is imported on first use.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefine import losses, metrics, ranking, regularizers
    from prefine.api.data import make_lists, make_pairs, rank, sample
    from prefine.api.evaluating import evaluate
    from prefine.api.reading import read_completions, read_pairs, read_prompts
    from prefine.api.simulating import simulate
    from prefine.api.training import Trained, train
    from prefine.config import TrainConfig
    from prefine.ranking.simulator import JudgeModel, Prices
    from prefine.records import Completion, PreferenceList, PreferencePair, Prompt, Ranking

__version__ = version("prefine")
__all__ = [
    "Completion",
    "JudgeModel",
    "PreferenceList",
    "PreferencePair",
    "Prices",
    "Prompt",
    "Ranking",
    "TrainConfig",
    "Trained",
    "__version__",
    "evaluate",
    "losses",
    "make_lists",
    "make_pairs",
    "metrics",
    "rank",
    "ranking",
    "read_completions",
    "read_pairs",
    "read_prompts",
    "regularizers",
    "sample",
    "simulate",
    "train",
]

_HOMES = {
    "prefine.api.reading": ("read_completions", "read_pairs", "read_prompts"),
    "prefine.api.data": ("make_lists", "make_pairs", "rank", "sample"),
    "prefine.api.evaluating": ("evaluate",),
    "prefine.api.simulating": ("simulate",),
    "prefine.api.training": ("Trained", "train"),
    "prefine.config": ("TrainConfig",),
    "prefine.ranking.simulator": ("JudgeModel", "Prices"),
    "prefine.records": ("Completion", "PreferenceList", "PreferencePair", "Prompt", "Ranking"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    if name in __all__:
        return importlib.import_module(f"prefine.{name}")
    raise AttributeError(f"module 'prefine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
