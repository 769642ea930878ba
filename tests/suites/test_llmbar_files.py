"""LLMBar's files, to and from our records."""

import json
from pathlib import Path

import pytest

from prefine.errors import ConfigError, DataError
from prefine.metrics.judges.verdicts import labelled_accuracy
from prefine.records import Judgment
from prefine.suites.llmbar import (
    read_instances,
    read_results,
    verdicts_of,
    write_instances,
    write_results,
)

INSTANCE = {"input": "2+2?", "output_1": "4", "output_2": "5", "label": 1}


def stage(original: object, swapped: object) -> dict:
    return {
        "swap = False": {"completion": ["Output (a)", "stop"], "winner": original},
        "swap = True": {"completion": ["Output (b)", ""], "winner": swapped},
    }


def written(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_instances_round_trip(tmp_path: Path) -> None:
    rows = [INSTANCE, {**INSTANCE, "input": "Two\u2028lines", "label": 2, "source": "ours"}]
    pairs = read_instances(written(tmp_path / "dataset.json", rows))
    assert [pair.label for pair in pairs] == [1, 2]
    assert pairs[1].metadata == {"source": "ours"}
    assert (pairs[1].preference().chosen.text, pairs[0].preference().chosen.text) == ("5", "4")
    write_instances(tmp_path / "again.json", pairs)
    assert json.loads((tmp_path / "again.json").read_text("utf-8")) == rows


def test_real_pairs(real_data: Path, tmp_path: Path) -> None:
    pairs = read_instances(real_data / "llmbar" / "llmbar.jsonl")
    assert len(pairs) == 419 and sum(pair.subset == "Natural" for pair in pairs) == 100
    assert len({pair.preference().id for pair in pairs}) == 419
    write_instances(tmp_path / "dataset.json", pairs)
    again = read_instances(tmp_path / "dataset.json")
    assert [(p.prompt.id, p.one.id, p.two.id, p.label, p.subset, p.metadata) for p in again] == [
        (p.prompt.id, p.one.id, p.two.id, p.label, p.subset, p.metadata) for p in pairs
    ]


def test_results(tmp_path: Path) -> None:
    rows = [
        INSTANCE | {"results": [stage("1", "1")]},
        INSTANCE | {"input": "b", "results": [stage("1", "2"), stage("2", "2")]},
        INSTANCE | {"input": "c", "results": [stage("None", None)]},
    ]
    judged = read_results(written(tmp_path / "result.json", rows), judge="GPT-4")
    assert verdicts_of(judged) == ([1, 1, 1], [1.0, 0.0, None], [1.0, 0.0, None])
    original, swapped = judged[0].original, judged[0].swapped
    assert (original.p_first, swapped.p_first, original.raw_text) == (1.0, 0.0, "Output (a)")
    assert original.comparison.swapped() == swapped.comparison
    assert judged[2].original.error == "no verdict"
    assert labelled_accuracy(*verdicts_of(judged)).mean.value == pytest.approx(100 / 3)
    write_results(tmp_path / "again.json", judged)
    again = read_results(tmp_path / "again.json", judge="GPT-4")
    assert [(one.original, one.swapped) for one in again] == [
        (one.original, one.swapped) for one in judged
    ]


def test_what_the_file_cannot_hold(tmp_path: Path) -> None:
    (one,) = read_results(
        written(tmp_path / "r.json", [INSTANCE | {"results": [stage("1", "1")]}]), judge="j"
    )
    tie = Judgment(comparison=one.original.comparison, judge="j", p_first=0.5)
    with pytest.raises(DataError, match="pair 0, swap = False: a tie"):
        write_results(tmp_path / "out.json", [one._replace(original=tie)])
    with pytest.raises(
        DataError,
        match="pair 0, swap = False: the judgment is of other answers, or in the other order",
    ):
        write_results(tmp_path / "out.json", [one._replace(original=one.swapped)])
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**INSTANCE, "label": 3}, "row 0: label must be one of 1, 2; got 3"),
        ({**INSTANCE, "label": True}, "row 0: label must be one of 1, 2; got True"),
        (
            {"input": "a", "output_1": "b", "label": 1},
            "row 0: no field 'output_2'; there is input, label, output_1",
        ),
        ({**INSTANCE, "output_1": None}, "row 0: output_1 must be a text, got None"),
    ],
)
def test_bad_instances(row: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_instances(written(tmp_path / "d.json", [row]))


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "row 0: results must be a list of stages with at least one"),
        ([{}], "row 0: the last of results needs 'swap = False' with a winner, got None"),
        (
            [stage("3", "1")],
            "row 0, swap = False: winner must be one of None, 1, 2; got '3'",
        ),
    ],
)
def test_bad_results(results: list, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_results(written(tmp_path / "r.json", [INSTANCE | {"results": results}]), judge="j")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_instances(tmp_path / "none.json")
