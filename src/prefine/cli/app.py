"""The `prefine` command: the only place that prints, exits and reads the environment."""

import atexit
import gc
import os
import sys
import warnings
from typing import Annotated

import typer

from prefine.cli.commands import Commands
from prefine.cli.ending import guarded, leave_threads
from prefine.cli.openmp import choose_waiting
from prefine.cli.options import with_readable_help
from prefine.cli.processes import leave
from prefine.errors import Interrupted

app = typer.Typer(
    name="prefine",
    cls=Commands,
    help="Preference optimization, end to end: sample, rank, pair, train, evaluate, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the `prefine` command."""
    choose_waiting(os.environ)
    # More than 2 of the 9 seconds of a tiny training were Python's collector, which looks for
    # cycles again and again among the modules that are loaded, and once more among all of them at
    # the end.
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)
    # What libraries will change in their next version is for us to act on, not for who runs the
    # command.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\.")
    # A user's `my_module:my_function` is looked for where the command is run, as `python -m` does,
    # after all else.
    sys.path.append(os.getcwd())
    command = with_readable_help(typer.main.get_command(app))
    code = guarded(lambda: command(standalone_mode=False))
    leave(code)
    if code == Interrupted.exit_code:
        leave_threads(code)
    sys.exit(code)


def _version(value: bool) -> None:
    if value:
        from prefine import __version__

        typer.echo(f"prefine {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
