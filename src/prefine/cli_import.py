"""What `prefine import` does: rows of any layout → JSON Lines in our own columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefine.config import Component
from prefine.errors import ConfigError
from prefine.store.convert import ENTRIES, write_entries
from prefine.store.screen import Screen
from prefine.store.sources import read, read_files

_HUB = "hub:"


def convert(inputs: Sequence[str], entry: str, out: Path, options: Mapping[str, Any], *, strict: bool) -> list[str]:
    """Write the file; what to tell the user, line by line.

    Args:
        inputs: Files, patterns or folders, or one `hub:org/name`.
        entry: prompts, completions or pairs.
        out: The JSON Lines file to write.
        options: layout, columns (as OURS=THEIRS), questions, split and limit; None where not given.
        strict: Refuse what would be set aside.

    Raises:
        ConfigError: The arguments do not fit together.
        DataError: A row is malformed.
    """
    hub = inputs[0].removeprefix(_HUB) if inputs[0].startswith(_HUB) else None
    _check(inputs, entry, out, options, hub)
    given = {name: value for name, value in options.items() if value is not None}
    if "columns" in given:
        given["columns"] = dict(map(_mapped, given["columns"]))
    if hub is None:
        rows = read_files(map(Path, inputs), given, where="import")
    else:
        rows = read(Component.model_validate({"name": "hub", "path": hub, **given}), where="import")
    screen = Screen(strict=strict)
    recognised = write_entries(rows, entry, out, screen)
    return [
        f"layout   {recognised}",
        f"read     {screen.read:>9,} {entry}",
        f"written  {screen.kept:>9,} {entry} to {out}",
        *screen.notes(),
    ]


def _check(inputs: Sequence[str], entry: str, out: Path, options: Mapping[str, Any], hub: str | None) -> None:
    if entry not in ENTRIES:
        raise ConfigError(f"--as {entry}: unknown; choose one of {', '.join(ENTRIES)}")
    if out.suffix.lower() != ".jsonl":
        raise ConfigError(f"--out {out}: what is written is JSON Lines; give the file the ending .jsonl")
    if any(out.exists() and Path(one).exists() and out.samefile(one) for one in inputs):
        raise ConfigError(f"--out {out}: this is an input; give another file")
    if (hub is None and options["split"]) or (hub is not None and (options["questions"] or len(inputs) > 1)):
        raise ConfigError("--split is for one hub:org/name, --questions for files")


def _mapped(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not (ours and equals and theirs):
        raise ConfigError(f"--columns {text!r}: expected ours=theirs, such as prompt=question")
    return ours, theirs
