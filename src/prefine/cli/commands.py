"""The commands of `prefine` and where they stand: each is imported when it is asked for."""

from collections.abc import Iterator, Mapping
from typing import Any

import typer
from typer.core import TyperGroup

from prefine.cli.options import with_readable_help
from prefine.lazy import imported

COMMANDS = {
    "init": "prefine.cli.init:init",
    "run": "prefine.cli.run:run",
    "demo": "prefine.cli.run:demo",
    "sample": "prefine.cli.stages:sample",
    "rank": "prefine.cli.stages:rank",
    "pair": "prefine.cli.stages:pair",
    "bridge": "prefine.cli.stages:bridge",
    "train": "prefine.cli.stages:train",
    "evaluate": "prefine.cli.evaluate:evaluate_app",
    "report": "prefine.cli.stages:report",
    "sweep": "prefine.cli.sweep:sweep",
    "compare": "prefine.cli.compare:compare",
    "annotate": "prefine.cli.annotate:annotate",
    "view": "prefine.cli.view:view",
    "push": "prefine.cli.hub:push",
    "pull": "prefine.cli.hub:pull",
    "import": "prefine.cli.tools:import_data",
    "simulate": "prefine.cli.tools:simulate",
    "cost": "prefine.cli.cost:cost",
    "losses": "prefine.cli.tools:losses",
    "mock-server": "prefine.cli.mock_server:mock_server",
    "config": "prefine.cli.config:config_app",
}
"""Every command in the order of the help: a function, or a Typer app with commands of its own."""


class Commands(TyperGroup):
    """The group of all commands; only its help and completion import every one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        imported: Any = _Imported()
        self.commands = imported


class _Imported(Mapping[str, Any]):
    """The commands by their names, each imported when it is looked up."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _command(name, COMMANDS[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _command(name: str, target: str) -> Any:
    found = imported(target)
    alone = typer.Typer()
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
    else:
        alone.command(name)(found)
    command = typer.main.get_group(alone).commands[name]
    for one in (command, *getattr(command, "commands", {}).values()):
        with_readable_help(one)
    return command
