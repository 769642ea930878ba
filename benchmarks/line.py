"""One printed line of a benchmark."""

from typing import NamedTuple


class Line(NamedTuple):
    """What was measured, the figure, and whether it is what was asked for; None where nothing was."""

    what: str
    figure: str
    ok: bool | None = None

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "MISS", None: "    "}[self.ok]
        return f"{mark} {self.what:<52} {self.figure}"
