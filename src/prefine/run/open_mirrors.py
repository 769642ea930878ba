"""The runs at URLs that this process works on."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a run without a URL loads none of it
    from prefine.run.mirror import Mirror

OPEN: dict[Path, "Mirror"] = {}
"""Their mirrors, by the folder of this machine."""


def mirror_of(folder: Path) -> "Mirror | None":
    """The mirror that keeps a run folder, or the folder of rounds that it lies in."""
    if not OPEN:
        return None
    place = folder.resolve()
    return next((one for root, one in OPEN.items() if root in (place, *place.parents)), None)
