"""The work of `prefine import`: rows of any layout → JSON Lines in our own columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefine.config.base import Component
from prefine.data.convert import ENTRIES, write_entries
from prefine.data.files import files_at
from prefine.data.formats import FORMATS
from prefine.data.import_report import ImportReport
from prefine.data.sources import read, read_files
from prefine.errors import ConfigError

_HUB = "hub:"
_OF_THE_HUB, _OF_FILES = {"split", "config", "revision", "data_dir"}, {"questions", "format"}


def convert(
    inputs: Sequence[str], entry: str, out: Path, options: Mapping[str, Any], *, strict: bool
) -> list[str]:
    """Write the file and return what to tell the user, line by line.

    Args:
        inputs: Files, patterns or folders, or one `hub:org/name`.
        entry: prompts, completions or pairs.
        out: The JSON Lines file to write.
        options: layout, columns (as OURS=THEIRS) and limit; of files format and questions; of the
            hub split, config, revision and data_dir. None where not given.
        strict: Refuse what would be set aside.

    Raises:
        ConfigError: The arguments do not fit together.
        DataError: A row is malformed.
    """
    hub = inputs[0].removeprefix(_HUB) if inputs[0].startswith(_HUB) else None
    given = {name: value for name, value in options.items() if value is not None}
    _check(inputs, entry, out, given, hub)
    if "columns" in given:
        given["columns"] = dict(
            _mapped(one) for text in given["columns"] for one in text.split(",")
        )
    if hub is None:
        format = given.pop("format", None)
        files = [one for path in inputs for one in files_at(Path(path), format)]
        if any(out.resolve() == path.resolve() for path, _ in files):
            raise ConfigError(f"--out {out}: this is an input; give another file")
        rows = read_files(files, given, where="import")
    else:
        rows = read(Component.model_validate({"name": "hub", "path": hub, **given}), where="import")
    report = ImportReport(strict=strict)
    recognised = write_entries(rows, entry, out, report)
    unit = "pairs" if entry == "pairs" else "prompts"
    return [
        f"layout   {recognised}",
        f"read     {report.read:>9,} {unit}",
        f"written  {report.kept:>9,} {unit} to {out}",
        *(line for line in report.recognised() if "layout" not in line),
        *report.notes(),
    ]


def _check(
    inputs: Sequence[str], entry: str, out: Path, options: Mapping[str, Any], hub: str | None
) -> None:
    if entry not in ENTRIES:
        raise ConfigError(f"--as {entry}: unknown; choose one of {', '.join(ENTRIES)}")
    if out.suffix.lower() != ".jsonl":
        raise ConfigError(
            f"--out {out}: what is written is JSON Lines; give the file the ending .jsonl"
        )
    if (format := options.get("format", FORMATS[0])) not in FORMATS:
        raise ConfigError(f"--format {format}: unknown; choose one of {', '.join(FORMATS)}")
    if len(inputs) > 1 and any(one.startswith(_HUB) for one in inputs):
        raise ConfigError("only one hub:org/name can be read at a time, and no file beside it")
    for name in sorted(options.keys() & (_OF_THE_HUB if hub is None else _OF_FILES)):
        raise ConfigError(
            f"--{name.replace('_', '-')} is for {'hub:org/name' if hub is None else 'files'}"
        )


def _mapped(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not (ours and equals and theirs):
        raise ConfigError(f"--columns {text!r}: expected ours=theirs, such as prompt=question")
    return ours, theirs
