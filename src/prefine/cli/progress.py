"""Progress bars on stderr, and stopping at a safe place when the user asks to."""

import signal
import time
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

_ONE_SIGNAL_S = 0.3


class RichProgress:
    """A bar per stage. The first SIGINT, SIGTERM or SIGHUP asks the stage to stop.

    Args:
        quiet: Draw and say nothing; of several processes one speaks.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=9)),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn(
                "{task.fields[note]}",
                style="dim",
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            console=self._console,
        )
        self._task: TaskID | None = None
        self.stopping = False
        self._asked = 0.0

    def __enter__(self) -> Self:
        # Of `nohup`, a SIGHUP that is ignored stays ignored.
        self._before = {
            number: signal.signal(number, self._stop)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, stage: str, total: int, unit: str) -> None:
        """Add the bar of a stage."""
        self._task = self._bars.add_task(stage, total=total, unit=unit, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Move the current bar."""
        if self._task is not None:
            self._bars.update(self._task, advance=count, note=note)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, markup=False, highlight=False)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopping:
            # What launches several processes passes on the signal that they had from the terminal
            # already.
            if time.monotonic() - self._asked > _ONE_SIGNAL_S:
                raise KeyboardInterrupt
            return
        self.stopping, self._asked = True, time.monotonic()
        self.say("stopping at the next safe place; press Ctrl-C again to stop at once")
