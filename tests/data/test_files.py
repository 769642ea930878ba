"""Formats of files beside JSON Lines: CSV, Arrow, compressed lines, patterns, folders of parts."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefine.data import entries, formats, table_formats
from prefine.data.sources import file
from prefine.errors import ConfigError, DataError

ODD = 'a "quoted", text\nwith\r\nlines\u2028and commas'


def values(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [row.values for row in file(path=path, **options)]


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_csv_cells_hold_commas_quotes_and_lines(tmp_path: Path) -> None:
    quoted = ODD.replace('"', '""')
    (tmp_path / "r.csv").write_bytes(f'\ufeffquestion,n\r\n"{quoted}",1\r\n\r\nshort,\r\n'.encode())
    rows = list(file(path=tmp_path / "r.csv", columns={"prompt": "question"}))
    assert [row.values for row in rows] == [{"prompt": ODD, "n": "1"}, {"prompt": "short", "n": ""}]
    assert [row.where.removeprefix(str(tmp_path)) for row in rows] == [
        "/r.csv, row 0 (line 4)",
        "/r.csv, row 1 (line 6)",
    ]


def test_csv_cells_with_messages_are_messages_and_other_lists_are_texts(tmp_path: Path) -> None:
    turns = json.dumps([{"role": "user", "content": "q"}]).replace('"', '""')
    row = f'"{turns}","[1, 2]","{{not json",,"[{{""type"": ""function""}}]"\n'
    (tmp_path / "r.csv").write_text("prompt,chosen,rejected,weight,tools\n" + row)
    (pair,) = entries.pairs(file(path=tmp_path / "r.csv"))
    assert (pair.prompt.text, pair.chosen.text, pair.rejected.text) == ("q", "[1, 2]", "{not json")
    assert (pair.weight, pair.prompt.tools) == (1.0, ({"type": "function"},))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"prompt,x\nq\n", r"row 0 \(line 2\): 1 cells for 2 columns"),
        (b"prompt,x\nq,1\nq,1,2\n", r"row 1 \(line 3\): 3 cells for 2 columns"),
        (b"prompt,prompt\nq,1\n", "line 1: every column needs a name of its own"),
        (b'prompt\n"q\n', "line 2: not valid CSV"),
        (b"prompt\ncaf\xe9\n", "not UTF-8"),
        (b"prompt\n", "no rows"),
        (b"", "no rows"),
    ],
)
def test_csv_damage(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        values(tmp_path / "r.csv")


def test_a_cell_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(f"prompt\n{'x' * 200_000}\n")
    assert len(values(tmp_path / "r.csv")[0]["prompt"]) == 200_000


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_files_and_streams(tmp_path: Path, kind: str) -> None:
    table = pa.table({"prompt": [f"q{n}" for n in range(3000)]})
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with pa.OSFile(str(tmp_path / "r.arrow"), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table)
    rows = list(file(path=tmp_path / "r.arrow"))
    assert [row.values["prompt"] for row in rows] == [f"q{n}" for n in range(3000)]
    assert rows[2999].where.endswith("r.arrow, row 2999")


@pytest.mark.parametrize("cut", [None, 300])
def test_damaged_arrow(tmp_path: Path, cut: int | None) -> None:
    table = pa.table({"prompt": ["q" * 100] * 50})
    with (
        pa.OSFile(str(tmp_path / "r.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    data = (tmp_path / "r.arrow").read_bytes()[:cut] if cut else b"prompt,chosen"
    (tmp_path / "r.arrow").write_bytes(data)
    with pytest.raises(DataError, match=r"r\.arrow.*Arrow"):
        values(tmp_path / "r.arrow")


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(
        [{"prompt": [{"role": "user", "content": f"q{n}"}]} for n in range(5)]
    )
    saved.save_to_disk(tmp_path / "one", num_shards=2)
    assert [prompt.text for prompt in entries.prompts(file(path=tmp_path / "one"))] == [
        f"q{n}" for n in range(5)
    ]
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "both")
    with pytest.raises(ConfigError, match=r"several splits \(train, test\).*both/train"):
        values(tmp_path / "both")


def test_compressed_lines(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "q"}\n{"prompt": "p"}\n'))
    assert values(tmp_path / "r.jsonl.gz") == [{"prompt": "q"}, {"prompt": "p"}]
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "q"}\n' * 500)[:-10])
    with pytest.raises(DataError, match="damaged gzip"):
        values(tmp_path / "r.jsonl.gz")


def test_patterns_and_folders_of_parts_are_read_in_order(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        lines(tmp_path / f"part-{number}.jsonl", {"prompt": f"q{number}"})
    (tmp_path / "README.md").write_text("no data")
    for path in (tmp_path, tmp_path / "part-*.jsonl"):
        rows = list(file(path=path))
        assert [row.values["prompt"] for row in rows] == ["q0", "q1", "q2"]
        assert rows[1].where == f"{tmp_path}/part-1.jsonl, line 1"
    (tmp_path / "more.csv").write_text("prompt\nq\n")
    with pytest.raises(ConfigError, match="csv and jsonl files; set format"):
        values(tmp_path)
    assert len(values(tmp_path, format="jsonl")) == 3
    (tmp_path / "part-1.jsonl").write_text("")
    with pytest.raises(DataError, match=r"part-1\.jsonl: the file has no rows"):
        values(tmp_path, format="jsonl")


def test_a_name_with_brackets_is_a_name_where_there_is_such_a_file(tmp_path: Path) -> None:
    assert values(lines(tmp_path / "a[1].jsonl", {"prompt": "q"})) == [{"prompt": "q"}]


def test_json_with_a_list_for_each_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"train": [{"prompt": "q"}], "test": []}')
    with pytest.raises(DataError, match=r"one object with lists \(train, test\).*list of objects"):
        values(tmp_path / "r.json")


@pytest.mark.parametrize(
    "cell",
    ["[{'role': 'user', 'content': 'q'}]", "[{'content': 'q'}\n {'role': 'x'}]", "{'role': 1}"],
)
def test_csv_cells_that_python_printed_are_refused(tmp_path: Path, cell: str) -> None:
    (tmp_path / "r.csv").write_text(f'prompt\nplain\n"{cell}"\n')
    with pytest.raises(
        DataError,
        match=r"row 1 .*the cell prompt holds messages as Python prints.*JSON Lines or Parquet",
    ):
        values(tmp_path / "r.csv")


def test_lines_in_a_json_file_name_the_format(tmp_path: Path) -> None:
    path = lines(tmp_path / "r.json", {"prompt": "q"}, {"prompt": "p"})
    with pytest.raises(DataError, match="format: jsonl"):
        values(path)
    assert values(path, format="jsonl") == [{"prompt": "q"}, {"prompt": "p"}]


def test_what_is_no_number_is_missing(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(
        '{"prompt": "q", "chosen": "a", "rejected": "b", "weight": NaN, "x": [NaN, 1]}\n'
    )
    table = pa.table(
        {
            "prompt": ["q"],
            "chosen": ["a"],
            "rejected": ["b"],
            "weight": [float("nan")],
            "x": [[None, 1]],
        }
    )
    pq.write_table(table, tmp_path / "r.parquet")
    for name in ("r.jsonl", "r.parquet"):
        (pair,) = entries.pairs(file(path=tmp_path / name))
        assert (pair.weight, pair.prompt.metadata) == (1.0, {"x": [None, 1]})
    (tmp_path / "h.jsonl").write_text(
        '{"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": NaN}'
    )
    with pytest.raises(DataError, match=r"1 × no preference given(.|\n)*strength is missing"):
        list(entries.pairs(file(path=tmp_path / "h.jsonl")))


def test_the_same_tools_from_a_table_and_from_lines_are_the_same_prompt(tmp_path: Path) -> None:
    tools = [
        {"name": "f", "parameters": {"x": {"type": "int"}}},
        {"name": "g", "parameters": {"y": {"type": "int"}}},
    ]
    rows = [{"prompt": "q", "tools": [tool]} for tool in tools]
    lines(tmp_path / "r.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    found = [
        [one.id for one in entries.prompts(file(path=tmp_path / name))]
        for name in ("r.jsonl", "r.parquet")
    ]
    assert found[0] == found[1]


def test_arrays_and_their_numbers_are_plain() -> None:
    row = {
        "prompt": "q",
        "n": np.int64(3),
        "x": np.array([1.5, np.nan]),
        "t": (np.float32(0.5), np.bool_(True)),
    }
    assert table_formats.as_json(row) == {"prompt": "q", "n": 3, "x": [1.5, None], "t": [0.5, True]}


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "parquet", "arrow"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html></html>\n", "a web page; download the file itself"),
        ("prompt\n".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_what_stands_in_the_place_of_a_file(
    tmp_path: Path, content: bytes, says: str, format: formats.Format
) -> None:
    path = tmp_path / f"r.{format}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"r.{format}: this file is .*{says}"):
        values(path)


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "jsonl.zip", "7z"])
def test_archives_are_named_as_such(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"r.{ending}").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"is an archive, .*; unpack it first"):
        values(tmp_path / f"r.{ending}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a;b\n1;2\n", "line 1: columns are separated by commas, and these by ';'"),
        (b"a\tb\n1\t2\n", "line 1: columns are separated by commas, and these by .*t"),
        (b",a\n0,1\n", "line 1: every column needs a name .*pandas .*index=False"),
        (b"a,a\n0,1\n", "line 1: every column needs a name .*rename or drop"),
        (b"a\ncaf\xe9\n", "r.csv: not UTF-8 .*WINDOWS-1252"),
    ],
)
def test_headers_and_bytes_of_other_programs(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        values(tmp_path / "r.csv")


def test_an_object_over_several_lines_is_no_line(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"prompt": "a"}, indent=2))
    with pytest.raises(DataError, match=r"line 1: .*an object over several lines is JSON"):
        values(tmp_path / "r.jsonl")
