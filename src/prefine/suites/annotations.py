"""A public annotation file of any known kind → the figures of its models or judges."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from prefine.data.layouts.protocol import has
from prefine.errors import ConfigError, DataError
from prefine.suites import arena_hard, judgments, llmbar
from prefine.suites.alpaca_eval import figures as alpaca_eval
from prefine.suites.alpaca_eval.figures import Extras
from prefine.suites.figures import Figures
from prefine.suites.reading import first_row
from prefine.suites.reward_bench import results as reward_bench


class AnnotationKind(NamedTuple):
    """A kind of file.

    Attributes:
        columns: Alternatives; a row with all columns of one of them is of this kind.
        figures: The figures of a file, from its path, and from `Extras` if it has a use for any.
        extras: The names of the `Extras` that it has a use for.
    """

    columns: tuple[set[str], ...]
    figures: Callable[..., Iterator[Figures]]
    extras: tuple[str, ...] = ()


# The first kind whose columns fit is taken.
KINDS: dict[str, AnnotationKind] = {
    "arena_hard": AnnotationKind(({"model", "games"},), arena_hard.figures),
    "arena_hard_battles": AnnotationKind(
        ({"model_a", "model_b", "winner"},), arena_hard.battle_figures
    ),
    "alpaca_eval_table": AnnotationKind(
        ({"model", "instruction_id", "len_model", "len_baseline", "preference"},),
        alpaca_eval.table_figures,
        ("calibration",),
    ),
    "alpaca_eval": AnnotationKind(
        ({"instruction", "preference"},), alpaca_eval.figures, Extras._fields
    ),
    "llmbar": AnnotationKind(({"label", "results"},), llmbar.figures),
    "llmbar_table": AnnotationKind(
        ({"label", "winner_orig", "winner_swap"},), llmbar.table_figures
    ),
    "judgments": AnnotationKind(({"comparison", "judge"},), judgments.figures),
    "reward_bench_2": AnnotationKind(
        ({"subset", "num_correct", "scores"},), reward_bench.figures_2
    ),
    "reward_bench": AnnotationKind(
        ({"subset", "results"}, {"subset", "scores_chosen", "scores_rejected"}),
        reward_bench.figures,
    ),
}


class FileFigures(NamedTuple):
    """The figures of one file, by model or judge."""

    path: Path
    kind: str
    parts: tuple[Figures, ...]


def annotation_figures(
    path: Path, *, kind: str | None = None, extras: Extras | None = None
) -> FileFigures:
    """The metrics of a public file, a pattern, or a folder of parts.

    Args:
        path: The file.
        kind: Its kind; None recognises it by the columns of its first row.
        extras: For AlpacaEval's files.

    Raises:
        ConfigError: There is no such file or kind, or an extra that its kind has no use for.
        DataError: A row is malformed, or the rows together have no such metrics; the message has
            file, row and value.
    """
    extras, name = extras or Extras(), kind or kind_of(path)
    if name not in KINDS:
        raise ConfigError(f"--kind {name}: unknown; choose one of {', '.join(sorted(KINDS))}")
    for extra, given in extras._asdict().items():
        if given and extra not in KINDS[name].extras:
            users = " and ".join(sorted(k for k, known in KINDS.items() if extra in known.extras))
            raise ConfigError(
                f"--{extra.replace('_', '-')} is for {users}; {path} is {name}: leave it out"
            )
    arguments = (path, extras) if KINDS[name].extras else (path,)
    try:
        return FileFigures(path, name, tuple(KINDS[name].figures(*arguments)))
    except ValueError as error:
        raise DataError(f"{path}: {error}; correct or remove these rows") from error


def kind_of(path: Path) -> str:
    """The kind of a file, a pattern or a folder of parts, from its first row.

    Raises:
        ConfigError: There is no such file.
        DataError: It is empty or damaged, or its columns are of no kind.
    """
    row = first_row(path)
    for name, kind in KINDS.items():
        if any(columns <= row.values.keys() for columns in kind.columns):
            return name
    raise DataError(
        f"{row.where}: no kind of annotations has these columns; {has(row.values)}; name the kind "
        f"with --kind ({', '.join(sorted(KINDS))}) to hear which column it lacks"
    )
