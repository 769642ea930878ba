"""The command `view`: runs in a browser of this machine, read-only."""

import signal
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from prefine.errors import ConfigError


def view(
    folders: Annotated[
        list[Path] | None,
        Argument(
            metavar="[RUN_OR_FOLDER...]",
            help="Run folders, or folders with runs below them. Default: runs, or this folder.",
        ),
    ] = None,
    port: Annotated[
        int, Option(min=0, max=65535, help="On 127.0.0.1; 0 takes any that is free.")
    ] = 0,
    open_: Annotated[
        bool, Option("--open/--no-browser", help="Open the link in a browser, or only print it.")
    ] = False,
    stop_after: Annotated[
        float | None,
        Option(
            "--stop-after", min=1, metavar="SECONDS", help="End after so long without a request."
        ),
    ] = None,
) -> None:
    """Look inside runs in a browser: prompts, answers, verdicts, curves; also while they work.

    Only this machine can reach it, and only with the link that is printed. Runs are not written to;
    flags and notes go to RUN.notes.jsonl beside the run. Ctrl-C ends it.
    """
    try:
        from prefine.view.app import make_app
        from prefine.view.guard import Access
        from prefine.view.places import check_roots
        from prefine.view.serve import listen, serve
        from prefine.view.viewer import Viewer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "prefine":
            raise
        raise ConfigError(
            f"prefine view needs {error.name}, which is not installed; run: pip install "
            "'prefine[view]'"
        ) from error

    roots = folders or [Path("runs") if Path("runs").is_dir() else Path()]
    check_roots(roots)
    listening = listen(port)
    access = Access.new(listening.getsockname()[1])
    viewer = Viewer(roots)
    viewer.runs()

    def ready() -> None:
        typer.echo(access.url)
        typer.echo("This link opens the viewer, from this machine; Ctrl-C ends it.", err=True)
        if open_:
            import webbrowser

            webbrowser.open(access.url)

    # uvicorn raises a signal again once it has ended; after that there is nothing left to do.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        serve(make_app(viewer, access), listening, stop_after_s=stop_after, on_ready=ready)
    finally:
        viewer.close()
