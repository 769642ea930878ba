"""How commands stand together on the command line."""

from typing import Any

from typer.core import TyperGroup

STAGE = "stage"
"""The name of a stage inside a group that is one, too."""


class AlongTheRoad(TyperGroup):
    """Commands in the order of the road, though one of its stages is a group."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        names = [name for name in super().list_commands(ctx) if name != "evaluate"]
        names.insert(names.index("report"), "evaluate")
        return names


class StageUnlessNamed(TyperGroup):
    """A group of commands that is a stage, too: what does not begin with the name of a command is the stage's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the stage's name before them where no command is named and no help is asked for."""
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = [STAGE, *args]
        return super().parse_args(ctx, args)
