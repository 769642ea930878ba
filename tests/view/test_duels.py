"""Duels of a prompt: rows, both orders, disagreements, and the picture."""

import xml.etree.ElementTree as ElementTree

import pytest

from prefine.records import Comparison, DuelRecord, Judgment, Ranking
from prefine.view.duels import graph, ranked, rows

RANKING = Ranking(
    prompt_id="p",
    strategy="round_robin",
    completions=("a", "b", "c", "d"),
    champion="c",
    order=("c", "a", "d"),
    duels=(DuelRecord(first="a", second="c", p_first=0.25),),
)


def _judged(first: str, second: str, p: float | None, judge: str = "j", **more: str) -> Judgment:
    comparison = Comparison(prompt_id="p", first=first, second=second)
    error = "timeout" if p is None else None
    return Judgment(comparison=comparison, judge=judge, p_first=p, error=error, **more)


NAMES = {"c": "1", "a": "2", "d": "3", "b": "4"}
JUDGED = [
    _judged("a", "c", 0.25, raw_text="C is better."),
    _judged("c", "a", 0.625),
    _judged("d", "a", 0.75),
    _judged("a", "d", 0.75),
    _judged("c", "d", None),
    _judged("d", "c", 0.75),
    _judged("b", "a", 0.5),
    _judged("x", "a", 1.0),
]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"order": ("c", "a", "d")}, ["c", "a", "d", "b"]),
        ({"scores": (0.0, 3.0, 1.0, 2.0)}, ["b", "d", "c", "a"]),
        ({"champion": "c", "worst": "a"}, ["c", "b", "d", "a"]),
        ({}, ["a", "b", "c", "d"]),
    ],
)
def test_best_first_as_far_as_it_is_known(known: dict[str, object], expected: list[str]) -> None:
    base = {"order": None, "champion": None}
    assert ranked(RANKING.model_copy(update=base | known)) == expected


def test_rows_have_both_orders_and_what_disagrees() -> None:
    found = rows(JUDGED, names=NAMES)
    assert [
        (one.first, one.second, one.forward, one.backward, one.p, one.disagrees, one.failed)
        for one in found
    ] == [
        ("1", "2", 0.625, 0.75, 0.6875, False, 0),
        ("1", "3", None, 0.25, 0.25, False, 1),
        # 2 was better both times it was shown first, and worse when it was not.
        ("2", "3", 0.75, 0.25, 0.5, True, 0),
        ("2", "4", None, 0.5, 0.5, False, 0),
    ]
    assert [tuple(verdict) for verdict in found[0].verdicts] == [
        (("2", "1"), 0.25, "j", "C is better."),
        (("1", "2"), 0.625, "j", ""),
    ]
    assert found[0].words == [("2, then 1", "C is better.")]
    assert found[1].words == [("1, then 3", "timeout")]
    one_way = rows(JUDGED, names=NAMES, order=["d", "c"])
    assert [(one.first, one.second, one.forward, one.p) for one in one_way] == [
        ("3", "1", 0.75, 0.75)
    ]


def test_two_judges_disagree() -> None:
    (found,) = rows([_judged("c", "a", 0.9), _judged("c", "a", 0.2, judge="other")], names=NAMES)
    assert found.disagrees and found.forward == pytest.approx(0.55)


def test_a_run_without_judgments_shows_the_duels_of_its_ranking() -> None:
    drawn = graph(RANKING, names={"a": "A", "b": "B", "c": "C", "d": "D"})
    assert "C against A: P(C is better) 0.75" in drawn and drawn.count("<path") == 1


def test_the_picture() -> None:
    drawn = ElementTree.fromstring(str(graph(RANKING, JUDGED)))
    svg = drawn[0]
    assert svg.get("aria-label") == (
        "4 duels among 4 completions: 1 won by the one that ranks lower, 1 with verdicts that "
        "disagree"
    )
    arcs = [path.get("class") for path in svg.iter("path")]
    assert arcs == ["duel-arc won", "duel-arc upset", "duel-arc tie disagrees", "duel-arc tie"]
    labels = [one.text for one in svg.iter("text") if "duel-label" in (one.get("class") or "")]
    assert labels == ["0.69", "0.25", "≠ 0.50", "0.50"]
    titles = [one.text for one in svg.iter("title")]
    assert titles[0] == (
        "1 against 2: P(1 is better) 0.69; 0.62 with 1 shown first, 0.75 with 2 shown first"
    )
    assert titles[1] == "1 against 3: P(1 is better) 0.25; 1 verdict failed"
    places = [float(one.get("cx") or 0) for one in svg.iter("circle")]
    assert places == sorted(places) and len(places) == 4
    assert "style" not in str(graph(RANKING, JUDGED))


def test_names_are_text_and_nothing_is_a_picture_too() -> None:
    hostile = "<script>\u202e"
    drawn = str(graph(RANKING, JUDGED, dict.fromkeys("bcd", "n") | {"a": hostile}))
    assert "<script" not in drawn and "&lt;script&gt;⟨U+202E⟩" in drawn
    alone = Ranking(prompt_id="p", strategy="s", completions=("a",))
    assert "0 duels among 1 completion:" in graph(alone)
