"""Markdown of models: what is shown, and that nothing of it can run, load, open or hide."""

import re
import time

import pytest

from prefine.view.markdown import PageTexts, rendered


def _inner(text: str) -> str:
    found = str(rendered(text))
    assert found.startswith('<div class="markdown" dir="auto">') and found.endswith("</div>")
    return found.removeprefix('<div class="markdown" dir="auto">').removesuffix("</div>").strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a **b** *c* `d`", "<p>a <strong>b</strong> <em>c</em> <code>d</code></p>"),
        ("## A *b*", '<p class="h2">A <em>b</em></p>'),
        ("a\nb", "<p>a<br />\nb</p>"),
        ("~~a~~", "<p><s>a</s></p>"),
        (
            "```python\na < b\n```",
            '<pre><span class="info">python</span><code>a &lt; b\n</code></pre>',
        ),
        ("    a & b", "<pre><code>a &amp; b\n</code></pre>"),
        ("> a", "<blockquote>\n<p>a</p>\n</blockquote>"),
        ("3. a", '<ol start="3">\n<li>a</li>\n</ol>'),
        (
            "|a|b|\n|:-:|-:|\n|1|<i>|",
            '<div class="sideways" tabindex="0" role="region" aria-label="Table"><table>\n<thead>\n'
            '<tr>\n<th class="center">a</th>\n<th class="right">b</th>\n</tr>\n</thead>\n<tbody>\n'
            '<tr>\n<td class="center">1</td>\n<td class="right">&lt;i&gt;</td>\n</tr>\n</tbody>\n'
            "</table></div>",
        ),
        ("", ""),
    ],
)
def test_what_is_shown(text: str, expected: str) -> None:
    assert _inner(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<script>a()</script>", "<p>&lt;script&gt;a()&lt;/script&gt;</p>"),
        ("<!-- hidden -->", "<p>&lt;!-- hidden --&gt;</p>"),
        ("&lt;img src=x onerror=a()&gt;", "<p>&lt;img src=x onerror=a()&gt;</p>"),
        ("&#x202E;a", "<p>⟨U+202E⟩a</p>"),
        ("\u202ea\x00", "<p>⟨U+202E⟩a␀</p>"),
        (
            "[a *b*](javascript:alert(1) 'said')",
            '<p><span class="link">a <em>b</em></span> '
            '<span class="address">(javascript:alert(1) said)</span></p>',
        ),
        (
            "<http://x.y>",
            '<p><span class="link">http://x.y</span> <span class="address">(http://x.y)</span></p>',
        ),
        (
            '![a "b"](data:text/html,<i>)',
            '<p><span class="image">image: a &#34;b&#34;</span> '
            '<span class="address">(data:text/html,&lt;i&gt;)</span></p>',
        ),
        (
            "![](http://x.y/a.png)",
            '<p><span class="image">image: no description</span> '
            '<span class="address">(http://x.y/a.png)</span></p>',
        ),
        (
            "[![a](b)](c)",
            '<p><span class="link"><span class="image">image: a</span> '
            '<span class="address">(b)</span></span> <span class="address">(c)</span></p>',
        ),
        ("[a]: javascript:x\n\n[a]", "<p>[a]: javascript:x</p>\n<p>[a]</p>"),
        (
            "```x' onload=a()\nb\n```",
            '<pre><span class="info">x&#39; onload=a()</span><code>b\n</code></pre>',
        ),
    ],
)
def test_hostile_texts_stay_texts(text: str, expected: str) -> None:
    assert _inner(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "> " * 5_000 + "a",
        "- " * 5_000 + "a",
        "[" * 20_000,
        "![" * 10_000,
        "[a](" * 5_000,
        "a**b" * 5_000,
        "`a``" * 5_000,
        "- a\n" * 5_000,
        "|" * 6_000 + "\n" + "|-" * 6_000,
        "a" * 20_001,
    ],
    ids=lambda text: text[:4],
)
def test_large_texts_are_shown_within_seconds(text: str) -> None:
    began = time.process_time()
    found = str(rendered(text))
    assert time.process_time() - began < 5
    for letter in "a[!":
        shown = re.sub("<[^>]*>", "", found)
        assert (letter in text) == (letter in shown)


def test_a_page_renders_so_much_and_no_more() -> None:
    page = PageTexts()
    long = "*a* " * 5_000
    # What is too long anyway takes nothing of it.
    assert "<pre>" in page.rendered(long + "*a*")
    assert ["<em>" in page.rendered(long) for _ in range(6)] == [True] * 5 + [False]
    assert page.rendered("*a*") == '<div class="markdown" dir="auto"><pre>*a*</pre></div>'


def test_deep_quotes_are_not_dropped() -> None:
    assert "deep" in rendered("> " * 30 + "deep")
    assert rendered("> " * 30 + "deep").count("<blockquote>") == 30
    assert _inner("> " * 100 + "deep") == "<pre>" + "&gt; " * 100 + "deep</pre>"


def test_no_tag_has_what_could_act() -> None:
    hostile = (
        "# a\nz\n[b](javascript:c) ![d](http://e) <a href=f onclick=g style=h>i</a>\n"
        "|j|\n|:-|\n|<iframe src=k>|\n\n```l onload=m\nn\n```\n<style>o</style>"
    )
    tags = re.findall(r"<[^>]*>", str(rendered(hostile)))
    assert {tag for tag in tags if not tag.startswith("</")} == {
        '<div class="markdown" dir="auto">',
        '<p class="h1">',
        "<p>",
        '<span class="link">',
        '<span class="address">',
        '<span class="image">',
        "<br />",
        '<div class="sideways" tabindex="0" role="region" aria-label="Table">',
        "<table>",
        "<thead>",
        "<tbody>",
        "<tr>",
        '<th class="left">',
        '<td class="left">',
        "<pre>",
        '<span class="info">',
        "<code>",
    }
