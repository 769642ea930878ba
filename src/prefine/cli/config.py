"""Commands that look at configurations: check, show, schema."""

import json

import typer

from prefine.cli.ending import visible
from prefine.cli.options import ConfigPath, Overrides, RunDir, Strict, load_config

config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")


@config_app.command("check")
def check_config(
    config: ConfigPath, set_: Overrides = None, run_dir: RunDir = None, strict: Strict = False
) -> None:
    """Check a configuration: every key, component and option, and every input on disk.

    Sends nothing: `prefine run CONFIG --dry-run` also asks the servers whether they are there.
    """
    from prefine.stages.check import check
    from prefine.stages.plan import user_code

    loaded = load_config(config, set_, run_dir)
    for note in check(loaded, strict=strict).notes:
        typer.echo(visible(note))
    for name in user_code(loaded):
        typer.echo(f"imports your code: {visible(name)}")
    typer.echo("ok")


@config_app.command("show")
def show_config(config: ConfigPath, set_: Overrides = None, run_dir: RunDir = None) -> None:
    """Print the whole configuration, defaults filled in."""
    import yaml

    loaded = load_config(config, set_, run_dir)
    values = {"run_dir": str(loaded.run_dir), **loaded.resolved()}
    typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)


@config_app.command("schema")
def print_schema() -> None:
    """Print the JSON schema of a configuration, for editors."""
    from prefine.config.sections import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=1))
