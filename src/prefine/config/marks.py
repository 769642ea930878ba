"""Marks in the annotation of a setting: whether a begun run may change it.

As in `max_cost: Annotated[PositiveFloat | None, FREE] = None`. A setting without a mark is fixed
once a stage that reads it has begun. `run/config_changes.py` reads them.
"""

from typing import NamedTuple


class Mark(NamedTuple):
    """In an annotation: a rule for the setting, by its name."""

    rule: str


FREE = Mark("free")
"""Says how hard to try, what to spend or what to show, and never what is computed."""
TRANSPORT = Mark("transport")
"""Says where a server is and how it is asked: that changes no answer, and people move servers."""
LATER = Mark("later")
"""Runs had begun before this key existed: at its default it enters no hash, so that they go on."""


class Was:
    """In an annotation: the default before. A run begun with it goes on with it if nothing is set.

    Args:
        default: As a run folder's `config.json` has it.
    """

    def __init__(self, default: object) -> None:
        self.default = default


class MayGrow:
    """In an annotation: a larger value extends the run, None most of all; a smaller one is refused.

    A list has grown when it still has all that it had.
    With `options`, these options of the component may grow, and not the setting itself.
    """

    def __init__(self, *options: str) -> None:
        self.options = options
