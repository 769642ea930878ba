"""One printed line of a benchmark."""

from typing import NamedTuple


class Line(NamedTuple):
    """A measured figure; `ok` is True if it meets its goal, None without a goal."""

    what: str
    figure: str
    ok: bool | None = None

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "MISS", None: "    "}[self.ok]
        return f"{mark} {self.what:<52} {self.figure}"
