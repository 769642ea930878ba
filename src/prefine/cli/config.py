"""Commands that look at configurations: check, show, schema."""

import json

import typer

from prefine.cli.ending import visible
from prefine.cli.options import AsJson, ConfigPath, Overrides, RunDir, Strict, load_config

config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")


@config_app.command("check")
def check_config(
    config: ConfigPath,
    set_: Overrides = None,
    run_dir: RunDir = None,
    strict: Strict = False,
    json_: AsJson = False,
) -> None:
    """Check a configuration: every key, component and option, and every input on disk.

    Sends nothing: `prefine run CONFIG --dry-run` also asks the servers whether they are there.
    `--json` prints {"ok": true, "counts": …, "notes": […], "imports": […]}, and nothing if it is
    not ok.
    """
    from prefine.stages.check import check
    from prefine.stages.plan import user_code

    loaded = load_config(config, set_, run_dir)
    if loaded.rounds is None:
        counts, notes, _ = check(loaded, strict=strict)
    else:
        from prefine.rounds.check import check_rounds
        from prefine.rounds.configs import RoundsPlan

        counts, notes = check_rounds(RoundsPlan(loaded), strict=strict)
    imports = user_code(loaded)
    if json_:
        values = {"ok": True, "counts": counts, "notes": notes, "imports": imports}
        typer.echo(json.dumps(values, ensure_ascii=False))
        return
    for note in notes:
        typer.echo(visible(note))
    for name in imports:
        typer.echo(f"imports your code: {visible(name)}")
    typer.echo("ok")


@config_app.command("show")
def show_config(config: ConfigPath, set_: Overrides = None, run_dir: RunDir = None) -> None:
    """Print the whole configuration, with the defaults of settings and of components' options."""
    import yaml

    from prefine.config.filled import filled_in

    loaded = load_config(config, set_, run_dir)
    storage = loaded.storage
    values: dict[str, object] = {"run_dir": str(loaded.run_dir), **filled_in(loaded)}
    if storage is not None:
        values |= {"run_dir": storage.url, "storage": storage.model_dump(mode="json")}
    typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)


@config_app.command("schema")
def print_schema() -> None:
    """Print the JSON schema of a configuration, for editors: with every component's options."""
    from prefine.config.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=1))
