"""What a loss's docstring says: formula, explanations, arguments, source."""

import inspect
import re
from dataclasses import dataclass, field

_SECTION = re.compile(r"^(Args|Returns|Raises|Source|Deviation):\s*(.*)$")
_ARGUMENT = re.compile(r"^    (\w+): (.*)$")
_ORIGIN = re.compile(r"\s*Default: (\w+)\.$")
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Docstring:
    """The parts of a docstring; what it does not have is empty.

    `formula` is the first line up to its first comma outside brackets and `where` the rest of that
    line; `arguments` are meanings by name and `origins` the words behind "Default:".
    """

    formula: str = ""
    where: str = ""
    details: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    returns: str = ""
    source: str = ""


def parse(text: str | None) -> Docstring:
    """The parts of a docstring in Google form, as losses have it."""
    first, *rest = inspect.cleandoc(text or "").splitlines() or [""]
    sections: dict[str, list[str]] = {"": []}
    current = ""
    for line in rest:
        if found := _SECTION.match(line):
            current = found[1]
            sections[current] = [found[2]] if found[2] else []
        else:
            sections[current].append(line)
    arguments = _arguments(sections.get("Args", []))
    formula, where = _halves(first.strip().removesuffix("."))
    return Docstring(
        formula=formula,
        where=where,
        details=_joined(sections[""]),
        arguments={name: _ORIGIN.sub("", meaning) for name, meaning in arguments.items()},
        origins={
            name: found[1]
            for name, meaning in arguments.items()
            if (found := _ORIGIN.search(meaning))
        },
        returns=_joined(sections.get("Returns", [])),
        source=_joined(sections.get("Source", [])),
    )


def links(source: str) -> tuple[str, ...]:
    """The addresses of the papers that a source names."""
    return tuple(f"https://arxiv.org/abs/{number}" for number in _ARXIV.findall(source))


def linked(source: str) -> str:
    """The source with its papers as links, in Markdown."""
    return _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def _halves(line: str) -> tuple[str, str]:
    depth = 0
    for place, character in enumerate(line):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and line.startswith(", ", place):
            return line[:place], line[place + 2 :]
    return line, ""


def _arguments(lines: list[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if start := _ARGUMENT.match(line):
            current = found.setdefault(start[1], [])
            current.append(start[2])
        else:
            current.append(line)
    return {name: _joined(parts) for name, parts in found.items()}


def _joined(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
