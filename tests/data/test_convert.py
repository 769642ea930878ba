"""Files that `import` wrote are read again with the same texts, ids and layout."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.data import entries
from prefine.data.convert import ENTRIES, write_entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import file, shaped
from prefine.errors import DataError
from prefine.records import Completion, Message, PreferencePair, Prompt
from prefine.run.item_rows import pair_row

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
TURNS = st.lists(TEXT, min_size=1, max_size=3).map(
    lambda texts: [{"role": "system", "content": texts[0]}, {"role": "user", "content": texts[-1]}]
)
EXTRA = st.fixed_dictionaries(
    {},
    optional={
        "score_chosen": st.just(3),
        "score_rejected": st.just(1),
        "helpfulness": st.just(4),
        "response": TEXT,
        "tools": st.just([{"type": "function"}]),
        "chat_template_kwargs": st.just({"thinking": True}),
        "topic": TEXT,
    },
)
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}
ANSWERS = st.lists(
    TEXT
    | TEXT.map(lambda text: {"text": text, "model": "m", "grade": 3})
    | st.just({"message": CALL})
    | st.just(""),
    min_size=1,
    max_size=4,
)
ROWS = st.lists(
    st.tuples(TEXT | TURNS, TEXT, TEXT, ANSWERS, EXTRA).map(
        lambda v: {"prompt": v[0], "chosen": v[1], "rejected": v[2], "completions": v[3]} | v[4]
    ),
    min_size=1,
    max_size=4,
)


def ids(entry: str, rows: Any) -> list[Any]:
    if entry == "completions":
        return [
            (prompt.id, [answer.id for answer in found])
            for prompt, found in entries.completions(rows)
        ]
    return [one.id for one in (entries.prompts if entry == "prompts" else entries.pairs)(rows)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ROWS)
def test_what_is_written_is_read_as_the_same(folder: Path, values: list[dict[str, Any]]) -> None:
    rows = list(
        shaped([SourceRow(f"r, row {n}", row) for n, row in enumerate(values)], layout="prefine")
    )
    for entry in ENTRIES:
        try:
            before = ids(entry, rows)
        except DataError:
            continue
        write_entries(iter(rows), entry, folder / f"{entry}.jsonl", ImportReport())
        assert ids(entry, file(path=folder / f"{entry}.jsonl")) == before


def test_one_user_turn_is_written_as_a_text(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "a"}],
    }
    rows = iter([SourceRow("r", row | {"rejected": "b", "weight": 2.0})])
    assert write_entries(rows, "pairs", tmp_path / "out.jsonl", ImportReport()) == "prefine"
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "prompt": "q",
        "chosen": "a",
        "rejected": "b",
        "weight": 2.0,
    }


def test_nothing_is_left_behind_when_a_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("before")
    rows = iter([SourceRow("r", {"prompt": "q"}), SourceRow("s", {"prompt": 3})])
    with pytest.raises(DataError):
        write_entries(rows, "prompts", tmp_path / "out.jsonl", ImportReport())
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "before"


def test_pairs_of_ours_stay_whole(tmp_path: Path) -> None:
    prompt = Prompt.from_text("q", source="p.jsonl, line 7")
    sides = {
        side: Completion(
            id=f"id {side}",
            prompt_id=prompt.id,
            sample_index=3,
            message=Message(role="assistant", content=side),
            token_ids=(5, 6),
            tokenizer_hash="t",
            sampled_logp=-2.5,
        )
        for side in ("chosen", "rejected")
    }
    pair = PreferencePair(prompt=prompt, p_chosen=0.8, **sides)
    plain = {"prompt": "p", "chosen": "a", "rejected": "b", "topic": "t"}
    rows = iter([SourceRow("r", pair_row(pair)), SourceRow("s", plain)])
    write_entries(rows, "pairs", tmp_path / "out.jsonl", ImportReport())
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == [pair_row(pair), plain]
    found, _ = entries.pairs(file(path=tmp_path / "out.jsonl"))
    assert found == pair


@pytest.mark.parametrize(
    "prompt",
    ["\n\nHuman: q\n\nAssistant:", [{"role": "user", "content": "\n\nHuman: q\n\nAssistant:"}]],
)
def test_a_text_that_looks_like_marked_turns_is_read_as_it_was_written(
    prompt: Any, tmp_path: Path
) -> None:
    rows = [SourceRow("r", {"prompt": prompt, "chosen": "a", "rejected": "b"})]
    before = ids("pairs", rows)
    write_entries(iter(rows), "pairs", tmp_path / "out.jsonl", ImportReport())
    assert ids("pairs", file(path=tmp_path / "out.jsonl")) == before
