"""`prefine evaluate`: the stage of that name, and the metrics of public annotation files."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from prefine.cli import stages
from prefine.cli.ending import terminal_columns, visible
from prefine.cli.options import AsJson


class StageOrCommand(TyperGroup):
    """A stage that is a group of commands, too: arguments that name no command are the stage's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the stage's name before arguments that name no command."""
        if not args or args[0] not in self.commands:
            args = ["stage", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command; the stage's own has no name, as it is called without."""
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == "stage" else name, command, rest


evaluate_app = typer.Typer(
    cls=StageOrCommand,
    help=f"{stages.evaluate.__doc__} Or measure public files.",
    subcommand_metavar="CONFIG | annotations FILE...",
)
evaluate_app.command(
    "stage",
    hidden=True,
    help=f"{stages.evaluate.__doc__} `prefine evaluate annotations FILE...` prints the metrics of "
    "public annotation files.",
)(stages.evaluate)


@evaluate_app.command("annotations")
def evaluate_annotations(
    files: Annotated[list[Path], Argument(metavar="FILE", help="Files, or folders of parts.")],
    kind: Annotated[
        str | None,
        Option(metavar="NAME", help="What the files are, instead of by themselves."),
    ] = None,
    outputs: Annotated[
        Path | None,
        Option(metavar="FILE", help="AlpacaEval: the model's model_outputs.json."),
    ] = None,
    baseline_outputs: Annotated[
        Path | None,
        Option(metavar="FILE", help="AlpacaEval: the baseline's."),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        Option(
            "--calibration",
            metavar="FOLDER",
            help="AlpacaEval: of length control; or two files, two times.",
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Print the metrics of AlpacaEval, Arena-Hard, LLMBar or RewardBench files, or our judgments.

    The kind is recognised from the first row. `--json` prints {"files": [...]}, each with file,
    kind and parts, a part of each model or judge with its metrics and notes.
    """
    from prefine.cli.annotations import as_json, as_text, figures

    found = figures(
        files,
        kind=kind,
        outputs=outputs,
        baseline_outputs=baseline_outputs,
        calibration=calibration or (),
    )
    if json_:
        typer.echo(as_json(found))
    else:
        typer.echo(visible(as_text(found, columns=terminal_columns() or 100)))
