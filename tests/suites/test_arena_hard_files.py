"""Arena-Hard's judgments, to and from our records."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefine.errors import DataError
from prefine.metrics.win_rates.arena_hard import arena_hard_scores
from prefine.records import Comparison, Judgment
from prefine.suites.arena_hard import (
    ArenaJudgment,
    battles_of,
    from_judgments,
    read_battles,
    read_judgments,
    write_judgments,
)

V1 = {
    "question_id": "q1",
    "model": "m",
    "judge": "gpt-4",
    "games": [
        {"user_prompt": "…", "judgment": "So [[B>>A]]", "score": "B>>A"},
        {"judgment": "Hm", "score": None},
    ],
}
V2 = {
    "uid": "q2",
    "category": "hard_prompt",
    "judge": "gpt-4.1",
    "model": "m",
    "baseline": "o3-mini",
    "games": [
        {"score": "A=B", "judgment": {"answer": "My verdict: [[A=B]]"}, "prompt": []},
        {"score": "A>B", "judgment": {"answer": "[[A>B]]"}},
    ],
    "version": 3,
}


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_both_versions(tmp_path: Path) -> None:
    one, two = read_judgments(lines(tmp_path / "m.jsonl", V1, V2))
    assert (one.prompt_id, one.verdicts, one.texts) == ("q1", ("B>>A", None), ("So [[B>>A]]", "Hm"))
    assert (two.baseline, two.category, two.metadata) == ("o3-mini", "hard_prompt", {"version": 3})
    first, second = two.judgments()
    assert (first.p_first, second.p_first) == (0.5, 1.0)
    assert first.comparison.swapped() == second.comparison
    assert one.judgments("base")[1].error == "no verdict"


def test_round_trip(tmp_path: Path) -> None:
    judgments = read_judgments(lines(tmp_path / "m.jsonl", V1, V2))
    write_judgments(tmp_path / "again.jsonl", judgments)
    assert read_judgments(tmp_path / "again.jsonl") == judgments
    for one in judgments:
        again = from_judgments(
            *one.judgments("base"), model="m", baseline="base", category=one.category
        )
        assert (again.verdicts, again.texts, again.judge) == (one.verdicts, one.texts, one.judge)


def test_strength_is_taken_from_the_text_if_it_says_the_same_once() -> None:
    shown = Comparison(prompt_id="p", first="b", second="m")

    def verdict(p: float, text: str) -> object:
        first = Judgment(comparison=shown, judge="j", p_first=p, raw_text=text)
        second = Judgment(comparison=shown.swapped(), judge="j", p_first=0.5)
        return from_judgments(first, second, model="m", baseline="b").verdicts[0]

    assert verdict(1.0, "[[A>>B]]") == "A>>B"
    assert verdict(0.0, "[[A>>B]]") == "B>A"
    assert verdict(0.9, "[[A>>B]] or [[A>B]]") == "A>B"
    assert verdict(0.5, "") == "A=B"
    one = Judgment(comparison=shown, judge="j", p_first=1.0)
    with pytest.raises(DataError, match="not one pair in both orders"):
        from_judgments(one, one, model="m", baseline="b")


def test_scores_of_a_file(tmp_path: Path) -> None:
    rows = [V2, {**V2, "uid": "q3", "games": [{"score": "B>>A"}, None]}]
    found = battles_of(read_judgments(lines(tmp_path / "m.jsonl", *rows)))
    scores = arena_hard_scores(found, baseline="o3-mini")
    assert (scores.scores[0].value, scores.scores[0].n, scores.missing) == (75, 1, (1, 0))


def test_a_folder_with_a_file_per_model(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {**V2, "model": "a"})
    lines(tmp_path / "b.jsonl", {**V2, "model": "b"})
    assert [one.model for one in read_judgments(tmp_path)] == ["a", "b"]


def test_mixed_baselines_and_judges() -> None:
    def one(**more: str) -> ArenaJudgment:
        return ArenaJudgment(prompt_id="p", model="m", verdicts=("A>B", "A>B"), **more)

    with pytest.raises(DataError, match=r"2 judgments with 2 baselines \('x', 'y'\)"):
        battles_of([one(baseline="x"), one(baseline="y")])
    with pytest.raises(DataError, match="2 judges"):
        battles_of([one(judge="x"), one(judge="y")])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**V2, "games": [None]}, "line 1: games must be two, baseline first and model first"),
        (
            {**V2, "games": [{"score": "A>>>B"}, None]},
            "line 1, game 0: score must be one of A>>B, .*got 'A>>>B'",
        ),
        ({**V2, "games": [{}, None]}, "line 1, game 0: expected an object with a score"),
        ({"uid": "q"}, "line 1: no field 'games'"),
        ({"games": [None, None], "model": "m"}, "line 1: no field 'uid' or 'question_id'"),
    ],
)
def test_bad_rows(row: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_judgments(lines(tmp_path / "m.jsonl", row))


def test_a_prompt_twice(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"line 2: prompt q2 of m by judge 'gpt-4.1' is already in .*line 1; keep one",
    ):
        read_judgments(lines(tmp_path / "m.jsonl", V2, V2))


def test_battles_refuse(tmp_path: Path) -> None:
    row = {"question_id": 1, "model_a": "x", "model_b": "m", "winner": "model_a"}
    for changed, message in (
        ({"model_a": "y"}, "model_a must be one baseline, found 'x', 'y'"),
        ({"winner": "m"}, "winner"),
    ):
        pq.write_table(pa.Table.from_pylist([row, row | changed]), tmp_path / "b.parquet")
        with pytest.raises(DataError, match=message):
            read_battles(tmp_path / "b.parquet")
