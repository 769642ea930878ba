"""The command `sweep`: one run for each setting and seed, and what they say together."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from prefine.cli.ending import complain, visible
from prefine.cli.options import AsJson, ConfigPath, Overrides
from prefine.cli.processes import refuse_several

RESULT, PAGE = "sweep.json", "sweep.html"


def sweep(
    config: ConfigPath,
    set_: Overrides = None,
    run_dir: Annotated[
        str | None, Option("--run-dir", metavar="DIR", help="The folder of the trials.")
    ] = None,
    jobs: Annotated[
        int | None,
        Option(min=1, metavar="N", help="Trials at a time; the number of GPUs, or 1 without any."),
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check all trials and list them; do nothing.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Run a configuration once for every setting and seed of its section `sweep`, and compare.

    Run the same command again to resume: trials that have ended are left as they are.
    """
    from prefine.api.progress import ShownProgress
    from prefine.atomic import write_text
    from prefine.models.hf.loading import visible_gpus
    from prefine.sweep.page import page
    from prefine.sweep.results import results
    from prefine.sweep.run import check_all, run_trials
    from prefine.sweep.text import lines_of
    from prefine.sweep.trials import read_trials

    refuse_several("prefine sweep")
    found = read_trials(Path(config), set_ or (), run_dir)
    for note in check_all(found):
        complain(note)
    if dry_run:
        for trial in found.trials:
            typer.echo(visible(f"{trial.name}  {trial.config.run_dir}"))
        typer.echo(f"{len(found.trials)} trials")
        return
    with ShownProgress() as progress:
        gpus = visible_gpus()
        environments = [_with_one_gpu(gpus, worker) for worker in range(jobs or gpus)]
        run_trials(found, progress, environments=environments)
    result = results(found)
    shown = found.trials[0].config.report.title
    write_text(found.folder / RESULT, result.model_dump_json(indent=1) + "\n")
    write_text(found.folder / PAGE, page(result, f"{shown}: sweep"))
    if json_:
        typer.echo(json.dumps(result.model_dump(mode="json"), ensure_ascii=False))
        return
    for line in lines_of(result):
        typer.echo(visible(line))
    typer.echo(f"\nreport: {(found.folder / PAGE).resolve()}")


def _with_one_gpu(gpus: int, worker: int) -> dict[str, str]:
    """This process's environment, with one of its GPUs visible where there are any."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(gpus)]
    visible = {"CUDA_VISIBLE_DEVICES": names[worker % len(names)]} if names else {}
    return {**os.environ, **visible}
