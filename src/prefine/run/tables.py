"""Records in Parquet parts. A part carries the schema version and the key of the shard it was made from."""

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from prefine.atomic import write_atomically
from prefine.errors import DataError
from prefine.records import SCHEMA_VERSION, Record, content_hash

R = TypeVar("R", bound=Record)

_VERSION = b"prefine_schema_version"
_KEY = b"prefine_shard_key"

# Columns that people query are columns; what is open-ended (tool calls, metadata) is JSON text
# beside them.
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_DUEL = pa.struct([("first", pa.string()), ("second", pa.string()), ("p_first", pa.float64())])
SCHEMAS: dict[str, pa.Schema] = {
    "completions": pa.schema(
        [
            ("id", pa.string()),
            ("prompt_id", pa.string()),
            ("sample_index", pa.int64()),
            ("message", pa.string()),
            ("text", pa.string()),
            ("token_ids", pa.list_(pa.int32())),
            ("tokenizer_hash", pa.string()),
            ("sampled_logp", pa.float64()),
            ("model", pa.string()),
            ("sampling", pa.string()),
            ("seed", pa.int64()),
            ("finish_reason", pa.string()),
            ("metadata", pa.string()),
            ("prompt", pa.string()),
        ]
    ),
    "rankings": pa.schema(
        [
            ("prompt_id", pa.string()),
            ("strategy", pa.string()),
            ("completions", pa.list_(pa.string())),
            ("champion", pa.string()),
            ("worst", pa.string()),
            ("last_loser", pa.string()),
            ("order", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float64())),
            ("standard_errors", pa.list_(pa.float64())),
            ("score_unit", pa.string()),
            ("duels", pa.list_(_DUEL)),
            ("calls", pa.int64()),
            ("failed_calls", pa.int64()),
            ("cyclic_triads", pa.int64()),
        ]
    ),
    "pairs": pa.schema(
        [
            ("prompt", pa.list_(_MESSAGE)),
            ("chosen", pa.list_(_MESSAGE)),
            ("rejected", pa.list_(_MESSAGE)),
            ("prefine_prompt_id", pa.string()),
            ("prefine_chosen_id", pa.string()),
            ("prefine_rejected_id", pa.string()),
            ("prefine_rejected_prompt_id", pa.string()),
            ("prefine_p_chosen", pa.float64()),
            ("prefine_score_gap", pa.float64()),
            ("prefine_weight", pa.float64()),
            ("prefine_chosen_token_ids", pa.list_(pa.int32())),
            ("prefine_rejected_token_ids", pa.list_(pa.int32())),
            ("prefine_extra", pa.string()),
        ]
    ),
    "lists": pa.schema(
        [
            ("prompt", pa.list_(_MESSAGE)),
            ("completions", pa.list_(pa.list_(_MESSAGE))),
            ("scores", pa.list_(pa.float64())),
            ("ranks", pa.list_(pa.int64())),
            ("prefine_prompt_id", pa.string()),
            ("prefine_completion_ids", pa.list_(pa.string())),
            ("prefine_weight", pa.float64()),
            ("prefine_token_ids", pa.list_(pa.list_(pa.int32()))),
            ("prefine_extra", pa.string()),
        ]
    ),
}


TABLE_FOLDERS = frozenset(
    ["completions", "rankings", "pairs", "heldout_pairs", "lists", "heldout_lists"]
)


def part_path(folder: Path, number: int) -> Path:
    """The path of a table's part."""
    return folder / f"part-{number:05d}.parquet"


def write_part(path: Path, kind: str, rows: list[dict[str, Any]], *, key: str) -> None:
    """Write one part atomically; equal rows and key give equal bytes."""
    schema = SCHEMAS[kind].with_metadata(
        {_VERSION: str(SCHEMA_VERSION).encode(), _KEY: key.encode()}
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def parts(folder: Path) -> list[Path]:
    """The parts of a table, in order.

    Raises:
        DataError: There is none.
    """
    found = sorted(folder.glob("part-*.parquet"))
    if not found:
        raise DataError(f"{folder}: no part-*.parquet here; run the stage that makes it first")
    return found


def read_part(path: Path) -> list[dict[str, Any]]:
    """The rows of one part.

    Raises:
        DataError: The part is damaged, or was written by another schema version.
    """
    rows: list[dict[str, Any]] = _read(path).to_pylist()
    return rows


def column(path: Path, name: str) -> list[Any]:
    """One column of a part.

    Raises:
        DataError: As for `read_part`.
    """
    values: list[Any] = _read(path, [name]).column(name).to_pylist()
    return values


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        # Not `read_table`: that imports pyarrow.dataset and pandas, half a second for nothing.
        with pq.ParquetFile(path) as file:
            table = file.read(columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path}: not readable as Parquet ({error}); "
            "run the whole command again (`prefine run`): it is rebuilt from the journal"
        ) from error
    version = (table.schema.metadata or {}).get(_VERSION, b"?").decode()
    if version != str(SCHEMA_VERSION):
        raise DataError(f"{path}: schema version {version}, this prefine reads {SCHEMA_VERSION}")
    return table


def remove_parts_from(folder: Path, number: int) -> None:
    """Remove parts that an earlier, longer run left behind."""
    for path in sorted(folder.glob("part-*.parquet")):
        if int(path.stem.removeprefix("part-")) >= number:
            path.unlink()


def table_hash(folder: Path) -> str:
    """Hash of a table: of the shard keys and of the bytes of all parts."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("part-*.parquet")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def parse(kind: type[R], values: dict[str, Any], *, where: str) -> R:
    """A record from plain values.

    Raises:
        DataError: The values do not fit; `where` names the place.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{where}: {error}") from error


def shard_key(*parts: object) -> str:
    """The key of a shard: everything its rows depend on."""
    return content_hash("shard", *parts)
