"""The words in which two texts differ."""

from collections.abc import Sequence
from itertools import takewhile

from markupsafe import Markup, escape

from prefine.report.examples import MOST_WORDS, WORD, changed_words
from prefine.report.text import visible

_AT_ONCE, _FEWEST_SHARED = 200, 0.4
"""Words of a text whose longest common runs are found at once, whatever they are; and the share of
the shorter text that both begin or end with, below which a mark on all the rest says nothing.
"""
Pieces = list[tuple[str, bool]]
"""A text in pieces, True where the other text does not have the same words."""


def changed(before: str, after: str) -> tuple[Markup, Markup]:
    """Return both texts, escaped: `<del>` is in the first one only, `<ins>` in the second only.

    The words that both begin or end with need no comparison. If more than 2,000 are left, all of
    these count as changed. Nothing is marked in texts that share few words, see `changed_words`.
    """
    old, new = _pieces(before, after)
    return marked(old, "del"), marked(new, "ins")


def _pieces(before: str, after: str) -> tuple[Pieces, Pieces]:
    sides = WORD.findall(before), WORD.findall(after)
    longest, shortest = (most(map(len, sides)) for most in (max, min))
    if longest <= _AT_ONCE:
        return changed_words(before, after)
    if longest <= MOST_WORDS:
        return changed_words(before, after, differences="levenshtein")
    start = _shared(*sides)
    end = min(_shared(sides[0][::-1], sides[1][::-1]), shortest - start)
    first, second = ("".join(words[start : len(words) - end]) for words in sides)
    middles = _whole(first, second, mark=False)
    if longest - start - end <= MOST_WORDS:
        middles = changed_words(first, second, differences="levenshtein")
    marked = any(mark for middle in middles for _, mark in middle)
    if not marked and start + end >= shortest * _FEWEST_SHARED:
        middles = _whole(first, second, mark=True)
    ends = "".join(sides[0][:start]), "".join(sides[0][len(sides[0]) - end :])
    old, new = ([(ends[0], False), *middle, (ends[1], False)] for middle in middles)
    return old, new


def _whole(first: str, second: str, *, mark: bool) -> tuple[Pieces, Pieces]:
    return [(first, mark)], [(second, mark)]


def _shared(first: Sequence[str], second: Sequence[str]) -> int:
    """The number of words that both begin with."""
    return sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(first, second, strict=False)))


def marked(pieces: Pieces, tag: str) -> Markup:
    """Return the text of the pieces, escaped, with those that are True in elements `tag`."""
    element = Markup(f"<{tag}>{{}}</{tag}>")
    return Markup().join(
        element.format(visible(text)) if mark else escape(visible(text))
        for text, mark in pieces
        if text
    )
