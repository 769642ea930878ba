"""`prefine evaluate annotations`: public files → their metrics, as tables or as JSON."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from prefine.errors import ConfigError
from prefine.records import MetricValue
from prefine.suites.alpaca_eval.figures import Extras
from prefine.suites.annotations import FileFigures, annotation_figures

WIDTH, NARROWEST = 120, 80
"""Columns of the tables: as many as a terminal has, within these."""


def figures(
    files: Sequence[Path],
    *,
    kind: str | None,
    outputs: Path | None,
    baseline_outputs: Path | None,
    calibration: Sequence[Path],
) -> list[FileFigures]:
    """The figures of every file, before anything is printed.

    Raises:
        ConfigError: There is no such kind or file, or an option does not fit.
        DataError: A file holds something else.
    """
    if outputs is not None and len(files) > 1:
        raise ConfigError(
            f"--outputs {outputs}: of one model; give one file of annotations, not {len(files)}"
        )
    extras = Extras(outputs, baseline_outputs, tuple(calibration))
    return [annotation_figures(path, kind=kind, extras=extras) for path in files]


def as_json(found: Sequence[FileFigures]) -> str:
    """The figures as JSON; a metric that does not exist is null."""
    files = [
        {
            "file": str(one.path),
            "kind": one.kind,
            "parts": [
                {
                    "of": part.of,
                    "metrics": [metric.model_dump(mode="json") for metric in part.metrics],
                    "notes": list(part.notes),
                }
                for part in one.parts
            ],
        }
        for one in found
    ]
    return json.dumps({"files": files}, ensure_ascii=False, allow_nan=False)


def as_text(found: Sequence[FileFigures], *, columns: int = WIDTH) -> str:
    """A table for people, one for each model or judge, with its notes below."""
    written = io.StringIO()
    console = Console(
        file=written, width=max(NARROWEST, min(WIDTH, columns)), highlight=False, markup=False
    )
    for one in found:
        console.print(f"{one.path}: {one.kind}")
        for part in one.parts:
            console.print()
            console.print(part.of)
            console.print(_table(part.metrics))
            for note in part.notes:
                console.print(note)
        console.print()
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip().splitlines())


def _table(metrics: Sequence[MetricValue]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("metric", overflow="fold")
    for name in ("n", "value", "standard error", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for metric in metrics:
        low, high = metric.interval or (None, None)
        table.add_row(
            metric.name,
            f"{metric.n:,}",
            f"{_number(metric.value)}{f' {metric.unit}' if metric.unit else ''}",
            _number(metric.standard_error),
            "–" if metric.interval is None else f"{_number(low)} … {_number(high)}",
        )
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
