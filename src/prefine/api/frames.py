"""Lists of records that become DataFrames and Datasets, and rows of either as plain dicts."""

import importlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex, TypeVar, overload

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from prefine.errors import ConfigError
from prefine.records import Completion, PreferenceList, PreferencePair, Prompt
from prefine.run.item_rows import list_row, pair_row
from prefine.run.rows import answer_row, prompt_row
from prefine.run.tables import SCHEMAS

R = TypeVar("R", bound=BaseModel)
_ROWS: dict[type, Any] = {
    Completion: answer_row,
    PreferenceList: list_row,
    PreferencePair: pair_row,
    Prompt: prompt_row,
}
_SCHEMAS = {PreferenceList: SCHEMAS["lists"], PreferencePair: SCHEMAS["pairs"]}
_SHOWN = 3


class Records(list[R]):
    """A list of records with a short `repr`, which pandas and `datasets` can take.

    Of pairs and lists the columns are those of the run folder: `prompt`, `chosen` and `rejected` as
    TRL reads them, and `prefine_*` columns, with which `read_pairs` gives the same pairs again.
    """

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row per record.

        Raises:
            ConfigError: pandas is not installed.
        """
        return _needed("pandas", "pandas").DataFrame(self._rows())

    def to_dataset(self) -> Any:
        """Return a `datasets.Dataset` with a row per record.

        Raises:
            ConfigError: datasets is not installed.
        """
        schema = _SCHEMAS.get(type(self[0])) if self else None
        return _needed("datasets", "prefine[train]").Dataset(
            pa.Table.from_pylist(self._rows(), schema=schema)
        )

    def _rows(self) -> list[dict[str, Any]]:
        return [_ROWS.get(type(one), _dumped)(one) for one in self]

    @overload
    def __getitem__(self, index: SupportsIndex) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> "Records[R]": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "R | Records[R]":
        """Return a record, or several as `Records`."""
        if isinstance(index, slice):
            return Records(super().__getitem__(index))
        return super().__getitem__(index)

    def __repr__(self) -> str:
        shown = "".join(f"  {one!r},\n" for one in self[:_SHOWN])
        more = f"  … {len(self) - _SHOWN:,} more\n" if len(self) > _SHOWN else ""
        return f"[\n{shown}{more}]" if self else "[]"


def rows_of(source: Any, *, what: str) -> Iterator[Any]:
    """Yield the items of a source; of a DataFrame its rows, with None where a cell is empty.

    Raises:
        ConfigError: It is a `DatasetDict`: which split is meant is not said. Or it has no rows.
    """
    if isinstance(source, Mapping):
        raise ConfigError(
            f"{what}: this has the splits {', '.join(map(str, source))}; give one of them, such as "
            f"data[{next(iter(source), 'train')!r}]"
        )
    if hasattr(source, "iterrows") and hasattr(source, "columns"):
        names = [str(name) for name in source.columns]
        for cells in source.itertuples(index=False, name=None):
            yield dict(zip(names, map(_plain, cells), strict=True))
    elif not isinstance(source, Iterable):
        raise ConfigError(
            f"{what}: expected a path, a DataFrame, a data set or a list of rows, got {source!r}"
        )
    else:
        yield from source


def has_splits(source: Any) -> bool:
    """Return True for a `datasets.DatasetDict`, or a dict of datasets or DataFrames."""
    return isinstance(source, Mapping) and any(
        hasattr(one, "column_names") or hasattr(one, "iterrows") for one in source.values()
    )


def _plain(cell: Any) -> Any:
    """Return a cell of a DataFrame as Python's own value."""
    if isinstance(cell, np.ndarray | np.generic):
        cell = cell.tolist()
    if isinstance(cell, list | tuple):
        return [_plain(item) for item in cell]
    if isinstance(cell, dict):
        return {name: _plain(item) for name, item in cell.items()}
    missing = cell is getattr(sys.modules.get("pandas"), "NA", math)
    return None if missing or (isinstance(cell, float) and math.isnan(cell)) else cell


def _dumped(record: BaseModel) -> dict[str, Any]:
    return record.model_dump(mode="json")


def _needed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{module} is not installed; pip install '{package}'") from error
