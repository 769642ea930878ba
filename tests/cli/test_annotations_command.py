"""`prefine evaluate annotations`: each kind of file, what is refused, and the stage beside it."""

import csv
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from command import Result, prefine
from prefine.metrics.judges.reward_bench import SECTIONS, V2_SUBSETS
from prefine.records import Comparison, Judgment
from prefine.suites.annotations import KINDS
from run_place import Place

Rows = Sequence[dict[str, Any]]


def written(path: Path, rows: Rows) -> str:
    if path.suffix == ".json":
        path.write_text(json.dumps(list(rows)), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def measured(*arguments: str) -> dict[str, Any]:
    """The one file of the JSON."""
    result = prefine("evaluate", "annotations", *arguments, "--json")
    assert result.code == 0, result.err
    printed = json.loads(result.out)
    assert set(printed) == {"files"}
    (file,) = printed["files"]
    assert set(file) == {"file", "kind", "parts"}
    for part in file["parts"]:
        assert set(part) == {"of", "metrics", "notes"}
    return dict(file)


def values(part: dict[str, Any]) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in part["metrics"]}


def refused(result: Result, code: int, *said: str) -> None:
    assert (result.code, result.out) == (code, "")
    for text in said:
        assert text in result.err
    assert "Traceback" not in result.err


def alpaca(preferences: Sequence[float | None], **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"question {n}",
            "output_1": "the baseline says " + "much " * (n % 5),
            "generator_1": "baseline",
            "output_2": f"answer {n} " + "and more " * (n % 3),
            "generator_2": "model",
            "annotator": "judge",
            "preference": preference,
        }
        | changes
        for n, preference in enumerate(preferences)
    ]


PREFERENCES = [1.0, 2.0, 1.5, 0.0, None, 1.9, 1.2, 1.8, 1.7, 1.4, 1.6, 1.1]


# --- AlpacaEval


def test_alpaca_annotations(tmp_path: Path) -> None:
    file = measured(written(tmp_path / "annotations.json", alpaca(PREFERENCES)))
    (part,) = file["parts"]
    known = np.array([0.5 if p == 0 else p - 1 for p in PREFERENCES if p is not None])
    assert file["kind"] == "alpaca_eval"
    assert part["of"] == "model against baseline"
    found = values(part)
    assert found["win_rate"] == pytest.approx(100 * known.mean())
    assert found["draw_rate"] == pytest.approx(100 * 2 / 11)
    assert found["decided_win_rate"] == pytest.approx(100 * 5 / 9)
    assert "length_controlled_win_rate_uncalibrated" in found
    (metric,) = (one for one in part["metrics"] if one["name"] == "win_rate")
    assert metric["n"] == 11
    assert metric["standard_error"] == pytest.approx(100 * known.std(ddof=1) / math.sqrt(11))
    assert metric["interval"][0] < metric["value"] < metric["interval"][1]
    assert any("1 of 12 rows have no annotation" in note for note in part["notes"])


def test_alpaca_answers_from_beside_the_file_and_a_calibration(tmp_path: Path) -> None:
    rows = alpaca(PREFERENCES)
    bare = written(
        tmp_path / "bare.json",
        [{k: v for k, v in row.items() if not k.startswith("output")} for row in rows],
    )
    outputs, baseline = (
        written(
            tmp_path / f"outputs{side}.json",
            [
                {
                    "instruction": row["instruction"],
                    "output": row[f"output_{side}"],
                    "generator": row[f"generator_{side}"],
                }
                for row in rows
            ],
        )
        for side in (2, 1)
    )
    (tmp_path / "instruction_difficulty.csv").write_text(
        ",instruction_difficulty\n" + "".join(f"{n},{n % 4 - 1.5}\n" for n in range(12))
    )
    (tmp_path / "df_gamed.csv").write_text(
        "std_delta_len,instruction_difficulty,preference\n"
        + "".join(f"{n % 3 - 1},{n % 4 - 1.5},{0.3 + 0.05 * (n % 8)}\n" for n in range(12))
    )
    beside = ("--outputs", outputs, "--baseline-outputs", baseline)
    refused(prefine("evaluate", "annotations", bare), 3, "bare.json, row 0", "output_1")
    (own,), (joined,) = (
        measured(*arguments)["parts"]
        for arguments in ((written(tmp_path / "own.json", rows),), (bare, *beside))
    )
    assert values(joined) == pytest.approx(values(own))
    assert joined["notes"] == own["notes"]
    (part,) = measured(bare, *beside, "--calibration", str(tmp_path))["parts"]
    assert "length_controlled_win_rate" in values(part)
    two = (str(tmp_path / name) for name in ("instruction_difficulty.csv", "df_gamed.csv"))
    assert measured(bare, *beside, *(part for path in two for part in ("--calibration", path)))[
        "parts"
    ] == [part]


def test_answers_of_another_run_are_refused(tmp_path: Path) -> None:
    rows = alpaca(PREFERENCES)
    annotations = written(tmp_path / "annotations.json", rows)
    other = [
        {"instruction": row["instruction"], "output": "other", "generator": "model"} for row in rows
    ]
    outputs = written(tmp_path / "outputs.json", other)
    result = prefine("evaluate", "annotations", annotations, "--outputs", outputs)
    refused(result, 3, "annotations.json, row 0", "'other'", "give those that were annotated")
    outputs = written(tmp_path / "few.json", other[:3])
    refused(prefine("evaluate", "annotations", annotations, "--outputs", outputs), 3, "row 0")


def test_what_makes_a_win_rate_doubtful_is_said(tmp_path: Path) -> None:
    rows = alpaca(PREFERENCES, output_2="[[A>>B]]", output_1="[[A>>B]]")
    (part,) = measured(written(tmp_path / "annotations.json", rows))["parts"]
    assert "length_controlled_win_rate_uncalibrated" not in values(part)
    notes = "\n".join(part["notes"])
    for text in (
        "no length-controlled win rate",
        "12 of 12 answers are the same text",
        "12 of 12 answers hold text like",
    ):
        assert text in notes
    assert "1 rows without an annotation" in notes


def test_alpaca_table_reproduces_what_was_published(tmp_path: Path, real_data: Path) -> None:
    folder = real_data / "alpaca_eval_dev"
    whole = pq.read_table(folder / "annotations.parquet")
    models = ("claude-2", "FuseChat-Gemma-2-9B-Instruct")
    pq.write_table(
        whole.filter(pc.is_in(whole["model"], pa.array(models))), tmp_path / "annotations.parquet"
    )
    file = measured(str(tmp_path / "annotations.parquet"), "--calibration", str(folder))
    with (folder / "expected.csv").open(encoding="utf-8", newline="") as table:
        published = {row["model"]: row for row in csv.DictReader(table)}
    assert file["kind"] == "alpaca_eval_table"
    assert {part["of"] for part in file["parts"]} == set(models)
    for part in file["parts"]:
        expected, found = published[part["of"]], values(part)
        assert found["win_rate"] == pytest.approx(float(expected["win_rate"]), abs=1e-9)
        assert found["discrete_win_rate"] == pytest.approx(
            float(expected["discrete_win_rate"]), abs=1e-9
        )
        controlled = float(expected["length_controlled_winrate"])
        assert found["length_controlled_win_rate"] == pytest.approx(controlled, abs=0.15)


# --- Arena-Hard


def game(score: str | None) -> dict[str, Any]:
    return {"score": score, "judgment": {"answer": f"[[{score}]]"}}


def arena(model: str, scores: Sequence[tuple[str | None, str | None]]) -> list[dict[str, Any]]:
    return [
        {
            "uid": f"p{n}",
            "model": model,
            "judge": "j",
            "baseline": "b",
            "games": [game(one), game(two)],
        }
        for n, (one, two) in enumerate(scores)
    ]


def test_arena_hard_judgments(tmp_path: Path) -> None:
    verdicts = [("B>>A", "A>B"), ("A>B", "B>A"), ("A=B", "A=B"), (None, "A>B")]
    file = measured(written(tmp_path / "m.jsonl", arena("m", verdicts)))
    model, judge = file["parts"]
    assert file["kind"] == "arena_hard"
    assert model["of"] == "m against b"
    # Four verdicts for the model (one counted three times), two against it, two ties.
    assert values(model)["arena_hard_score"] == pytest.approx(100 * 5 / 8)
    assert any("1 prompts lack a verdict" in note for note in model["notes"])
    assert judge["of"] == "judge j"
    assert values(judge)["failure_rate"] == pytest.approx(100 / 8)
    assert values(judge)["tie_rate"] == pytest.approx(100 * 2 / 7)


def test_a_model_that_always_wins_has_a_score_and_no_elo(tmp_path: Path) -> None:
    model, _ = measured(written(tmp_path / "m.jsonl", arena("m", [("B>A", "A>B")] * 3)))["parts"]
    assert set(values(model)) == {"arena_hard_score"}
    assert "no Elo" in model["notes"][0]


def test_real_battles(real_data: Path) -> None:
    file = measured(str(real_data / "arena_hard" / "battles_history_2136.parquet"))
    found = {
        part["of"].split(" against ")[0]: values(part)["arena_hard_score"] for part in file["parts"]
    }
    assert file["kind"] == "arena_hard_battles"
    assert found["gpt-4o"] == pytest.approx(86.823, abs=0.001)
    assert found["claude-3-opus-20240229"] == pytest.approx(75.973, abs=0.001)


# --- judges


def llmbar(winners: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "input": f"question {n}",
            "output_1": "one",
            "output_2": "two",
            "label": 1,
            "results": [{"swap = False": {"winner": one}, "swap = True": {"winner": two}}],
        }
        for n, (one, two) in enumerate(winners)
    ]


def test_llmbar_results(tmp_path: Path) -> None:
    # With the answers swapped, slot 1 holds answer 2.
    file = measured(
        written(
            tmp_path / "result.json", llmbar([("1", "1"), ("1", "2"), ("None", "1"), ("2", "2")])
        )
    )
    (part,) = file["parts"]
    assert file["kind"] == "llmbar"
    found = values(part)
    assert found["accuracy_original_order"] == 50
    assert found["accuracy_in_both_orders"] == 25
    assert found["failure_rate"] == pytest.approx(100 / 8)


def test_real_judges(real_data: Path) -> None:
    folder = real_data / "llmbar"
    file = measured(str(folder / "verdicts.parquet"))
    found = {part["of"]: values(part) for part in file["parts"]}
    assert file["kind"] == "llmbar_table"
    with (folder / "published_statistics.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    for row in rows:
        mine = found[f"{row['judge']}, {row['strategy']}, {row['dataset']}"]
        assert mine["accuracy"] == pytest.approx(float(row["pub_acc_avg"]), abs=1e-9)
        assert mine["agreement"] == pytest.approx(float(row["pub_agree"]), abs=1e-9)


def test_judgments_of_ours(tmp_path: Path) -> None:
    def judged(prompt: str, p_first: float | None, *, turned: bool = False) -> Judgment:
        shown = Comparison(prompt_id=prompt, first=f"{prompt}a", second=f"{prompt}b")
        error = "no label" if p_first is None else None
        return Judgment(
            comparison=shown.swapped() if turned else shown, judge="j", p_first=p_first, error=error
        )

    records = [
        *(judged("p", 0.9), judged("q", 0.8), judged("r", 0.5), judged("s", None)),
        *(
            judged("p", 0.2, turned=True),
            judged("q", 0.7, turned=True),
            judged("s", 0.7, turned=True),
        ),
    ]
    path = tmp_path / "judgments.jsonl"
    path.write_text("".join(record.model_dump_json() + "\n" for record in records))
    (part,) = measured(str(path))["parts"]
    found = values(part)
    assert found["first_slot_rate"] == pytest.approx(100 * 4.5 / 6)
    assert found["swap_consistency"] == 50
    assert found["failure_rate"] == pytest.approx(100 / 7)
    assert part["notes"] == ["1 judgments were asked in one order only"]
    path.write_text((records[0].model_dump_json() + "\n") * 2)
    refused(prefine("evaluate", "annotations", str(path)), 3, "line 2", "line 1")
    path.write_text(records[0].model_dump_json().replace("0.9", "1.9") + "\n")
    refused(prefine("evaluate", "annotations", str(path)), 3, "line 1", "p_first", "1.9")


# --- RewardBench


def pairs(subsets: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"subset": subset, "results": result} for subset in subsets for result in (1, 0, 0.5, 1)
    ]


def test_reward_bench_results(tmp_path: Path) -> None:
    subsets = [subset for section in SECTIONS.values() for subset in section]
    file = measured(written(tmp_path / "results.jsonl", pairs(subsets)))
    (part,) = file["parts"]
    assert file["kind"] == "reward_bench"
    assert values(part)["reward_bench_without_prior_sets"] == pytest.approx(62.5)
    assert set(SECTIONS) < set(values(part))
    (part,) = measured(written(tmp_path / "results.jsonl", pairs(subsets[1:])))["parts"]
    assert set(values(part)) == set(subsets[1:])
    assert part["notes"] == [f"no overall score: without {subsets[0]}"]


def test_reward_bench_scores(tmp_path: Path) -> None:
    rows = [
        {"subset": "hep-go", "scores_chosen": s, "scores_rejected": 0.5}
        for s in (0.1, 0.5, 0.9, 2.0)
    ]
    (part,) = measured(written(tmp_path / "scores.jsonl", rows))["parts"]
    assert values(part) == {"hep-go": 62.5}


def test_a_table_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("subset,results\nhep-go,1\nhep-go,0.5\n")
    (part,) = measured(str(path))["parts"]
    assert values(part) == {"hep-go": 75}


def items(subsets: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "id": str(n),
            "subset": subset,
            "num_correct": 1,
            "scores": [[3.0 - n], [1.5], [0.0], [0.0]],
        }
        for subset in subsets
        for n in range(4)
    ]
    for n in range(3):
        rows.append({"id": f"ref:{n}", "subset": "Ties", "num_correct": 1, "scores": [4.0, 1.0]})
        rows.append(
            {"id": f"tied:{n}", "subset": "Ties", "num_correct": 2, "scores": [4.0, 3.9, 1.0]}
        )
    return rows


def test_reward_bench_2_results(tmp_path: Path) -> None:
    subsets = [subset for subset in V2_SUBSETS if subset != "Ties"]
    file = measured(written(tmp_path / "results.jsonl", items(subsets)))
    (part,) = file["parts"]
    assert file["kind"] == "reward_bench_2"
    assert values(part)["Math"] == 50
    assert values(part)["reward_bench_2"] == pytest.approx((5 * 50 + 101) / 6)
    rows = items(subsets)
    refused(
        prefine("evaluate", "annotations", written(tmp_path / "alone.jsonl", rows[:-1])),
        3,
        "alone.jsonl",
        "number 2",
    )
    rows[0]["scores"] = [1.0, 2.0]
    refused(
        prefine("evaluate", "annotations", written(tmp_path / "two.jsonl", rows)),
        3,
        "line 1",
        "2 scores",
    )


# --- for people


def test_the_table(tmp_path: Path) -> None:
    path = written(tmp_path / "annotations.json", alpaca(PREFERENCES))
    battles = written(tmp_path / "m.jsonl", arena("m", [("B>A", "B>A"), ("A>B", "B>A")]))
    result = prefine("evaluate", "annotations", path, battles)
    assert result.code == 0, result.err
    for text in (
        f"{path}: alpaca_eval",
        "model against baseline",
        "95 % interval",
        "standard error",
        battles,
    ):
        assert text in result.out
    (line,) = (line for line in result.out.splitlines() if line.startswith("win_rate "))
    assert line.split()[1:4] == ["11", "51.82", "%"]
    assert max(map(len, result.out.splitlines())) <= 120 + len(str(tmp_path))


def test_texts_of_files_do_not_drive_the_terminal(tmp_path: Path) -> None:
    result = prefine(
        "evaluate",
        "annotations",
        written(tmp_path / "a.json", alpaca(PREFERENCES, generator_2="\x1b[2Jm")),
    )
    assert result.code == 0
    assert "\x1b" not in result.out


# --- refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preference": -1}, ("row 0", "preference", "-1", "not understood")),
        ({"preference": "win"}, ("row 0", "preference", "'win'")),
        ({"output_2": 5.5}, ("row 0", "output_2", "5.5")),
        ({"instruction": "the same"}, ("row 1", "row 0", "'the same'", "keep one")),
        ({"preference": None}, ("annotations.json", "none of 12 rows")),
    ],
)
def test_rows_that_cannot_be_used(
    tmp_path: Path, change: dict[str, Any], said: tuple[str, ...]
) -> None:
    path = written(tmp_path / "annotations.json", alpaca(PREFERENCES, **change))
    refused(prefine("evaluate", "annotations", path), 3, "annotations.json", *said)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (arena("m", [("A>>>B", "A>B")]), ("line 1, game 0", "A>>>B")),
        (arena("m", [("A>B", "A>B")]) * 2, ("line 2", "line 1", "p0")),
        (
            [*arena("m", [("A>B", "A>B")]), arena("n", [("A>B", "A>B")])[0] | {"baseline": "c"}],
            ("'b', 'c'",),
        ),
        (
            [{"model_a": "b", "model_b": "m", "question_id": 1, "winner": "both"}],
            ("line 1", "'both'"),
        ),
        (llmbar([("3", "1")]), ("line 1", "'3'")),
        ([{"label": 3, "winner_orig": 1, "winner_swap": 1}], ("line 1", "label", "3")),
        ([{"label": 1, "winner_orig": 1, "winner_swap": None}], ("line 1", "winner_swap", "None")),
        ([{"subset": "hep-go", "results": 2}], ("line 1", "results", "2")),
        ([{"subset": "hep-go", "results": "won"}], ("line 1", "results", "'won'")),
        (
            [{"subset": "hep-go", "scores_chosen": None, "scores_rejected": 1}],
            ("line 1", "scores_chosen", "None"),
        ),
        (
            [{"subset": "Math", "num_correct": 4, "scores": [1, 2, 3, 4]}],
            ("line 1", "num_correct", "4"),
        ),
        ([{"subset": "Math", "num_correct": 1, "scores": "high"}], ("line 1", "scores", "'high'")),
        (
            [{"subset": "Math", "num_correct": 1, "scores": [1, 2, 3, "x"]}],
            ("line 1", "scores", "'x'"),
        ),
        ([{"prompt": "x"}], ("line 1", "prompt", "--kind")),
    ],
)
def test_values_that_are_none(tmp_path: Path, rows: Rows, said: tuple[str, ...]) -> None:
    refused(
        prefine("evaluate", "annotations", written(tmp_path / "rows.jsonl", rows)),
        3,
        "rows.jsonl",
        *said,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_named_says_what_the_file_lacks(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "rows.jsonl", [{"x": 1}])
    refused(prefine("evaluate", "annotations", path, "--kind", kind), 3, "rows.jsonl, line 1")


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "annotations.json", alpaca(PREFERENCES))
    battles = written(tmp_path / "m.jsonl", arena("m", [("B>A", "B>A")]))

    def asked(*arguments: str) -> Result:
        return prefine("evaluate", "annotations", *arguments)

    refused(asked(path, "--kind", "mt_bench"), 2, "--kind mt_bench", "alpaca_eval")
    refused(asked(str(tmp_path / "nowhere.json")), 2, "nowhere.json", "no such file")
    refused(asked(battles, "--outputs", path), 2, "--outputs", "arena_hard")
    refused(asked(path, "--calibration", str(tmp_path)), 2, "--baseline-outputs")
    refused(asked(path, path, "--outputs", path), 2, "--outputs", "one file")
    refused(asked(), 2, "FILE")


# --- the group


def test_evaluate_is_still_the_stage(place: Place) -> None:
    refused(prefine("evaluate", "nowhere.yaml"), 2, "nowhere.yaml: no such configuration file")
    refused(
        prefine("evaluate", "--set", "a.b=1", "nowhere.yaml"),
        2,
        "nowhere.yaml: no such configuration file",
    )
    refused(prefine("evaluate"), 2, "CONFIG")
    place.change({"evaluate": {"model": "nonsense"}})
    by_itself, by_name = prefine("evaluate", "run.yaml"), prefine("evaluate", "stage", "run.yaml")
    assert by_itself == by_name
    assert "nonsense" in by_itself.err


def test_help() -> None:
    for arguments in (("evaluate", "-h"), ("evaluate", "--help")):
        result = prefine(*arguments)
        assert result.code == 0
        assert "CONFIG" in result.out
        assert "annotations" in result.out
    assert "--calibration" in prefine("evaluate", "annotations", "-h").out
    assert "--strict" in prefine("evaluate", "stage", "-h").out


def test_no_framework_is_loaded(tmp_path: Path) -> None:
    path = written(tmp_path / "annotations.json", alpaca(PREFERENCES))
    code = (
        f"import sys; sys.argv = ['prefine', 'evaluate', 'annotations', {path!r}]\n"
        "from prefine.cli.app import main\ntry:\n    main()\nexcept SystemExit as end:\n    "
        "assert end.code == 0\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "[]"


# --- what a hostile reading found


def test_ties_without_the_other_subsets_are_still_printed(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{version}:{n}",
            "subset": "Ties",
            "scores": [3.0 + n, 2.5, 0.1],
            "num_correct": right,
        }
        for n in range(4)
        for version, right in (("ref", 1), ("tied", 2))
    ]
    (part,) = measured(written(tmp_path / "ties.jsonl", rows))["parts"]
    assert set(values(part)) == {"Ties"}
    assert "without Factuality" in part["notes"][0]


def test_reward_bench_as_one_object_of_columns(tmp_path: Path) -> None:
    columns = {
        "id": [1, 2, 1],
        "subset": ["llmbar-natural", "llmbar-natural", "llmbar-adver-manual"],
        "scores_chosen": [[1.0], [0.5], [2.0]],
        "scores_rejected": [[0.0], [0.7], [1.0]],
        "model": "mine",
    }
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(columns), encoding="utf-8")
    file = measured(str(path))
    assert file["kind"] == "reward_bench"
    assert values(file["parts"][0]) == {"llmbar-natural": 50.0, "llmbar-adver-manual": 100.0}
    path.write_text(json.dumps(columns | {"id": [1, 2]}), encoding="utf-8")
    refused(
        prefine("evaluate", "annotations", str(path)), 3, "columns have different numbers of rows"
    )
    path.write_text(json.dumps(columns | {"id": [1, 1, 1]}), encoding="utf-8")
    refused(
        prefine("evaluate", "annotations", str(path)),
        3,
        "row 2",
        "llmbar-natural, 1 is already in",
        "row 1",
    )


def test_rows_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    verdict = {"label": 1, "winner_orig": 1, "winner_swap": 2, "index": 5, "judge": "j"}
    refused(
        prefine(
            "evaluate", "annotations", written(tmp_path / "verdicts.jsonl", [verdict, verdict])
        ),
        3,
        "line 2: pair , j, , 5 is already in",
    )
    battle = {"question_id": "q", "model_a": "base", "model_b": "m", "winner": "tie"}
    other = battle | {"question_id": "r", "winner": "model_a"}
    refused(
        prefine(
            "evaluate", "annotations", written(tmp_path / "battles.jsonl", [battle] * 7 + [other])
        ),
        3,
        "'m' has 7 verdicts on question 'q'; two games give at most 6",
    )


def of_category(category: str, baseline: str, count: int = 8) -> list[dict[str, Any]]:
    scores = ("A>B", "B>A", "A=B", "B>>A")
    return [
        {
            **{
                "uid": f"{category}{n}",
                "model": "m",
                "baseline": baseline,
                "judge": "j",
                "category": category,
            },
            "games": [{"score": scores[n % 4]}, {"score": scores[(n + 1) % 4]}],
        }
        for n in range(count)
    ]


def test_each_category_of_arena_hard_has_a_board(tmp_path: Path) -> None:
    rows = of_category("hard_prompt", "o3-mini") + of_category("creative_writing", "gemini")
    parts = measured(written(tmp_path / "v2.jsonl", rows))["parts"]
    assert {part["of"] for part in parts} >= {
        "hard_prompt: m against o3-mini",
        "creative_writing: m against gemini",
    }
    (part, *_) = measured(written(tmp_path / "one.jsonl", of_category("hard_prompt", "o3-mini")))[
        "parts"
    ]
    assert part["of"] == "m against o3-mini"


def test_an_elo_without_interval_says_why(tmp_path: Path) -> None:
    rows = [
        row | {"games": [{"score": "A=B"}, {"score": "A=B"}]} for row in of_category("x", "b", 3)
    ]
    rows[0]["games"] = [{"score": "A<B"}, {"score": "A<B"}]
    rows[1]["games"] = [{"score": "A>B"}, {"score": "A<B"}]
    parts = measured(written(tmp_path / "few.jsonl", rows))["parts"]
    elo = [metric for metric in parts[0]["metrics"] if metric["name"] == "arena_hard_elo"]
    assert all(metric["interval"] is not None for metric in elo) or any(
        "Elo" in note for note in parts[0]["notes"]
    )


def test_an_empty_cell_of_a_csv_table_is_no_annotation(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["model", "instruction_id", "len_model", "len_baseline", "preference"])
        for n in range(6):
            writer.writerow(["m", n, 10 + n, 12 - n, "" if n == 2 else 1.2 + 0.1 * n])
        writer.writerow(["other", 0, 10, 12, 1.5])
        writer.writerow(["other", 1, 13, 12, 1.1])
    first, second = measured(str(path))["parts"]
    assert first["metrics"][0]["n"] == 5
    assert "4 of the 6 instructions of this file are not among this model's" in second["notes"]


def test_preferences_that_are_0_or_1_raise_a_doubt(tmp_path: Path) -> None:
    (part,) = measured(written(tmp_path / "annotations.json", alpaca([1.0, 0.0, 1.0, 1.0, 0.0])))[
        "parts"
    ]
    assert any("preferences are in [1, 2]" in note for note in part["notes"])


@pytest.mark.parametrize("content", [b'{"subset": "caf\xe9"}', b'{"subset": ', b'{"subset": "x"}'])
def test_a_json_file_that_holds_no_columns_is_refused_by_name(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    refused(prefine("evaluate", "annotations", str(path)), 3, "scores.json")
