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
from prefine.suites.figures import Figures

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
    """Tables for people: of all models or judges, best first, then one of each with its notes."""
    written = io.StringIO()
    console = Console(
        file=written, width=max(NARROWEST, min(WIDTH, columns)), highlight=False, markup=False
    )
    for one in found:
        console.print(f"{one.path}: {one.kind}", soft_wrap=True)
        if len(one.parts) > 1:
            console.print()
            console.print(_summary(one.parts))
        for part in one.parts:
            console.print()
            console.print(part.of)
            console.print(_table(part.metrics))
            for note in part.notes:
                console.print(note)
        console.print()
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip().splitlines())


def _summary(parts: Sequence[Figures]) -> Table:
    """Return a row for each part by the first figure that all have, controlled if there is one."""
    values = {part.of: {metric.name: metric for metric in part.metrics} for part in parts}
    shared = [
        metric.name
        for metric in parts[0].metrics
        if all(metric.name in found for found in values.values())
    ]
    main = next((name for name in shared if "controlled" in name), shared[0] if shared else "")
    names = list(dict.fromkeys([main, *shared[:1]])) if main else []
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("best first" if main else "", overflow="fold")
    table.add_column("n", justify="right")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    best_first = sorted(values, key=lambda of: -values[of][main].value if main else 0.0)
    for of in best_first:
        found = [values[of][name] for name in names]
        table.add_row(of, f"{found[0].n:,}" if found else "", *map(_with_interval, found))
    return table


def _with_interval(metric: MetricValue) -> str:
    value = f"{_number(metric.value)}{f' {metric.unit}' if metric.unit else ''}"
    if metric.interval is None:
        return value
    low, high = metric.interval
    return f"{value} [{_number(low)}, {_number(high)}]"


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
