"""Arguments and options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

if TYPE_CHECKING:
    from prefine.config.sections import RunConfig

ConfigPath = Annotated[Path, Argument(metavar="CONFIG", help="A YAML configuration.")]
Overrides = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. train.loss.beta=0.05."),
]
RunDir = Annotated[str | None, Option("--run-dir", metavar="DIR", help="The run folder.")]
AsJson = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Strict = Annotated[
    bool,
    Option(
        "--strict",
        help="Refuse rows that are empty, repeated, ties or too long, instead of counting.",
    ),
]


def load_config(path: Path, overrides: list[str] | None, run_dir: str | None) -> "RunConfig":
    """Read and check a configuration, with the command line's own settings.

    A run that was begun under earlier defaults goes on with them.
    """
    from prefine.config.yaml import load
    from prefine.run.config_changes import with_begun_defaults
    from prefine.run.manifests import begun_config

    config = load(path, overrides=overrides or (), run_dir=run_dir)
    return with_begun_defaults(config, begun_config(config.run_dir))
