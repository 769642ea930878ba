"""Rows of users' files: which bytes are a row, and how places are counted."""

import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefine.data import formats
from prefine.data.layouts.protocol import SourceRow
from prefine.data.playground import playground
from prefine.data.sources import file
from prefine.errors import ConfigError, DataError


def rows_of(path: Path, content: bytes, **options: Any) -> list[SourceRow]:
    path.write_bytes(content)
    return list(file(path=path, **options))


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


# Characters at which str.splitlines() would cut.
ODD = "a\u2028b\u2029c\u0085d\u000be\u000cf\u001cg\u00a0h\U0001f600"


def test_odd_characters_stay_inside_their_row(jsonl: Path) -> None:
    raw = json.dumps({"prompt": ODD}, ensure_ascii=False).replace("\\u000b", "\\u000b").encode()
    (row,) = rows_of(jsonl, raw + b"\n")
    assert row.values == {"prompt": ODD}


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}\n{"a": 2}\n',
        b'{"a": 1}\n{"a": 2}',
        b'{"a": 1}\r\n{"a": 2}\r\n',
        b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n',
        b'\n  \n{"a": 1}\n\t\n{"a": 2}\n\n',
    ],
)
def test_line_ends_marks_and_blank_lines(jsonl: Path, content: bytes) -> None:
    assert [row.values for row in rows_of(jsonl, content)] == [{"a": 1}, {"a": 2}]


def test_places_count_blank_lines(jsonl: Path) -> None:
    rows = rows_of(jsonl, b'\n{"a": 1}\n\n{"a": 2}\n')
    assert [row.where for row in rows] == [f"{jsonl}, line 2", f"{jsonl}, line 4"]


def test_rows_are_read_one_by_one(jsonl: Path) -> None:
    jsonl.write_bytes(b'{"a": 1}\nbroken\n')
    rows = file(path=jsonl)
    assert next(rows).values == {"a": 1}
    with pytest.raises(DataError, match="line 2"):
        next(rows)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": {"\\uDFFF": 1}}', "surrogate"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' appears twice"),
        (b'{"a": 1}{"a": 2}', "Extra data"),
        (b'{"a": 1\x00}', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b"null", "NoneType"),
        (b'"text"', "str 'text'"),
        (gzip.compress(b'{"a": 1}', mtime=0), "not UTF-8"),
    ],
)
def test_lines_that_are_no_rows(jsonl: Path, line: bytes, says: str) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(jsonl, b'{"a": 0}\n' + line + b"\n")
    assert f"{jsonl}, line 2" in str(caught.value)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_escaped_emoji_is_no_half(jsonl: Path) -> None:
    (row,) = rows_of(jsonl, b'{"a": "\\ud83d\\ude00", "b": "back\\\\udd"}')
    assert row.values == {"a": "\U0001f600", "b": "back\\udd"}


def test_a_line_without_end_is_refused_before_it_is_read(
    jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 2**20)
    with pytest.raises(DataError, match="line 1: longer than 1 MiB"):
        rows_of(jsonl, b'{"a": "' + b"x" * 2**21)


def test_columns_are_renamed_and_the_rest_is_kept(jsonl: Path) -> None:
    (row,) = rows_of(jsonl, b'{"question": "q", "x": 1}', columns={"prompt": "question"})
    assert row.values == {"prompt": "q", "x": 1}
    (row,) = rows_of(jsonl, b'{"a": 1, "b": 2}', columns={"a": "b", "b": "a"})
    assert row.values == {"a": 2, "b": 1}
    with pytest.raises(
        DataError, match=r"line 1: no column 'q' \(mapped to 'prompt'\); this row has a, b"
    ):
        rows_of(jsonl, b'{"a": 1, "b": 2}', columns={"prompt": "q"})


def test_a_limit_takes_the_first_rows_and_reads_no_further(jsonl: Path) -> None:
    assert [row.values["a"] for row in rows_of(jsonl, b'{"a": 1}\n{"a": 2}\nbroken', limit=2)] == [
        1,
        2,
    ]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_rows(jsonl: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="no rows"):
        rows_of(jsonl, content)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path / "absent.jsonl", "no such file"),
        (tmp_path, "folder without a file of a known format"),
        (tmp_path / "*.jsonl", "no file has a name like this"),
        (tmp_path / "a\0b.jsonl", "no such file"),
        (tmp_path / ("x" * 300 + ".jsonl"), "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=says):
            file(path=path)
    with pytest.raises(ConfigError, match="this is a folder"):
        file(path=tmp_path, format="jsonl")


def test_json_is_a_list_of_objects(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.json", b'\xef\xbb\xbf[{"a": 1}, {"a": 2}]')
    assert [(row.where, row.values) for row in rows] == [
        (f"{tmp_path}/rows.json, row 0", {"a": 1}),
        (f"{tmp_path}/rows.json, row 1", {"a": 2}),
    ]
    assert [row.values for row in rows_of(tmp_path / "rows.txt", b'[{"a": 1}]', format="json")] == [
        {"a": 1}
    ]


def test_parquet_values_become_plain(tmp_path: Path) -> None:
    now = datetime(2024, 5, 6, 7, 8, tzinfo=UTC)
    table = pa.table(
        {
            "prompt": pa.array(["q"]).dictionary_encode(),
            "long": pa.array(["x"], pa.large_string()),
            "when": [now],
            "price": [Decimal("1.50")],
            "nested": [[{"day": now.date()}]],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    (row,) = file(path=tmp_path / "rows.parquet")
    assert row.where.endswith("rows.parquet, row 0")
    assert row.values == {
        "prompt": "q",
        "long": "x",
        "when": "2024-05-06T07:08:00+00:00",
        "price": "1.50",
        "nested": [{"day": "2024-05-06"}],
    }


def test_the_playground_only_appends() -> None:
    few, more = list(playground(count=3)), list(playground(count=5))
    assert [row.values for row in few] == [row.values for row in more[:3]]
    assert not {row.values["prompt"] for row in more} & {
        row.values["prompt"] for row in playground(split="test")
    }
