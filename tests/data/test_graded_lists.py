"""Lists by the grade that layouts give, and what is left out of them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prefine.data import judged
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import file
from prefine.errors import DataError
from prefine.records import PreferenceList


def lists(*rows: list[Any]) -> tuple[list[PreferenceList], dict[str, int]]:
    report = ImportReport()
    found = judged.lists(
        (
            SourceRow(f"row {n}", {"prompt": f"question {n}", "completions": row})
            for n, row in enumerate(rows)
        ),
        report,
    )
    return list(found), dict(report.dropped)


def graded(text: str, **fields: Any) -> dict[str, Any]:
    return {"text": text, **fields}


def test_the_grade_orders_and_is_the_score() -> None:
    rows = [graded("b", grade=1), graded("a", grade=2.5), graded("c", grade=0)]
    ((found,), dropped) = lists(rows)
    assert [one.text for one in found.completions] == ["a", "b", "c"]
    assert found.scores == (2.5, 1, 0) and found.ranks is None
    assert not any("grade" in one.metadata for one in found.completions)
    assert dropped == {}


@pytest.mark.parametrize(("name", "best"), [("score", "b"), ("rank", "a")])
def test_a_score_or_a_rank_goes_before_the_grade(name: str, best: str) -> None:
    ((found,), _) = lists([graded("a", grade=9, **{name: 1}), graded("b", grade=1, **{name: 2})])
    assert found.completions[0].text == best
    assert "grade" in found.completions[0].metadata


def test_answers_without_the_others_grade_and_repeated_ones_are_left_out() -> None:
    found, dropped = lists(
        [graded("a"), graded("b", grade=1), graded("c", grade=2)],
        [graded("a", grade=3), graded("b"), graded("c")],
        [graded("a", grade=1), graded("a", grade=3), graded("b", grade=2)],
        [graded("a", grade=1), graded("a", grade=3)],
    )
    assert [[one.text for one in each.completions] for each in found] == [["c", "b"], ["a", "b"]]
    assert found[1].scores == (3, 2)
    assert dropped == {
        "answer without a grade": 3,
        "list of one answer": 2,
        "repeated answer": 2,
    }


def test_answers_without_any_judgment_are_refused() -> None:
    with pytest.raises(DataError, match="no rank"):
        lists([graded("a"), graded("b")])


def test_real_verdicts_become_lists(real_data: Path) -> None:
    report = ImportReport()
    found = list(judged.lists(file(path=real_data / "qa_feedback" / "dev.jsonl"), report))
    useless = ("all equally good", "list of one answer", "duplicate prompt")
    set_aside = sum(report.dropped[reason] for reason in useless)
    assert report.read == 347 == len(found) + set_aside
    sizes = Counter(len(one.completions) for one in found)
    assert max(sizes) == 4 and sizes[4] > 250
    # Every verdict is one point.
    assert all(sum(one.scores or ()) == 6 for one in found if len(one.completions) == 4)
