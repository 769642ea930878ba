"""RewardBench's instances, to and from our records."""

import json
from pathlib import Path

import pytest

from prefine.errors import DataError
from prefine.metrics.judges.reward_bench import ties_score
from prefine.suites.reward_bench.items import read_items, ties_of, write_items

V1 = {
    "prompt": "Hi?",
    "chosen": "Hello.",
    "chosen_model": "x",
    "rejected": "No.",
    "rejected_model": "y",
    "subset": "alpacaeval-easy",
    "id": 30,
}


def v2(id: str, right: list[str], wrong: list[str], subset: str = "Ties") -> dict:
    return {
        "id": id,
        "prompt": f"Prompt of {id}",
        "chosen": right,
        "rejected": wrong,
        "num_correct": len(right),
        "num_incorrect": len(wrong),
        "total_completions": len(right) + len(wrong),
        "models": ["z"],
        "subset": subset,
        "additional_metadata": {"category": None},
    }


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_v1_round_trip(tmp_path: Path) -> None:
    (item,) = read_items(lines(tmp_path / "v1.jsonl", V1))
    pair = item.preference()
    assert (pair.chosen.text, pair.chosen.model, pair.rejected.text, item.id) == (
        "Hello.",
        "x",
        "No.",
        "30",
    )
    write_items(tmp_path / "again.jsonl", [item], version=1)
    assert json.loads((tmp_path / "again.jsonl").read_text("utf-8")) == {**V1, "id": "30"}


def test_v2_round_trip(tmp_path: Path) -> None:
    rows = [
        v2("7", ["a"], ["b", "c", "d"], "Math"),
        v2("ref:1", ["a"], ["b"]),
        v2("tied:1", ["a", "b"], ["c"]),
    ]
    items = read_items(lines(tmp_path / "v2.jsonl", *rows))
    assert [item.num_correct for item in items] == [1, 1, 2]
    assert items[0].completions[3].model == "z"
    write_items(tmp_path / "again.jsonl", items, version=2)
    again = [
        json.loads(line) for line in (tmp_path / "again.jsonl").read_text("utf-8").splitlines()
    ]
    assert again == [row | {"models": ["z"] * row["total_completions"]} for row in rows]
    assert [item.completions for item in read_items(tmp_path / "again.jsonl")] == [
        item.completions for item in items
    ]


def test_ties_join_by_number(tmp_path: Path) -> None:
    rows = [
        v2("tied:2", ["a", "b"], ["c"]),
        v2("ref:1", ["a"], ["b"]),
        v2("Math-1", ["a"], ["b", "c", "d"], "Math"),
        v2("ref:2", ["a"], ["b"]),
        v2("tied:1", ["a", "b"], ["c"]),
    ]
    items = read_items(lines(tmp_path / "v2.jsonl", *rows))
    values = {
        "tied:2": [3, 2, 0],
        "ref:1": [1, 2],
        "ref:2": [5, 1],
        "tied:1": [4, 4, 1],
        "Math-1": [0] * 4,
    }
    scores = {
        c.id: float(v)
        for item in items
        for c, v in zip(item.completions, values[item.id], strict=True)
    }
    found = ties_of(items, scores)
    assert found.reference.gap.tolist() == [-1, 4]
    assert (found.tied.gap.tolist(), found.tied.spread.tolist()) == ([3, 2], [0, 1])
    assert ties_score(*found).n == 2
    with pytest.raises(
        DataError, match="1 prompts of the Ties subset lack their other version, such as number 1"
    ):
        ties_of(items[:-1], scores)
    with pytest.raises(DataError, match="item tied:2: 1 completions without a score"):
        ties_of(items, {k: v for k, v in scores.items() if k != items[0].completions[0].id})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({k: v for k, v in V1.items() if k != "rejected"}, "line 1: no field 'rejected'"),
        ({**V1, "chosen": 1.5}, "line 1: chosen must be a text, got 1.5"),
        ({**v2("x", ["a"], ["b"]), "num_correct": 2}, "line 1: num_correct is 2, but there are 1"),
        ({**v2("x", ["a"], ["b"]), "rejected": []}, "line 1: rejected must be a list of texts"),
        (
            {**v2("x", ["a"], ["b", "c"]), "models": ["p", "q"]},
            "line 1: models must be one name, or one for each answer",
        ),
    ],
)
def test_bad_rows(row: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_items(lines(tmp_path / "r.jsonl", row))


def test_more_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: id 30 of alpacaeval-easy is already in .*line 1"):
        read_items(lines(tmp_path / "r.jsonl", V1, V1))
    items = read_items(lines(tmp_path / "r.jsonl", v2("tied", ["a", "b"], ["c"])))
    with pytest.raises(
        DataError, match="id 'tied' of the Ties subset must be ref:NUMBER or tied:NUMBER"
    ):
        ties_of(items, {completion.id: 1.0 for completion in items[0].completions})
    with pytest.raises(
        DataError, match="item tied: 3 answers; version 1 has one right and one wrong"
    ):
        write_items(tmp_path / "out.jsonl", items, version=1)
    with pytest.raises(ValueError, match="version must be 1 or 2, got 3"):
        write_items(tmp_path / "out.jsonl", items, version=3)
