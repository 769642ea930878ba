"""Markdown of models as markup that can neither run, load nor open anything."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, cast

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

from prefine.report.text import visible

_MOST_CHARACTERS, _MOST_OF_PAGE = 20_000, 100_000
"""Of a text, and of all texts of a page: the worst ones take some 30 µs a character."""
_DEEPEST = 60
"""Quotes and lists nested deeper are dropped by the parser, so such a text is shown as it is."""


def rendered(text: str) -> Markup:
    """Return a text as Markdown, in a `<div class="markdown">`.

    HTML is text. An image is its description, and a link its text, both with the address beside
    them. Headings are paragraphs, because the page has headings of its own. A text that is too long
    or nested too deeply is returned as it is, in a `<pre>`.
    """
    if len(text) > _MOST_CHARACTERS:
        return _as_it_is(text)
    tokens = _parser().parse(visible(text))
    if max((token.level for token in tokens), default=0) >= _DEEPEST - 2:
        return _as_it_is(text)
    parser = _parser()
    html = parser.renderer.render(tokens, parser.options, {})
    # Once more, because entities have become characters. Inside tags there are only ours.
    return _framed(Markup(visible(html)))


class PageTexts:
    """The Markdown of one page; texts beyond `_MOST_OF_PAGE` characters are shown as they are."""

    def __init__(self) -> None:
        self._left = _MOST_OF_PAGE

    def rendered(self, text: str) -> Markup:
        """Return a text as `rendered` does, or as it is once the page has had enough."""
        if len(text) > min(self._left, _MOST_CHARACTERS):
            return _as_it_is(text)
        self._left -= len(text)
        return rendered(text)


def _as_it_is(text: str) -> Markup:
    return _framed(Markup("<pre>{}</pre>").format(visible(text)))


def _framed(body: Markup) -> Markup:
    return Markup('<div class="markdown" dir="auto">{}</div>').format(body)


@cache
def _parser() -> MarkdownIt:
    options = {"html": False, "linkify": False, "breaks": True, "maxNesting": _DEEPEST}
    parser = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])
    # A definition of a link would be text that is not shown.
    parser.disable("reference")
    # Every address is shown as it was written, and none is opened.
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
    rules: dict[str, Any] = {
        "heading_open": _heading,
        "heading_close": partial(_text, "</p>\n"),
        "link_open": partial(_text, '<span class="link">'),
        "link_close": _end_of_link,
        "image": _image,
        "fence": _code,
        "code_block": _code,
        "table_open": partial(
            _text, '<div class="sideways" tabindex="0" role="region" aria-label="Table"><table>\n'
        ),
        "table_close": partial(_text, "</table></div>\n"),
        "th_open": partial(_cell, "th"),
        "td_open": partial(_cell, "td"),
    }
    cast(RendererHTML, parser.renderer).rules.update(rules)
    return parser


def _text(markup: str, tokens: Sequence[Token], index: int, *_: Any) -> str:
    return markup


def _heading(tokens: Sequence[Token], index: int, *_: Any) -> str:
    return f'<p class="{tokens[index].tag}">'


def _code(tokens: Sequence[Token], index: int, *_: Any) -> str:
    token = tokens[index]
    info = f'<span class="info">{escape(token.info.strip())}</span>' if token.info.strip() else ""
    return f"<pre>{info}<code>{escape(token.content)}</code></pre>\n"


def _end_of_link(tokens: Sequence[Token], index: int, *_: Any) -> str:
    depth = 0
    for token in reversed(tokens[: index + 1]):
        depth += {"link_close": 1, "link_open": -1}.get(token.type, 0)
        if not depth:
            return f"</span>{_address(token, 'href')}"
    raise AssertionError("every link that ends has begun")


def _image(tokens: Sequence[Token], index: int, *_: Any) -> str:
    token = tokens[index]
    said = token.content or "no description"
    return f'<span class="image">image: {escape(said)}</span>{_address(token, "src")}'


def _address(token: Token, attribute: str) -> str:
    said = [str(token.attrGet(name) or "") for name in (attribute, "title")]
    words = " ".join(filter(None, said)) or "no address"
    return f' <span class="address">({escape(words)})</span>'


def _cell(tag: str, tokens: Sequence[Token], index: int, *_: Any) -> str:
    # The library writes an inline style, which the pages' security policy forbids.
    side = str(tokens[index].attrGet("style") or "").removeprefix("text-align:")
    return f'<{tag} class="{side}">' if side in ("left", "center", "right") else f"<{tag}>"
