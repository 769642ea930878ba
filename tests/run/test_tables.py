"""Parquet parts: equal rows give equal bytes, records come back, a damaged part is named."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefine.errors import DataError, LimitError
from prefine.records import Completion, DuelRecord, Message, PreferencePair, Prompt, Ranking
from prefine.run.item_rows import pair_of, pair_row
from prefine.run.rows import completion_of, completion_row, grouped_completions, ranking_of
from prefine.run.tables import (
    PartsWritten,
    part_path,
    parts,
    read_part,
    remove_parts_from,
    shard_key,
    table_hash,
    write_part,
)
from test_records import COMPLETIONS, MESSAGES, PROMPTS

SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)


def answer(text: str, prompt: Prompt, index: int = 0, **values: Any) -> Completion:
    message = Message(role="assistant", content=text)
    return Completion(
        id=f"{prompt.id}-{text}", prompt_id=prompt.id, sample_index=index, message=message, **values
    )


@SAME_FOLDER
@given(PROMPTS, COMPLETIONS)
def test_completions_come_back(tmp_path: Path, prompt: Prompt, completion: Completion) -> None:
    write_part(tmp_path / "part", "completions", [completion_row(completion, prompt)], key="k")
    (row,) = read_part(tmp_path / "part")
    assert completion_of(row) == (prompt, completion)


@SAME_FOLDER
@given(
    PROMPTS,
    MESSAGES,
    st.none() | st.floats(0.51, 1),
    st.floats(-1e300, 1e300),
    st.floats(1e-300, 1e300),
)
def test_pairs_come_back(
    tmp_path: Path,
    prompt: Prompt,
    message: Message,
    p_chosen: float | None,
    gap: float,
    weight: float,
) -> None:
    chosen = answer("yes", prompt, token_ids=(1, 2), tokenizer_hash="t", metadata={"grade": 3})
    rejected = answer("no", prompt).model_copy(update={"message": message})
    pair = PreferencePair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        p_chosen=p_chosen,
        score_gap=gap,
        weight=weight,
    )
    write_part(tmp_path / "part", "pairs", [pair_row(pair)], key="k")
    (row,) = read_part(tmp_path / "part")
    assert pair_of(row) == pair


def test_rankings_come_back(tmp_path: Path) -> None:
    ranking = Ranking(
        prompt_id="p",
        strategy="iterative",
        completions=("a", "b"),
        champion="b",
        duels=(
            DuelRecord(first="a", second="b", p_first=0.25),
            DuelRecord(first="b", second="a", p_first=None),
        ),
        calls=2,
        failed_calls=1,
    )
    write_part(tmp_path / "part", "rankings", [ranking.model_dump(mode="json")], key="k")
    assert [ranking_of(row) for row in read_part(tmp_path / "part")] == [ranking]


def test_a_pair_is_what_trainers_read(tmp_path: Path) -> None:
    prompt = Prompt.from_text("why ?")
    pair = PreferencePair(prompt=prompt, chosen=answer("a", prompt), rejected=answer("b", prompt))
    write_part(tmp_path / "part", "pairs", [pair_row(pair)], key="k")
    table = pq.read_table(tmp_path / "part")
    plain = [name for name in table.column_names if not name.startswith("prefine_")]
    assert plain == ["prompt", "chosen", "rejected"]
    row = table.to_pylist()[0]
    assert row["prompt"] == [{"role": "user", "content": "why ?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "a"}]


def test_an_edited_text_loses_its_token_ids(tmp_path: Path) -> None:
    prompt = Prompt.from_text("why ?")
    chosen = answer("a", prompt, token_ids=(1, 2), tokenizer_hash="t")
    row = pair_row(PreferencePair(prompt=prompt, chosen=chosen, rejected=answer("b", prompt)))
    row["chosen"][0]["content"] = "edited"
    edited = pair_of(row)
    assert edited.chosen.text == "edited"
    assert edited.chosen.token_ids is None


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    prompt = Prompt.from_text("q")
    rows = [completion_row(answer(str(n), prompt, n), prompt) for n in range(3)]
    for name in ("a", "b"):
        write_part(tmp_path / name, "completions", rows, key="k")
    write_part(tmp_path / "c", "completions", rows, key="other")
    assert (
        (tmp_path / "a").read_bytes()
        == (tmp_path / "b").read_bytes()
        != (tmp_path / "c").read_bytes()
    )


def test_completions_are_grouped_by_id_and_not_by_place() -> None:
    one, two = Prompt.from_text("one"), Prompt.from_text("two")
    mixed = [(one, "a"), (two, "b"), (one, "c")]
    groups = grouped_completions(
        completion_row(answer(text, prompt), prompt) for prompt, text in mixed
    )
    assert [(prompt.text, [c.text for c in found]) for prompt, found in groups] == [
        ("one", ["a", "c"]),
        ("two", ["b"]),
    ]


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:-20], lambda b: b[:4] + b"\xff" * 200 + b[204:]]
)
def test_a_damaged_part_is_named(tmp_path: Path, damage: Any) -> None:
    prompt = Prompt.from_text("q")
    write_part(
        tmp_path / "part", "completions", [completion_row(answer("a", prompt), prompt)], key="k"
    )
    (tmp_path / "part").write_bytes(damage((tmp_path / "part").read_bytes()))
    with pytest.raises(DataError, match="not readable as Parquet"):
        read_part(tmp_path / "part")


def test_leftovers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the stage that makes it"):
        parts(tmp_path)
    for number in range(3):
        write_part(part_path(tmp_path, number), "completions", [], key="k")
    (tmp_path / ".part-00001.parquet.99.tmp").write_bytes(b"half")
    assert [path.name for path in parts(tmp_path)] == [f"part-0000{n}.parquet" for n in range(3)]
    before = table_hash(tmp_path)
    remove_parts_from(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]
    assert table_hash(tmp_path) != before
    assert shard_key("a", 1) != shard_key("a", 2)


def test_parts_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (100_000, 99_999, 5):
        part_path(tmp_path, number).write_bytes(b"")
    assert parts(tmp_path) == [part_path(tmp_path, n) for n in (5, 99_999, 100_000)]
    remove_parts_from(tmp_path, 100_000)
    assert parts(tmp_path) == [part_path(tmp_path, n) for n in (5, 99_999)]


@pytest.mark.parametrize(
    ("error", "left"), [(LimitError("too many failed"), 1), (DataError("a bad row"), 3)]
)
def test_a_limit_leaves_the_parts_that_count(tmp_path: Path, error: Exception, left: int) -> None:
    with pytest.raises(type(error)), PartsWritten(tmp_path) as written:
        for name in ("part-00000.parquet", "part-00001.parquet", ".part-00002.parquet.tmp"):
            (tmp_path / name).touch()
        written.count = 1
        raise error
    assert (tmp_path / "part-00000.parquet").exists()
    assert len(list(tmp_path.iterdir())) == left
