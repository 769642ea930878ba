"""AlpacaEval's files to and from records, and what is wrong with them."""

import json

import numpy as np
import pytest

from prefine.data.entries import completions
from prefine.data.files import files_at
from prefine.data.sources import read_files
from prefine.errors import ConfigError, DataError
from prefine.metrics.win_rates.length_control import length_controlled_win_rate
from prefine.records import Prompt
from prefine.suites.alpaca_eval.calibration import read_calibration, read_calibration_folder
from prefine.suites.alpaca_eval.files import (
    read_annotation_table,
    read_annotations,
    read_model_outputs,
    rows_for_length_control,
    write_annotations,
    write_model_outputs,
)
from prefine.suites.reading import answer_to

INSTRUCTIONS = ["Name a colour.", "Count to two.\u2028Slowly.", "Say hi 🙂", "Sing."]


def annotation(place, preference, **changes):
    return {
        "instruction": INSTRUCTIONS[place],
        "output_1": "x" * (place + 3),
        "generator_1": "gpt4_1106_preview",
        "dataset": "helpful_base",
        "output_2": "ö🙂" * (place + 1),
        "generator_2": "ours",
        "annotator": "weighted_alpaca_eval_gpt4_turbo",
        "preference": preference,
        "raw_completion": {"choices": [1]},
    } | changes


def saved(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def annotations(tmp_path):
    return saved(
        tmp_path / "annotations.json",
        [annotation(0, 1.7328323962), annotation(1, 0), annotation(3, None), annotation(2, 1.0)],
    )


def test_rows_become_records(annotations):
    found = read_annotations(annotations)
    assert [one.preference for one in found] == [1.7328323962 - 1, 0.5, None, 0.0]
    first, missing = found[0], found[2]
    assert first.prompt == Prompt.from_text("Name a colour.", source=first.prompt.source)
    assert (first.baseline.text, first.baseline.model) == ("xxx", "gpt4_1106_preview")
    assert (first.model.text, first.model.model) == ("ö🙂", "ours")
    assert first.judgment.comparison.first == first.baseline.id
    assert first.judgment.judge == "weighted_alpaca_eval_gpt4_turbo"
    assert first.metadata == {"dataset": "helpful_base", "raw_completion": {"choices": [1]}}
    assert (missing.judgment.p_first, missing.judgment.error) == (None, "no annotation")


def test_annotations_survive_a_round_trip(annotations, tmp_path):
    found = read_annotations(annotations)
    write_annotations(tmp_path / "again.json", found)
    again = read_annotations(tmp_path / "again.json")
    assert [one.model_dump(exclude={"prompt"}) for one in again] == [
        one.model_dump(exclude={"prompt"}) for one in found
    ]
    rows = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert [row["preference"] for row in rows] == [1.7328323962, 1.5, None, 1.0]
    assert rows[0] == annotation(0, 1.7328323962)


def test_arrays_count_characters_and_join_by_instruction(annotations):
    found = rows_for_length_control(read_annotations(annotations), instructions=INSTRUCTIONS)
    assert found.ids == [0, 1, 3, 2]
    assert found.model_lengths == [2, 4, 8, 6]
    assert found.baseline_lengths == [3, 4, 6, 5]
    by_prompt = rows_for_length_control(read_annotations(annotations))
    assert by_prompt.ids == [Prompt.from_text(INSTRUCTIONS[place]).id for place in (0, 1, 3, 2)]
    result = length_controlled_win_rate(
        found.preferences,
        found.model_lengths,
        found.baseline_lengths,
        index=by_prompt.ids,
        calibration=None,
        samples=10,
    )
    assert (result.win_rate.n, result.missing) == (3, 1)


def test_an_instruction_of_another_benchmark_is_named(annotations):
    rows = read_annotations(annotations)
    with pytest.raises(
        DataError, match=r"annotations.json, row 2: 'Sing.' is not among the 3 instructions"
    ):
        rows_for_length_control(rows, instructions=INSTRUCTIONS[:3])
    with pytest.raises(DataError, match=r"'Name a colour\.' is there twice among 5"):
        rows_for_length_control(rows, instructions=[*INSTRUCTIONS, INSTRUCTIONS[0]])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            annotation(1, 1.0, generator_1="other"),
            r"row 1: generator_1 \(the baseline\) is 'other', but 'gpt4_1106",
        ),
        (
            annotation(1, 1.0, generator_2="other"),
            r"row 1: generator_2 \(the model\) is 'other', but 'ours'",
        ),
        (annotation(1, 1.0, annotator="other"), "row 1: annotator is 'other'"),
        (
            annotation(0, 1.0),
            r"row 1: the instruction 'Name a colour.' .* is already in .* row 0; keep one",
        ),
        (
            annotation(1, -1),
            r"row 1: preference must be in \[1, 2\].* got -1; was the verdict not understood",
        ),
        (annotation(1, "A"), "row 1: preference must be a finite number, got 'A'"),
        (annotation(1, 1.0, output_2=None), "row 1: output_2 must be a text, got None"),
        ({"instruction": "x"}, "row 1: no field 'output_1'"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, second, message):
    path = saved(tmp_path / "annotations.json", [annotation(0, 1.2), second])
    with pytest.raises(DataError, match=message):
        read_annotations(path)


def test_a_judgment_of_other_answers_is_not_written(annotations, tmp_path):
    one, other = read_annotations(annotations)[:2]
    with pytest.raises(
        DataError, match="annotation 0: the judgment is not of the baseline's answer"
    ):
        write_annotations(
            tmp_path / "x.json", [one.model_copy(update={"judgment": other.judgment})]
        )


def test_model_outputs_survive_a_round_trip_and_are_what_import_reads(tmp_path):
    rows = [
        {"dataset": "koala", "instruction": text, "output": f"answer {place}", "generator": "ours"}
        for place, text in enumerate(INSTRUCTIONS)
    ]
    path = saved(tmp_path / "model_outputs.json", rows)
    found = read_model_outputs(path)
    write_model_outputs(tmp_path / "again.json", found)
    assert json.loads((tmp_path / "again.json").read_text(encoding="utf-8")) == rows
    assert [prompt.text for prompt, _ in found] == INSTRUCTIONS
    assert [answer.text for _, answer in found] == [f"answer {place}" for place in range(4)]
    imported = list(
        completions(read_files(files_at(tmp_path / "again.json", None), {}, where="test"))
    )
    assert [(p.id, answers[0].id) for p, answers in imported] == [
        (p.id, answer.id) for p, answer in found
    ]


def test_model_outputs_of_two_models_or_answers_are_refused(tmp_path):
    row = {"instruction": "Hi", "output": "Hi.", "generator": "ours"}
    with pytest.raises(
        DataError, match=r"row 1: the instruction 'Hi' .* is already in .* row 0; keep one"
    ):
        read_model_outputs(saved(tmp_path / "a.json", [row, row]))
    with pytest.raises(DataError, match="row 1: generator is 'other', but 'ours' before"):
        read_model_outputs(
            saved(tmp_path / "b.json", [row, row | {"instruction": "Ho", "generator": "other"}])
        )
    prompt, other = Prompt.from_text("Hi"), Prompt.from_text("Ho")
    one = (prompt, answer_to(prompt, 0, "Hi.", "ours"))
    for answers, message in (
        ([one, one], "answer 1: prompt .* has one before"),
        ([one, (other, answer_to(other, 0, "Ho.", "x"))], "answer 1: model 'x', but 'ours'"),
        ([(other, one[1])], "answer 0: it is of prompt"),
    ):
        with pytest.raises(DataError, match=message):
            write_model_outputs(tmp_path / "c.json", answers)


DIFFICULTY = ",instruction_difficulty\n0,0.5\n1,-1.0\n2,0.25\n"
GAMED = (
    "model,preference,std_delta_len,index,instruction_difficulty,not_gamed_baseline\n"
    "concise,0.25,1.0,0,0.5,False\nconcise,,0.5,1,-1.0,False\nverbose,0.75,-2.0,2,0.25,False\n"
)


def calibration_files(tmp_path, difficulty=DIFFICULTY, gamed=GAMED):
    (tmp_path / "instruction_difficulty.csv").write_text(difficulty, encoding="utf-8")
    (tmp_path / "df_gamed.csv").write_text(gamed, encoding="utf-8")
    return tmp_path / "instruction_difficulty.csv", tmp_path / "df_gamed.csv"


@pytest.mark.parametrize("name", ["", "index"])
def test_the_calibration_in_upstreams_two_files(tmp_path, name):
    found = read_calibration(*calibration_files(tmp_path, difficulty=name + DIFFICULTY))
    assert found.difficulty.tolist() == [0.5, -1.0, 0.25]
    assert found.gamed_length == pytest.approx(np.tanh([1.0, 0.5, -2.0]))
    assert found.gamed_difficulty.tolist() == [0.5, -1.0, 0.25]
    assert found.gamed_rows()[1].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"difficulty": DIFFICULTY + "2,1.0\n"}, "row 3: instruction 2 is there twice"),
        ({"difficulty": DIFFICULTY + "7,1.0\n"}, "4 instructions, but none with number 3"),
        (
            {"difficulty": ",instruction_difficulty\n0,x\n"},
            "row 0: instruction_difficulty must be a finite number",
        ),
        ({"difficulty": ",instruction_difficulty\n"}, "the file has no rows"),
        ({"difficulty": GAMED}, "row 0: model must be a finite number"),
        ({"gamed": DIFFICULTY}, "row 0: no field 'std_delta_len'"),
        (
            {"gamed": GAMED.replace("0.75", "1.75")},
            r"df_gamed.csv: gamed_preference must be in \[0, 1\]",
        ),
        ({"gamed": GAMED + "verbose,1\n"}, "row 3: 2 cells for 6 columns"),
    ],
)
def test_a_calibration_file_that_cannot_be_used(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        read_calibration(*calibration_files(tmp_path, **files))


def test_a_calibration_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_calibration(tmp_path / "no.csv", tmp_path / "no.csv")
    with pytest.raises(ConfigError, match="no such file"):
        read_calibration_folder(tmp_path)


def test_the_tables_of_the_test_data(real_data):
    folder = real_data / "alpaca_eval_dev"
    found = read_calibration_folder(folder)
    assert (len(found.difficulty), len(found.gamed_length)) == (805, 1610)
    stats = json.loads((folder / "gamed_stats.json").read_text())
    features, labels = found.gamed_rows()
    assert features.T @ labels == pytest.approx([stats["sum_y_t"], stats["sum_y_d"]], abs=1e-6)
    rows = read_annotation_table(folder / "annotations.parquet")
    assert len(rows) == 24
    assert {len(one.ids) for one in rows.values()} == {802, 803, 805}
    assert all(set(one.ids) <= set(range(805)) for one in rows.values())


def test_a_table_with_a_row_twice_is_refused(tmp_path):
    row = {"model": "m", "instruction_id": 0, "len_model": 1, "len_baseline": 2, "preference": 1.5}
    with pytest.raises(
        DataError, match=r"row 1: instruction 0 of m is already in .* row 0; keep one"
    ):
        read_annotation_table(saved(tmp_path / "t.json", [row, row]))
