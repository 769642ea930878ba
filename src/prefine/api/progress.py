"""Progress of stages on stderr, and stopping at a safe place when the user asks to."""

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from prefine.stages.stage_run import Progress, Silent

_ONE_SIGNAL_S = 0.3
_PACE_S = 60.0
_LINE_S, _SOONEST_S, _LINE_SHARE = 30.0, 2.0, 0.1
"""Without a terminal a line comes after so many seconds or such a share of the work, but no sooner
than `_SOONEST_S` after the one before.
"""


class Pace:
    """Units per second over the last minute, of one stage.

    What the first call counts was there before: a resumed stage begins with what it had.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self._began = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque()

    def advance(self, count: int) -> None:
        """Count units as done."""
        self.done += count
        if count == 0:
            return
        now = time.monotonic()
        self._seen.append((now, self.done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _PACE_S:
            self._seen.popleft()

    def words(self) -> str:
        """Return the rate and the time left; at the end, the time that it took."""
        if self.done >= self.total:
            return f"in {_clock(time.monotonic() - self._began)}"
        if len(self._seen) < 2:
            return ""
        (began, before), (now, done) = self._seen[0], self._seen[-1]
        rate = (done - before) / max(now - began, 1e-6)
        speed = f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each"
        return f"{speed}, {_clock((self.total - self.done) / rate)} left"


class ShownProgress:
    """A bar per stage on a terminal, lines elsewhere.

    The first SIGINT, SIGTERM or SIGHUP asks the stage to stop.

    Args:
        quiet: Say nothing; of several processes one speaks.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True, quiet=quiet)
        self._quiet = quiet
        self._bars = _bars(console) if console.is_terminal else None
        self._task: TaskID | None = None
        self._stage = self._unit = ""
        self._pace = Pace(0)
        self._last_line, self._last_share = 0.0, 0.0
        self._before: dict[int, Any] = {}
        self.stopping = False
        self._asked = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # Of `nohup`, a SIGHUP that is ignored stays ignored.
            self._before = {
                number: signal.signal(number, self._stop)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
            }
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage."""
        self._stage, self._unit, self._pace = stage, unit, Pace(total)
        if self._bars is not None:
            count = self._count()
            self._task = self._bars.add_task(stage, total=total, count=count, pace="", note="")
        else:
            self._line(f"{total:,} {unit}")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count units of the current stage as done."""
        self._pace.advance(count)
        if self._bars is not None and self._task is not None:
            total, pace = self._count(), self._pace.words()
            self._bars.update(self._task, advance=count, count=total, pace=pace, note=note)
        elif self._bars is None:
            self._perhaps_line(note)

    def say(self, text: str) -> None:
        """Write a line of its own."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self._quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _perhaps_line(self, note: str) -> None:
        pace = self._pace
        share = pace.done / max(pace.total, 1)
        since = time.monotonic() - self._last_line
        whole = share >= 1 > self._last_share
        due = since >= _LINE_S or (since >= _SOONEST_S and share >= self._last_share + _LINE_SHARE)
        if whole or (due and self._last_share < 1):
            count = f"{self._count()} ({share:.0%})"
            self._line(", ".join(part for part in (count, pace.words(), note) if part))
            self._last_share = share

    def _count(self) -> str:
        return f"{self._pace.done:,}/{self._pace.total:,} {self._unit}"

    def _line(self, text: str) -> None:
        self.say(f"{self._stage}: {text}")
        self._last_line, self._last_share = time.monotonic(), 0.0

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopping:
            # What launches several processes passes on the signal that they had from the terminal
            # already.
            if time.monotonic() - self._asked > _ONE_SIGNAL_S:
                raise KeyboardInterrupt
            return
        self.stopping, self._asked = True, time.monotonic()
        self.say("stopping at the next safe place; press Ctrl-C again to stop at once")


@contextmanager
def followed(progress: Progress | bool) -> Iterator[Progress]:
    """Yield what receives the progress of a call: True shows it, False does not."""
    if progress is True:
        with ShownProgress() as shown:
            yield shown
    else:
        yield progress or Silent()


def _bars(console: Console) -> Bars:
    """Return bars of which only the note gives way in a narrow terminal."""

    def fixed(width: int, *, at_most: int | None = None) -> Column:
        return Column(no_wrap=True, min_width=width, max_width=at_most, overflow="ellipsis")

    return Bars(
        TextColumn("{task.description:<8}", table_column=fixed(8)),
        BarColumn(bar_width=8, table_column=fixed(8)),
        TextColumn("{task.fields[count]}", table_column=fixed(12, at_most=21)),
        TextColumn("{task.fields[pace]}", table_column=fixed(17)),
        TextColumn(
            "{task.fields[note]}",
            style="dim",
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        console=console,
    )


def _clock(seconds: float) -> str:
    """Return a time as 1:05 or 2:00:09."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
