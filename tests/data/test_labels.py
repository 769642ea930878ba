"""Labelled answers by a threshold on grades, in the layouts that have grades."""

from pathlib import Path
from typing import Any

import pytest

from prefine.config.base import LabelSource
from prefine.config.sections import RunConfig
from prefine.data import judged
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import shaped
from prefine.errors import DataError
from prefine.stages.inputs import read_labels
from run_place import jsonl

HELPSTEER = {"prompt": "q", "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 1}
ULTRAFEEDBACK = {
    "instruction": "q",
    "models": ["m", "n"],
    "completions": [
        {"model": "m", "response": "good", "overall_score": 8.0},
        {"model": "n", "response": "bad", "overall_score": 3.0},
    ],
}


def labels(*rows: dict[str, Any], above: float | None) -> tuple[list[tuple[str, bool]], Any]:
    report = ImportReport()
    read = shaped(SourceRow(f"row {n}", row) for n, row in enumerate(rows))
    found = list(judged.labels(read, report, above=above))
    assert report.kept == len(found)
    return [(one.completion.text, one.desirable) for one in found], dict(report.dropped)


@pytest.mark.parametrize(
    ("rows", "above", "found"),
    [
        (
            [HELPSTEER | {"response": text, "helpfulness": n} for n, text in enumerate("abcd")],
            1.5,
            [("a", False), ("b", False), ("c", True), ("d", True)],
        ),
        ([ULTRAFEEDBACK], 7.99, [("good", True), ("bad", False)]),
        ([ULTRAFEEDBACK], 8.0, [("good", False), ("bad", False)]),
        # A row of one answer and its grade; a score goes before a grade.
        ([{"prompt": "q", "completion": "a", "grade": 3, "score": -1.0}], 0, [("a", False)]),
        ([{"prompt": "q", "completion": "a", "grade": "3.5"}], 3, [("a", True)]),
        # HH's transcripts up to the answer.
        (
            [{"prompt": "\n\nHuman: q\n\nAssistant:", "completion": " a", "grade": 2}],
            1,
            [("a", True)],
        ),
        # LlamaFactory's rows.
        ([{"instruction": "q", "output": "a", "kto_tag": False}], None, [("a", False)]),
        # Without a threshold, the label.
        ([{"prompt": "q", "completion": "a", "grade": 3, "label": False}], None, [("a", False)]),
    ],
)
def test_the_good_ones_have_more_than_the_threshold(
    rows: list[dict[str, Any]], above: float, found: list[tuple[str, bool]]
) -> None:
    assert labels(*rows, above=above) == (found, {})


def test_answers_without_a_grade_are_counted_and_the_grade_is_no_metadata() -> None:
    rows = [
        {"prompt": "q", "completions": [{"text": "a"}, {"text": "b", "grade": 1, "note": "n"}]},
        {"prompt": "r", "completions": [{"text": "c", "grade": None}]},
    ]
    assert labels(*rows, above=0.5) == ([("b", True)], {"answer without a grade": 2})
    source = (SourceRow("row", row) for row in rows)
    (found,) = judged.labels(source, above=0.5)
    assert found.completion.metadata == {"note": "n"}
    with pytest.raises(DataError, match="nothing is left of 1 rows"):
        labels(rows[1], above=0.5)


def test_a_source_has_the_threshold_and_without_one_is_written_as_before(tmp_path: Path) -> None:
    file = tmp_path / "graded.jsonl"
    file.write_bytes(jsonl([{"prompt": "q", "completion": "a", "grade": 2}]))
    source = LabelSource(name="file", path=str(file), above=1.0)
    assert [one.desirable for one in read_labels(source)] == [True]
    config = {"run_dir": "run", "policy": {"name": "playground"}}
    for given in ({}, {"above": 1.0}):
        entry = {"name": "file", "path": "x.jsonl", **given}
        made = RunConfig.model_validate({**config, "labels": entry})
        assert made.resolved()["labels"] == entry
