"""Write docs/commands.md, every command with its arguments and options: `make docs`."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from prefine.cli.app import app

PAGE = Path(__file__).parent / "commands.md"
HEAD = """\
# All commands

`make docs` writes this page from the code; `prefine COMMAND --help` prints the same.

The result goes to stdout, progress and messages to stderr. Exit codes: 0 ok, 1 a bug of ours, 2 configuration or usage,
3 bad input data, 4 a model cannot be used, 5 stopped by a limit or a numerical check, 6 interrupted (the same command
resumes).
"""  # noqa: E501


def page() -> str:
    """Return the whole page."""
    command = typer.main.get_command(app)
    return "\n".join([HEAD, *_entries(command, "prefine")])


def _entries(command: Any, name: str) -> Iterator[str]:
    """Yield a command's help, or that of the commands in it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield from _entry(command, name)
        return
    for word in command.list_commands(None):
        # A stage that is a group of commands, too, has its options under this name.
        yield from _entries(inner[word], name if word == "stage" else f"{name} {word}")


def _entry(command: Any, name: str) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    words = [one.metavar or one.name.upper() for one in arguments]
    yield f"## {name.removeprefix('prefine ')}\n"
    yield f"```text\n{' '.join([name, *words])} [OPTIONS]\n```\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    rows = [(f"`{word}`", one) for word, one in zip(words, arguments, strict=True)]
    rows += [(_flags(one), one) for one in options if not one.hidden]
    if rows:
        yield "| | default | |"
        yield "|---|---|---|"
    for cell, one in rows:
        yield f"| {cell} | {_default(one)} | {_cell(one.help or '')} |"
    yield ""


def _flags(option: Any) -> str:
    flags = ", ".join([*option.opts, *option.secondary_opts])
    plain = option.is_flag or option.count
    metavar = "" if plain else f" {option.metavar or _word(option.default)}"
    return f"`{_cell(flags + metavar)}`"


def _word(default: Any) -> str:
    return "TEXT" if isinstance(default, str) else "NUMBER"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return f"`{value}`" if plain else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    print(PAGE)


if __name__ == "__main__":
    main()
