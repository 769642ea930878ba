"""The screen of `prefine annotate`: a prompt and two answers, at any size, whatever is in them."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from rich.cells import cell_len, get_character_cell_size, set_cell_size

from prefine.annotate.session import AskedQuestion
from prefine.cli.ending import visible
from prefine.cli.terminal import Size
from prefine.records import Completion, Prompt, canonical_json

SIDE_BY_SIDE = 110
"""Columns from which both answers stand beside each other."""
_GAP = " │ "
_BOLD, _REVERSE, _PLAIN = "\x1b[1m", "\x1b[7m", "\x1b[0m"
KEYS = (
    "1 or ←   the first answer is better",
    "2 or →   the second answer is better",
    "t        a tie",
    "s        skip: no verdict, and not asked again",
    "b        back to the question before; its verdict stands until you give another",
    "↑ ↓      scroll; also j and k",
    "space    a page down; Page Up, Home and End as usual",
    "Tab      to the next part: prompt, first answer, second answer",
    "q        quit; every verdict is on the disk already",
    "?        this page",
)


class Body(NamedTuple):
    """The lines of a question, and the lines at which its parts begin."""

    lines: tuple[str, ...]
    parts: tuple[int, ...]


def body(asked: AskedQuestion, columns: int) -> Body:
    """Lay a question out: the prompt, then the answers, below or beside each other."""
    lines = [_heading("Prompt", columns), *_prompt(asked.prompt, columns), ""]
    parts = [0, len(lines)]
    first, second = _answer(asked.first), _answer(asked.second)
    if first == second:
        lines += [f"{_BOLD}Both answers are the same.{_PLAIN}", ""]
    if columns >= SIDE_BY_SIDE:
        width = (columns - len(_GAP)) // 2
        both = [
            [_heading(name, width), *wrapped(text, width)]
            for name, text in (("First (1)", first), ("Second (2)", second))
        ]
        # By its column and not by spaces: terminals differ in how wide some letters are.
        gap = f"\x1b[{width + 1}G{_GAP}"
        lines += [f"{one}{gap}{other}" for one, other in zip_longest(*both, fillvalue="")]
    else:
        lines += [_heading("First (1)", columns), *wrapped(first, columns), ""]
        parts.append(len(lines))
        lines += [_heading("Second (2)", columns), *wrapped(second, columns)]
    return Body(tuple(lines), tuple(parts))


def frame(status: str, content: Sequence[str], footer: str, size: Size, top: int) -> list[str]:
    """Return the lines of a screen: a status line, the content from line `top` on, a footer."""
    columns, rows = size
    room = content_rows(size)
    part = content[top : top + room]
    below = len(content) - top - len(part)
    more = f" ↓ {below:,} more lines " if below > 0 and columns > 40 else ""
    middle = [*part, *[""] * (room - len(part))]
    bar = _REVERSE + _padded(cut(f" {status}", columns), columns)
    if rows < 3:
        return [bar][:rows]
    left = cut(f" {footer}", columns - cell_len(more))
    return [bar, *middle, _REVERSE + _padded(left, columns - cell_len(more)) + more]


def content_rows(size: Size) -> int:
    """Return how many rows the content has."""
    return max(size.rows - 2, 0)


def wrapped(text: str, columns: int) -> list[str]:
    """Break a text into lines of at most so many columns, at spaces where there are any.

    Control characters are replaced. Indentation stays.
    """
    return [
        piece
        for line in visible(text.replace("\r\n", "\n")).expandtabs(4).split("\n")
        for piece in _pieces(line.rstrip(), max(columns, 2))
    ]


def cut(text: str, columns: int) -> str:
    """Return a text without what is beyond so many columns."""
    return text if cell_len(text) <= columns else f"{set_cell_size(text, max(columns - 1, 0))}…"


def _pieces(line: str, columns: int) -> list[str]:
    found, start, width, space = [], 0, 0, -1
    place = 0
    while place < len(line):
        size = get_character_cell_size(line[place])
        if width + size > columns:
            # At a space, unless all before it is indentation.
            end = space + 1 if line[start : space + 1].strip() else place
            found.append(line[start:end].rstrip())
            start = place = end
            width, space = 0, -1
            continue
        if line[place] == " ":
            space = place
        width += size
        place += 1
    return [*found, line[start:]] if start < len(line) or not found else found


def _padded(text: str, columns: int) -> str:
    return text + " " * max(columns - cell_len(text), 0)


def _heading(name: str, columns: int) -> str:
    line = f"── {name} ".ljust(columns, "─")
    return f"{_BOLD}{set_cell_size(line, columns)}{_PLAIN}"


def _prompt(prompt: Prompt, columns: int) -> list[str]:
    """Return a single question as it is, a conversation turn by turn."""
    if len(prompt.messages) == 1 and prompt.messages[0].role == "user":
        return wrapped(prompt.messages[0].content, columns)
    lines: list[str] = []
    for message in prompt.messages:
        calls = "" if message.tool_calls is None else f"\n{canonical_json(message.tool_calls)}"
        lines += [
            f"{_BOLD}{message.role}{_PLAIN}",
            *wrapped(message.content + calls, columns),
            "",
        ]
    return lines[:-1]


def _answer(completion: Completion) -> str:
    """Return what is judged of an answer: its text and its tool calls, without reasoning."""
    calls = completion.message.tool_calls
    text = completion.message.content
    if calls is None:
        return text or "(an empty answer)"
    return f"{text}\n{canonical_json(calls)}".lstrip("\n")
