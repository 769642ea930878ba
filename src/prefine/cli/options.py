"""Arguments and options that several commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Context, Option

from prefine.cli.ending import complain

if TYPE_CHECKING:
    from prefine.config.sections import RunConfig

ConfigPath = Annotated[
    str,
    Argument(
        metavar="CONFIG",
        help="A YAML configuration (`prefine init` writes one); or a run folder or its URL, for "
        "its own.",
    ),
]
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


def load_config(given: str | Path, overrides: list[str] | None, run_dir: str | None) -> "RunConfig":
    """Read and check a configuration, with the command line's own settings.

    A run that was begun under earlier defaults goes on with them. A run folder, or its URL, stands
    for the configuration that it was begun with.
    """
    from prefine.config.storage import as_url, is_url
    from prefine.config.yaml import load, with_overrides
    from prefine.errors import ConfigError
    from prefine.run.manifests import read_config, with_defaults_of_its_folder

    path, place = Path(given), str(given)
    if is_url(place):
        from prefine.run.fetch import fetched

        place = as_url(place)
        path = fetched(place)
    if path.is_dir():
        try:
            values = {**read_config(path), "run_dir": place}
        except (ConfigError, FileNotFoundError) as error:
            raise ConfigError(
                f"{path.absolute()}: a folder, and no run folder; give a YAML file, or the folder "
                "of a run"
            ) from error
        config = with_overrides(values, overrides or (), run_dir, where=str(path / "config.json"))
    else:
        config = load(path, overrides=overrides or (), run_dir=run_dir)
    if config.storage is not None:
        from prefine.run.fetch import fetch_beginnings

        fetch_beginnings(config.run_dir, config.storage)
    return with_defaults_of_its_folder(config)


@contextmanager
def kept_at_its_url(config: "RunConfig") -> Iterator[None]:
    """Keep a run at its URL, if it has one, for as long as a block works on it."""
    if config.storage is None:
        yield
        return
    from prefine.run.mirror import mirrored

    with mirrored(config.run_dir, config.storage, complain):
        yield


def place_to_read(text: str, *, model: bool = False) -> Path:
    """Return the folder of a run, of which a copy is fetched if it is named by URL."""
    from prefine.config.storage import as_url, is_url

    if not is_url(text):
        return Path(text)
    from prefine.run.fetch import fetched

    return fetched(as_url(text), model=model)


def with_readable_help(command: Any) -> Any:
    """Return a command whose help fits any width, with flags shown without a type.

    `<bool>` beside a flag reads as a value to give. Line breaks within a paragraph of the
    docstring are those of the code, and would stay where the terminal breaks lines itself.
    """
    names = ["-h", "--help"]
    help_option = command.get_help_option(Context(command, help_option_names=names))
    if command.help:
        paragraphs = cleandoc(command.help).split("\n\n")
        command.help = "\n\n".join(" ".join(one.split()) for one in paragraphs)
    for option in (*command.params, help_option):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    return command
