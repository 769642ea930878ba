"""`prefine run` of a configuration with rounds."""

import json
from typing import TYPE_CHECKING, Any

import typer

from prefine.cli.ending import complain, terminal_columns, visible
from prefine.cli.processes import refuse_several

if TYPE_CHECKING:
    from prefine.config.sections import RunConfig
    from prefine.rounds.configs import RoundsPlan


def run_in_rounds(
    config: "RunConfig", *, dry_run: bool, offline: bool, strict: bool, as_json: bool
) -> None:
    """Walk the rounds, or plan them."""
    from prefine.api.progress import ShownProgress
    from prefine.rounds.check import check_rounds
    from prefine.rounds.configs import RoundsPlan
    from prefine.rounds.results import lines_of, results
    from prefine.rounds.walk import run_rounds
    from prefine.stages.template_date import with_first_day

    refuse_several("prefine run")
    rounds = RoundsPlan(with_first_day(config))
    inputs = check_rounds(rounds, strict=strict)
    for note in inputs.notes:
        complain(note)
    if dry_run:
        _print_plan(rounds, offline=offline, as_json=as_json)
        return
    with ShownProgress() as progress:
        run_rounds(rounds, progress)
    result = results(rounds)
    if as_json:
        typer.echo(json.dumps(result.model_dump(mode="json"), ensure_ascii=False))
        return
    for line in lines_of(result, columns=terminal_columns()):
        typer.echo(visible(line))
    for warning in result.warnings:
        typer.echo(f"\nwarning: {visible(warning)}")
    typer.echo(f"\nreport: {result.report}")


def _print_plan(rounds: "RoundsPlan", *, offline: bool, as_json: bool) -> None:
    """Print the plan of every round; one that is not trained yet stands for its successor."""
    from prefine.rounds.results import beside_one_another
    from prefine.stages.plan import plan

    plans: dict[str, dict[str, Any]] = {}
    first: tuple[str, ...] = ()
    for number in rounds.numbers:
        made = plan(rounds.config_of(number, planned=True), offline=offline or number > 1)
        plans[rounds.name(number)] = {"lines": dict(made.lines), "values": made.values}
        first = first or made.stages
        unchecked, imports = made.unchecked, made.imports
    if as_json:
        values = {
            "folder": str(rounds.config.run_dir),
            "stages": first,
            "rounds": {name: one["values"] for name, one in plans.items()},
            "imports": imports,
            "unchecked": unchecked,
        }
        typer.echo(json.dumps(values, ensure_ascii=False))
        return
    names = list(dict.fromkeys(name for one in plans.values() for name in one["lines"]))
    typer.echo(f"stages: {' → '.join(first)}, in {len(plans)} rounds")
    typer.echo(f"folder: {rounds.config.run_dir}")
    rounds_planned = [
        [f"{text:>12}" for text in (name, *(one["lines"].get(line, "") for line in names))]
        for name, one in plans.items()
    ]
    for line in beside_one_another(["", *names], rounds_planned, terminal_columns()):
        typer.echo(line)
    for name in imports:
        typer.echo(f"imports your code: {name}")
    typer.echo("not checked:")
    for line in (*unchecked, "later rounds: they are planned with the policy of the first"):
        typer.echo(f"  {visible(line)}")
