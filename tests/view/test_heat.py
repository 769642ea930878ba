"""Tokens as heat: classes of changes, values for everybody, hostile tokens."""

import re

import pytest

from prefine.view.heat import heat, heat_class


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (-9.0, 0),
        (-3.0, 0),
        (-2.9, 1),
        (-1.0, 1),
        (-0.9, 2),
        (-0.3, 2),
        (-0.1, 3),
        (-0.09, 4),
        (0.0, 4),
        (0.09, 4),
        (0.1, 5),
        (0.3, 6),
        (2.9, 7),
        (3.0, 8),
        (90.0, 8),
    ],
)
def test_classes(change: float, expected: int) -> None:
    assert heat_class(change) == expected


def test_spans_and_values() -> None:
    found = str(heat(["Hi", " there", ""], [-0.5, -4.25, -1.0], [-1.0, -0.25, -1.0]))
    tokens = re.search(r'<p class="text heat-tokens" dir="auto">(.*?)</p>', found)
    assert tokens is not None
    assert tokens[1] == (
        '<span class="heat-6" title="+0.50 nats: −0.50 after training, −1.00 before">Hi</span>'
        '<span class="heat-0" title="−4.00 nats: −4.25 after training, −0.25 before"> there</span>'
        '<span class="heat-4" title="0.00 nats: −1.00 after training, −1.00 before">·</span>'
    )
    assert (
        "3 tokens: log-probability −2.25 before training, −5.75 after, a change of −3.50 nats"
        in found
    )
    assert [f'class="heat-{place}" aria-hidden' in found for place in range(9)] == [True] * 9
    assert found.count("<tr>") == 4
    assert (
        '<tr><td>2</td><th scope="row"><bdi> there</bdi></th><td>−0.25</td><td>−4.25</td>'
        "<td>−4.00</td></tr>"
    ) in found
    assert "style" not in found


def test_hostile_tokens_are_text() -> None:
    found = str(heat(["<script>", "\"'>", "\u202e\x00\n"], [-1.0] * 3, [-1.0] * 3))
    assert "<script" not in found and "&lt;script&gt;" in found
    assert "⟨U+202E⟩␀⏎\n" in found and "\u202e" not in found


def test_values_that_are_missing() -> None:
    with pytest.raises(ValueError, match="shorter"):
        heat(["a", "b"], [-1.0, -1.0], [-1.0])
    assert "0 tokens" in heat([], [], [])
