"""prefine: preference optimization, end to end.

Sample completions, rank them by pairwise judging, make preference pairs, train under a likelihood
budget, evaluate with confidence intervals, report. The stable surface is `__all__`; its names are
imported on first use.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from prefine.lazy import lazy_exports

if TYPE_CHECKING:
    from prefine import losses, metrics, ranking, regularizers
    from prefine.api.data import make_labels, make_lists, make_pairs, rank, sample
    from prefine.api.evaluating import evaluate
    from prefine.api.frames import Records
    from prefine.api.reading import read_completions, read_pairs, read_prompts
    from prefine.api.simulating import simulate
    from prefine.api.training import Trained, train
    from prefine.config.training import TrainConfig
    from prefine.records import (
        Completion,
        LabelledCompletion,
        PreferenceList,
        PreferencePair,
        Prompt,
        Ranking,
    )
    from prefine.simulator import JudgeModel, Prices
    from prefine.training.sequence_logps import sequence_logps

__version__ = version("prefine")
__all__ = [
    "Completion",
    "JudgeModel",
    "LabelledCompletion",
    "PreferenceList",
    "PreferencePair",
    "Prices",
    "Prompt",
    "Ranking",
    "Records",
    "TrainConfig",
    "Trained",
    "__version__",
    "evaluate",
    "losses",
    "make_labels",
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
    "sequence_logps",
    "simulate",
    "train",
]

_HOMES = {
    "prefine": ("losses", "metrics", "ranking", "regularizers"),
    "prefine.api.reading": ("read_completions", "read_pairs", "read_prompts"),
    "prefine.api.data": ("make_labels", "make_lists", "make_pairs", "rank", "sample"),
    "prefine.api.evaluating": ("evaluate",),
    "prefine.api.frames": ("Records",),
    "prefine.api.simulating": ("simulate",),
    "prefine.api.training": ("Trained", "train"),
    "prefine.config.training": ("TrainConfig",),
    "prefine.records": (
        "Completion",
        "LabelledCompletion",
        "PreferenceList",
        "PreferencePair",
        "Prompt",
        "Ranking",
    ),
    "prefine.simulator": ("JudgeModel", "Prices"),
    "prefine.training.sequence_logps": ("sequence_logps",),
}
__getattr__, __dir__, _ = lazy_exports(__name__, _HOMES)
