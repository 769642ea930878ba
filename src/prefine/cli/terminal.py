"""A terminal that is drawn on as a whole, and read key by key."""

import os
import select
import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NamedTuple, NoReturn

from prefine.errors import ConfigError

_POLL_S = 0.2
"""A changed size is seen this late."""
_REST_OF_KEY_S = 0.05
_TOP, _NO_CURSOR = "\x1b[H", "\x1b[?25l"
_ENTER = f"\x1b[?1049h{_NO_CURSOR}\x1b[?7l"
"""Another screen, no cursor, no wrapping: a letter wider than it should be spoils one line only."""
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_KEYS = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "1~": "home",
    "4~": "end",
    "5~": "page up",
    "6~": "page down",
    "7~": "home",
    "8~": "end",
}
_LETTERS = {"\t": "tab", " ": "page down", "\r": "enter", "\n": "enter"}


class Size(NamedTuple):
    """Columns and rows of a terminal."""

    columns: int
    rows: int


class Terminal:
    """The terminal of this process; `open_terminal` makes it.

    Args:
        keyboard: The descriptor that keys are read from.
        screen: The descriptor that is written to.
    """

    def __init__(self, keyboard: int, screen: int) -> None:
        self._keyboard, self._screen = keyboard, screen

    @property
    def size(self) -> Size:
        """Its size now; one that does not know it has 80 columns and 24 rows."""
        size = os.get_terminal_size(self._screen)
        return Size(size.columns or 80, size.lines or 24)

    def draw(self, lines: Sequence[str]) -> None:
        """Fill the screen with lines, each of at most the terminal's columns."""
        # Each line is emptied before it is written: behind a full one that would take its last
        # letter.
        text = _TOP + "\r\n".join(f"\x1b[2K{line}\x1b[0m" for line in lines) + _NO_CURSOR
        data = text.encode("utf-8", "replace")
        while data:
            data = data[os.write(self._screen, data) :]

    def forget_keys(self) -> None:
        """Drop keys that were pressed before now: they were not meant for what is drawn now."""
        termios.tcflush(self._keyboard, termios.TCIFLUSH)

    def key(self) -> str | None:
        """Wait for a key and return its name or its letter; None when only the size may differ.

        Of several keys that come at once, as of a pasted text, the first one counts.

        Raises:
            KeyboardInterrupt: The terminal is gone.
        """
        if not self._ready(_POLL_S):
            return None
        read = self._read()
        # An arrow is several bytes, which may come in several pieces.
        while read in (b"\x1b", b"\x1b[", b"\x1bO") and self._ready(_REST_OF_KEY_S):
            read += self._read()
        text = read.decode("utf-8", "replace")
        if text[:2] in ("\x1b[", "\x1bO"):
            name = next((key for key in _KEYS if text[2:].startswith(key)), None)
            return None if name is None else _KEYS[name]
        return _LETTERS.get(text[0], text[0])

    def _ready(self, seconds: float) -> bool:
        return bool(select.select([self._keyboard], [], [], seconds)[0])

    def _read(self) -> bytes:
        try:
            read = os.read(self._keyboard, 64)
        except OSError as error:
            raise KeyboardInterrupt from error
        if not read:
            raise KeyboardInterrupt
        return read


@contextmanager
def open_terminal() -> Iterator[Terminal]:
    """Take the terminal over, and give it back as it was, however this ends.

    Raises:
        ConfigError: There is none.
    """
    screen = next((one for one in (sys.stdout, sys.stderr) if one.isatty()), None)
    if screen is None or not sys.stdin.isatty():
        raise ConfigError(
            "annotate asks at a terminal, and there is none here; run it in one, or print "
            "what was said so far with --summary"
        )
    screen.flush()
    terminal = Terminal(sys.stdin.fileno(), screen.fileno())
    before = termios.tcgetattr(sys.stdin)
    handlers = {
        number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        _without_line_editing()
        os.write(screen.fileno(), _ENTER.encode())
        yield terminal
    finally:
        with suppress(OSError, termios.error):  # a window that was closed takes nothing back
            os.write(screen.fileno(), _LEAVE.encode())
            termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _without_line_editing() -> None:
    """Give keys at once and unseen; Ctrl-C still interrupts, Ctrl-Z and Ctrl-S do nothing."""
    new = termios.tcgetattr(sys.stdin)
    new[0] &= ~(termios.IXON | termios.ICRNL)
    new[3] &= ~(termios.ICANON | termios.ECHO)
    new[6][termios.VMIN], new[6][termios.VTIME] = 1, 0
    new[6][termios.VSUSP] = b"\x00"
    termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, new)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt
