"""Preference losses: pure functions of log-probabilities, each imported on first use."""

from prefine.config.components import TABLES
from prefine.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "prefine.losses.protocol": ("ListLogps", "PairLogps", "PointLogps", "TokenLogps"),
        **{
            home.partition(":")[0]: (name,)
            for name, home in TABLES["loss"].items()
            if name != "nll"
        },
    },
)
