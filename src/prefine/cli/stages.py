"""Commands that run stages: all of them (`run`, `demo`), or one."""

import json
import time
from collections.abc import Callable
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
from prefine.cli.processes import launched, refuse_others, refuse_several, train_together
from prefine.errors import ConfigError

if TYPE_CHECKING:
    from prefine.config.sections import RunConfig
    from prefine.records import Manifest

_READS_ROWS = ("sample", "pair", "evaluate")
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


def _stage_command(stage: str, text: str) -> Callable[..., None]:
    """Return the command of a stage; `text` is its help."""

    def command(
        config: ConfigPath, set_: Overrides = None, run_dir: RunDir = None, json_: AsJson = False
    ) -> None:
        _run_one(stage, config, set_, run_dir, json_)

    def strict_command(
        config: ConfigPath,
        set_: Overrides = None,
        run_dir: RunDir = None,
        strict: Strict = False,
        json_: AsJson = False,
    ) -> None:
        _run_one(stage, config, set_, run_dir, json_, strict=strict)

    made = strict_command if stage in _READS_ROWS else command
    made.__doc__ = text
    return made


sample = _stage_command("sample", "Sample completions, or import existing ones.")
rank = _stage_command("rank", "Rank each prompt's completions by the judge.")
pair = _stage_command("pair", "Select preference pairs from the rankings; asks no judge.")
bridge = _stage_command(
    "bridge", "Rewrite rejected answers towards the chosen ones; asks a model and a judge."
)
train = _stage_command("train", "Train the policy on the pairs.")
evaluate = _stage_command("evaluate", "Compare the trained model with its baseline.")
report = _stage_command("report", "Write report.html from what the run folder holds.")


def _run_one(
    stage: str,
    config: str,
    overrides: list[str] | None,
    run_dir: str | None,
    as_json: bool,
    *,
    strict: bool = False,
) -> None:
    from prefine.api.progress import ShownProgress
    from prefine.run.config_changes import STAGE_SECTIONS
    from prefine.run.folder import RunFolder
    from prefine.stages.check import check
    from prefine.stages.pipeline import refuse_rounds, run_stage
    from prefine.stages.template_date import with_first_day

    def lead(loaded: "RunConfig") -> None:
        refuse_rounds(loaded)
        if stage == "report" and loaded.storage is not None:
            _report_at_its_url(loaded, as_json)
            return
        if strict:
            check(loaded, strict=True, through=stage)
        with kept_at_its_url(loaded), RunFolder(loaded.run_dir) as folder:
            folder.adopt_config(loaded.resolved())
            with ShownProgress() as progress:
                manifest = run_stage(stage, loaded, folder, progress)
        _print_manifests([manifest], as_json)

    def load() -> "RunConfig":
        loaded = load_config(config, overrides, run_dir)
        # Other stages need no model, and finding out takes a second.
        return with_first_day(loaded) if "policy" in STAGE_SECTIONS[stage] else loaded

    if stage == "train":
        refuse_others()
    if stage == "train" and launched():
        train_together(load, lead)
    else:
        refuse_several(f"prefine {stage}")
        lead(load())


def _report_at_its_url(config: "RunConfig", as_json: bool) -> None:
    """Write the report of a run at a URL from a copy, and put the page there; another may work."""
    from prefine.api.progress import ShownProgress
    from prefine.run.fetch import fetched
    from prefine.run.folder import RunFolder
    from prefine.run.remote import Remote
    from prefine.stages.pipeline import run_stage

    storage = config.storage
    assert storage is not None and storage.url is not None
    copy = config.model_copy(
        update={"run_dir": fetched(storage.url, options=storage.options), "storage": None}
    )
    with RunFolder(copy.run_dir) as folder, ShownProgress() as progress:
        manifest = run_stage("report", copy, folder, progress)
    page = copy.run_dir / "report.html"
    Remote(storage.url, storage.options).upload(page, page.name)
    _print_manifests([manifest], as_json)


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
    _print_manifests(manifests, False)
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


def _print_manifests(manifests: "list[Manifest]", as_json: bool) -> None:
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
