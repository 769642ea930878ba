"""The command `compare`: runs side by side, read-only."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from prefine.cli.ending import terminal_columns, visible
from prefine.cli.options import AsJson, place_to_read
from prefine.errors import ConfigError


def compare(
    runs: Annotated[
        list[str],
        Argument(
            metavar="RUN RUN...",
            help="Run folders or their URLs, also rounds and trials of sweeps; the first is "
            "compared with.",
        ),
    ],
    common: Annotated[
        bool,
        Option("--common", help="Where evaluation prompts differ, compare on those that all have."),
    ] = False,
    prompts: Annotated[
        int,
        Option(min=0, metavar="N", help="Show so many prompts on which runs are furthest apart."),
    ] = 8,
    html: Annotated[
        Path | None,
        Option(metavar="FILE", help="Write a page, with curves and answers side by side."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Compare runs: settings that differ, paired differences of scores, prompts far apart.

    Nothing is written into a run; runs that still work, or have stopped, are compared as far as
    they are. `--json` prints runs, settings, evaluated, prompts, scores, furthest_apart and notes.
    """
    from prefine.compare.page import page
    from prefine.compare.results import comparison
    from prefine.compare.runs import read_runs
    from prefine.compare.text import as_text

    places = [place_to_read(run) for run in runs]
    if html is not None:
        _check_place(html, places)
    read = read_runs(places)
    found = comparison(read, common=common, shown=prompts)
    if json_:
        typer.echo(json.dumps(found.model_dump(mode="json"), ensure_ascii=False, allow_nan=False))
    else:
        typer.echo(visible(as_text(found, columns=terminal_columns() or 100)))
    if html is not None:
        _write(html, page(found, read))
        if not json_:
            typer.echo(f"\npage: {html}")


def _check_place(html: Path, runs: Sequence[Path]) -> None:
    for run in runs:
        if run.resolve() in html.resolve().parents:
            raise ConfigError(
                f"--html {html}: lies in the run {run}, and a comparison writes into no run; "
                "choose another place"
            )


def _write(html: Path, text: str) -> None:
    try:
        html.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {html}: the page cannot be written: {error.strerror}") from error
