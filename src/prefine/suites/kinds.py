"""Which kind of annotation file a file is, by the columns of its first row."""

from pathlib import Path
from typing import Literal, get_args

from prefine.data.layouts.protocol import Values, has
from prefine.errors import ConfigError, DataError
from prefine.suites.reading import first_row

Kind = Literal[
    "alpaca_eval",
    "alpaca_eval_table",
    "arena_hard",
    "arena_hard_battles",
    "llmbar",
    "llmbar_table",
    "judgments",
    "reward_bench",
    "reward_bench_2",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Alternatives; a row with all columns of one of them is of this kind. The first kind that fits is
# taken.
_COLUMNS: dict[Kind, tuple[set[str], ...]] = {
    "arena_hard": ({"model", "games"},),
    "arena_hard_battles": ({"model_a", "model_b", "winner"},),
    "alpaca_eval_table": ({"model", "instruction_id", "len_model", "len_baseline", "preference"},),
    "alpaca_eval": ({"instruction", "preference"},),
    "llmbar": ({"label", "results"},),
    "llmbar_table": ({"label", "winner_orig", "winner_swap"},),
    "judgments": ({"comparison", "judge"},),
    "reward_bench_2": ({"subset", "num_correct", "scores"},),
    "reward_bench": ({"subset", "results"}, {"subset", "scores_chosen", "scores_rejected"}),
}


def kind_called(name: str) -> Kind:
    """The kind of this name.

    Raises:
        ConfigError: There is none.
    """
    for kind in KINDS:
        if kind == name:
            return kind
    raise ConfigError(f"--kind {name}: unknown; choose one of {', '.join(KINDS)}")


def kind_of(path: Path) -> Kind:
    """The kind of a file, a pattern or a folder of parts, from its first row.

    Raises:
        ConfigError: There is no such file.
        DataError: It is empty or damaged, or its columns are of no kind.
    """
    row = first_row(path)
    if (kind := _kind(row.values)) is not None:
        return kind
    raise DataError(
        f"{row.where}: no kind of annotations has these columns; {has(row.values)}; name the kind "
        "with --kind "
        f"({', '.join(KINDS)}) to hear which column it lacks"
    )


def _kind(values: Values) -> Kind | None:
    for kind, alternatives in _COLUMNS.items():
        if any(columns <= values.keys() for columns in alternatives):
            return kind
    return None
