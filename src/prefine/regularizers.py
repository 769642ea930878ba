"""The regularizers, each imported on first use; they live in `prefine.losses.regularizers`."""

from prefine.config.components import TABLES
from prefine.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {home.partition(":")[0]: (name,) for name, home in TABLES["regularizer"].items()},
)
