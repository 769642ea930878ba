"""The parts of a loss's docstring: formula, explanations, arguments, source."""

import inspect
import re
from dataclasses import dataclass

from docstring_parser import Docstring as Sections
from docstring_parser import ParseError
from docstring_parser.google import GoogleParser, Section, SectionType

_PARSER = GoogleParser(
    [
        Section("Args", "param", SectionType.MULTIPLE),
        *(
            Section(title, title, SectionType.SINGULAR)
            for title in ("Returns", "Raises", "Source", "Deviation")
        ),
    ]
)
# The parser wants a section's title on a line of its own.
_INLINE = re.compile(r"^(Returns|Raises|Source|Deviation):[ \t]*(?=\S)", re.MULTILINE)
_ORIGIN = re.compile(r"\s*Default: (\w+)\.$")
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Docstring:
    """The parts of a docstring; what it does not have is empty.

    `formula` is the first line up to its first comma outside brackets and `where` the rest of that
    line; `arguments` are meanings by name and `origins` the words behind "Default:".
    """

    formula: str
    where: str
    details: str
    arguments: dict[str, str]
    origins: dict[str, str]
    returns: str
    source: str


def parse(text: str | None) -> Docstring:
    """Return the parts of a docstring in Google form; of another form, its first line."""
    clean = inspect.cleandoc(text or "")
    first = clean.partition("\n")[0].strip()
    try:
        found = _PARSER.parse(_INLINE.sub(r"\1:\n    ", clean))
    except ParseError:
        found = Sections()
    formula, where = _halves(first.removesuffix("."))
    arguments = {one.arg_name: _joined(one.description) for one in found.params}
    origins = {name: _ORIGIN.search(meaning) for name, meaning in arguments.items()}
    sections = {meta.args[0]: _joined(meta.description) for meta in found.meta}
    return Docstring(
        formula=formula,
        where=where,
        details=_joined(found.long_description),
        arguments={name: _ORIGIN.sub("", meaning) for name, meaning in arguments.items()},
        origins={name: origin[1] for name, origin in origins.items() if origin},
        returns=sections.get("Returns", ""),
        source=sections.get("Source", ""),
    )


def links(source: str) -> tuple[str, ...]:
    """Return the addresses of the papers that a source names."""
    return tuple(f"https://arxiv.org/abs/{number}" for number in _ARXIV.findall(source))


def linked(source: str) -> str:
    """Return the source with its papers as links, in Markdown."""
    return _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def _halves(line: str) -> tuple[str, str]:
    """Cut at the first comma outside brackets."""
    depth = 0
    for place, character in enumerate(line):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and line.startswith(", ", place):
            return line[:place], line[place + 2 :]
    return line, ""


def _joined(text: str | None) -> str:
    return " ".join((text or "").split())
