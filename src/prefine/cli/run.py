"""The commands `run` and `demo`: all stages, one after the other."""

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from prefine.cli.ending import complain, visible
from prefine.cli.options import (
    AsJson,
    ConfigPath,
    Overrides,
    RunDir,
    Strict,
    kept_at_its_url,
    load_config,
)
from prefine.cli.processes import refuse_others, refuse_several
from prefine.errors import ConfigError

if TYPE_CHECKING:
    from prefine.config.sections import RunConfig
    from prefine.records import Manifest

_DEMO_KEYS = {
    *("win_rate", "interval", "chosen_fall", "held_out_fall", "delta", "budget"),
    *("seconds", "report", "warnings"),
}


def run(
    config: ConfigPath,
    set_: Overrides = None,
    run_dir: RunDir = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check everything and print the plan; do nothing.")
    ] = False,
    offline: Annotated[
        bool,
        Option("--offline", help="With --dry-run: ask no server whether it is there."),
    ] = False,
    strict: Strict = False,
    json_: AsJson = False,
) -> None:
    """Run all stages, from whatever the configuration starts with to the report.

    Run the same command again to resume: a call whose answer was journaled is never repeated.
    With a section `rounds` it runs one round after the other.
    """
    if offline and not dry_run:
        raise ConfigError("--offline: is for --dry-run; a run asks its servers")
    refuse_others()
    loaded = load_config(config, set_, run_dir)
    if loaded.rounds is not None:
        from prefine.cli.rounds import run_in_rounds

        with nullcontext() if dry_run else kept_at_its_url(loaded):
            run_in_rounds(loaded, dry_run=dry_run, offline=offline, strict=strict, as_json=json_)
    elif dry_run:
        _print_plan(loaded, strict=strict, offline=offline, as_json=json_)
    else:
        _run_all(loaded, json_, strict=strict)


def demo(
    run_dir: Annotated[str, Option(metavar="DIR", help="The run folder.")] = "runs/demo",
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Make the embedded playground model measurably better, on this machine, without any download.

    A few minutes on two CPU cores. `--json` prints win_rate, interval, chosen_fall, held_out_fall,
    delta, budget (kept, exceeded or undecided), seconds, report and warnings.
    """
    from importlib.resources import files

    refuse_others()
    path = Path(str(files("prefine.playground") / "demo.yaml"))
    _run_all(load_config(path, set_, run_dir), json_, demo=True)


def _run_all(
    config: "RunConfig", as_json: bool, *, strict: bool = False, demo: bool = False
) -> None:
    from prefine.api.progress import ShownProgress
    from prefine.run.folder import RunFolder
    from prefine.stages.check import check
    from prefine.stages.pipeline import lines_of, result_of, run_all
    from prefine.stages.template_date import with_first_day

    refuse_several("prefine demo" if demo else "prefine run")
    began = time.monotonic()
    config = with_first_day(config)
    for note in check(config, strict=strict).notes:
        complain(note)
    with kept_at_its_url(config), RunFolder(config.run_dir) as folder:
        with ShownProgress() as progress:
            manifests = run_all(config, folder, progress)
        seconds = max(time.monotonic() - began, sum(manifest.wall_time_s for manifest in manifests))
        result = result_of(config, folder, seconds)
    if as_json:
        values = result.model_dump(mode="json", include=_DEMO_KEYS if demo else None)
        typer.echo(json.dumps(values, ensure_ascii=False))
        return
    print_manifests(manifests, False)
    typer.echo("")
    for line in lines_of(result):
        typer.echo(line)
    for warning in result.warnings:
        typer.echo(f"\nwarning: {visible(warning)}")
    typer.echo(f"\nreport: {result.report}")


def _print_plan(config: "RunConfig", *, strict: bool, offline: bool, as_json: bool) -> None:
    from prefine.stages.plan import plan

    made = plan(config, strict=strict, offline=offline)
    if as_json:
        plain = {name: value for name, value in made._asdict().items() if name != "amounts"}
        values = {"folder": str(config.run_dir), **plain, "lines": made.values}
        typer.echo(json.dumps(values, ensure_ascii=False))
        return
    width = max(len(name) for name, _ in made.lines)
    typer.echo(f"stages: {' → '.join(made.stages)}")
    typer.echo(f"folder: {config.run_dir}")
    for name, amount in made.lines:
        typer.echo(f"{name:<{width}}  {amount:>12}")
    for note in made.notes:
        typer.echo(visible(note))
    for name in made.imports:
        typer.echo(f"imports your code: {name}")
    typer.echo("not checked:")
    for line in made.unchecked:
        typer.echo(f"  {visible(line)}")


def print_manifests(manifests: "list[Manifest]", as_json: bool) -> None:
    """Print what stages took and produced, a line each."""
    if as_json:
        rows = [manifest.model_dump(mode="json") for manifest in manifests]
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    for manifest in manifests:
        counts = manifest.counts
        asides = [
            f"{count:,} {why.replace('_', ' ')}"
            for why, count in (counts.failed | counts.dropped).items()
        ]
        if manifest.usage.cost:
            asides.append(f"{manifest.usage.calls:,} calls, cost {manifest.usage.cost:.4g}")
        line = (
            f"{manifest.stage:<9} {counts.taken:>7,} → {counts.produced:>7,}"
            f"  {manifest.wall_time_s:7.1f} s"
        )
        typer.echo(line + (f"  ({visible(', '.join(asides))})" if asides else ""))
        for note in manifest.notes:
            # Rows that were set aside have been reported before the run.
            if not note.startswith("set aside"):
                typer.echo(f"          {visible(note)}")
