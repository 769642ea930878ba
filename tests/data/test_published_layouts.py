"""Three rows of each layout as its publisher documents it, in every format: roles, turns, sides.

`layout_rows/` has a file a layout or variant: rows, and what they are by the publisher's own words.
"""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefine.data import entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.table import LAYOUTS
from prefine.data.sources import file
from prefine.records import Completion, Message

HERE = Path(__file__).parent / "layout_rows"
NAMES = sorted(path.stem for path in HERE.glob("*.json"))
Rows = list[dict[str, Any]]


def lines(rows: Rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_csv(path: Path, rows: Rows) -> None:
    def cell(value: Any) -> Any:
        return json.dumps(value) if isinstance(value, dict | list) else value

    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def write_compressed(path: Path, rows: Rows) -> None:
    with pa.output_stream(path, compression=path.suffix[1:].replace("zst", "zstd")) as out:
        out.write(lines(rows))


WRITERS: dict[str, Callable[[Path, Rows], object]] = {
    "r.jsonl": lambda path, rows: path.write_bytes(lines(rows)),
    "r.json": lambda path, rows: path.write_text(json.dumps(rows)),
    "r.csv": write_csv,
    "r.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
    "r.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(lines(rows))),
    "r.json.bz2": lambda path, rows: path.write_bytes(bz2.compress(json.dumps(rows).encode())),
    "r.jsonl.xz": lambda path, rows: path.write_bytes(lzma.compress(lines(rows))),
    "r.jsonl.zst": write_compressed,
    "r.jsonl.lz4": write_compressed,
}


def turns(messages: tuple[Message, ...]) -> list[list[str]]:
    return [[message.role, message.content] for message in messages]


def answered(completion: Completion) -> Any:
    """One turn as its text, several as they are."""
    return turns(completion.messages) if completion.earlier_turns else completion.text


def understood(entry: str, path: Path, report: ImportReport) -> tuple[str, Rows]:
    rows = list(file(path=path))
    if entry == "prompts":
        found = [{"prompt": turns(one.messages)} for one in entries.prompts(rows, report)]
    elif entry == "pairs":
        found = []
        for pair in entries.pairs(rows, report):
            gap = {} if pair.score_gap is None else {"score_gap": pair.score_gap}
            sides = {"chosen": answered(pair.chosen), "rejected": answered(pair.rejected)}
            found.append({"prompt": turns(pair.prompt.messages)} | sides | gap)
    else:
        found = [
            {
                "prompt": turns(prompt.messages),
                "answers": [[one.text, one.metadata.get("grade")] for one in answers],
            }
            for prompt, answers in entries.completions(rows, report)
        ]
    return rows[0].layout, found


def published(written: str, name: str) -> bool:
    """A list of texts in a cell of CSV would be a text: nobody publishes these as CSV."""
    return (written, name) not in (("r.csv", "llama_factory"), ("r.csv", "qa_feedback"))


@pytest.mark.parametrize(
    ("written", "name"), [two for two in product(WRITERS, NAMES) if published(*two)]
)
def test_rows_are_what_their_publisher_says(name: str, written: str, tmp_path: Path) -> None:
    case = json.loads((HERE / f"{name}.json").read_text())
    WRITERS[written](tmp_path / written, case["rows"])
    report = ImportReport()
    layout, found = understood(case["as"], tmp_path / written, report)
    assert (layout, found) == (case.get("layout", name), case["expected"])
    assert dict(report.dropped) == case["set_aside"]
    assert not report.remarked


def test_every_layout_has_its_rows() -> None:
    cases = [json.loads((HERE / f"{name}.json").read_text()) for name in NAMES]
    covered = {case.get("layout", name) for name, case in zip(NAMES, cases, strict=True)}
    assert covered == {layout.name for layout in LAYOUTS}
    assert all(len(case["rows"]) == 3 for case in cases)
