"""Changed words: marks, escaping, and long texts within seconds."""

import random
import re
import time

import pytest
from markupsafe import Markup

from prefine.view.words import changed


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a b c", "a x c", ("a <del>b</del> c", "a <ins>x</ins> c")),
        ("a b", "a b", ("a b", "a b")),
        ("", "a", ("", "a")),
        (
            "the <b> cat",
            "the <i> cat",
            ("the &lt;<del>b</del>&gt; cat", "the &lt;<ins>i</ins>&gt; cat"),
        ),
        # Nothing is marked where nearly everything would be.
        ("one two three", "four five six", ("one two three", "four five six")),
        ("a\x00 b", "a\x00 \u202eb", ("a␀ b", "a␀ <ins>⟨U+202E⟩</ins>b")),
    ],
)
def test_marks(before: str, after: str, expected: tuple[str, str]) -> None:
    assert changed(before, after) == expected


_WORDS = [f"w{number}" for number in range(20_000)]
_LONG = " ".join(_WORDS)


def _plain(marked: Markup) -> str:
    return re.sub("</?(del|ins)>", "", marked)


def test_an_insertion_in_a_long_text() -> None:
    after = " ".join([*_WORDS[:9_000], "new", *_WORDS[9_000:]])
    old, new = changed(_LONG, after)
    assert old == _LONG and new == after.replace("new ", "<ins>new </ins>")


def test_a_part_of_a_long_text() -> None:
    after = " ".join([*_WORDS[:9_000], "x", "y", *_WORDS[9_002:]])
    old, new = changed(_LONG, after)
    assert old == _LONG.replace("w9000 w9001", "<del>w9000 w9001</del>")
    assert new == after.replace(" x y ", " <ins>x y</ins> ")
    kept = " ".join(_WORDS[9_000:9_050])
    after = _LONG.replace(kept, f"x {kept} y")
    old, new = changed(_LONG, after)
    assert new == after.replace("x w9", "<ins>x </ins>w9").replace(" y w", "<ins> y</ins> w")


def test_what_is_too_long_to_compare_is_marked_whole_between_ends_that_are_the_same() -> None:
    middle = " ".join(_WORDS[9_000:11_000][::-1])
    after = " ".join([*_WORDS[:9_000], middle, *_WORDS[11_000:]])
    old, new = changed(_LONG, after)
    assert old.count("<del>") == new.count("<ins>") == 1
    assert "<del>w9000 " in old and " w10999</del>" in old and f"<ins>{middle}</ins>" in new
    old, new = changed(_LONG, _LONG[::-1])
    assert "<" not in old + new


@pytest.mark.parametrize("words", [300, 990, 20_000])
def test_any_texts_within_seconds(words: int) -> None:
    rng = random.Random(0)
    texts = [
        "a b c " * (words // 3),
        "c a b d " * (words // 4),
        " ".join(rng.choices("abc", k=words)),
        " ".join(rng.choices(_WORDS[:200], k=words)),
        _LONG,
        "x" * words,
        "\n" * words,
    ]
    for before in texts:
        for after in texts:
            began = time.process_time()
            old, new = changed(before, after)
            assert time.process_time() - began < 2
            assert (_plain(old), _plain(new)) == (before, after)
