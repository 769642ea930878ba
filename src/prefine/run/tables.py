"""Tables in Parquet parts; each has the schema version and its shard's key in its metadata."""

import hashlib
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from prefine.atomic import write_atomically
from prefine.errors import DataError, LimitError
from prefine.records import SCHEMA_VERSION, Record, content_hash

R = TypeVar("R", bound=Record)

_MADE_BY = {
    "completions": "sample",
    "judgments": "rank",
    "joint_judgments": "rank",
    "rankings": "rank",
    "pairs": "pair",
    "lists": "pair",
    "labels": "pair",
    "bridged_pairs": "bridge",
    "heldout_tokens": "train",
}
"""The stage that makes a table of a run folder."""
_VERSION = b"prefine_schema_version"
_KEY = b"prefine_shard_key"

# Values that people query have a column each; open-ended ones (tool calls, metadata) are JSON text.
_TEXT, _COUNT, _NUMBER = pa.string(), pa.int64(), pa.float64()
_TEXTS, _NUMBERS, _TOKENS = pa.list_(_TEXT), pa.list_(_NUMBER), pa.list_(pa.int32())
_MESSAGES = pa.list_(pa.struct({"role": _TEXT, "content": _TEXT}))
_DUELS = pa.list_(pa.struct({"first": _TEXT, "second": _TEXT, "p_first": _NUMBER}))
SCHEMAS: dict[str, pa.Schema] = {
    "completions": pa.schema(
        {
            "id": _TEXT,
            "prompt_id": _TEXT,
            "sample_index": _COUNT,
            "message": _TEXT,
            "text": _TEXT,
            "token_ids": _TOKENS,
            "tokenizer_hash": _TEXT,
            "sampled_logp": _NUMBER,
            "model": _TEXT,
            "sampling": _TEXT,
            "seed": _COUNT,
            "finish_reason": _TEXT,
            "metadata": _TEXT,
            "prompt": _TEXT,
        }
    ),
    # A comparison has `second` and `p_first`; a rating has neither, and a `score`.
    "judgments": pa.schema(
        {
            "prompt_id": _TEXT,
            "first": _TEXT,
            "second": _TEXT,
            "judge": _TEXT,
            "sample_index": _COUNT,
            "p_first": _NUMBER,
            "score": _NUMBER,
            "raw_text": _TEXT,
            "error": _TEXT,
        }
    ),
    # Of answers to two prompts.
    "joint_judgments": pa.schema(
        {
            "prompt_id": _TEXT,
            "first": _TEXT,
            "second_prompt_id": _TEXT,
            "second": _TEXT,
            "judge": _TEXT,
            "sample_index": _COUNT,
            "p_first": _NUMBER,
            "raw_text": _TEXT,
            "error": _TEXT,
        }
    ),
    "rankings": pa.schema(
        {
            "prompt_id": _TEXT,
            "strategy": _TEXT,
            "completions": _TEXTS,
            "champion": _TEXT,
            "worst": _TEXT,
            "last_loser": _TEXT,
            "order": _TEXTS,
            "scores": _NUMBERS,
            "standard_errors": _NUMBERS,
            "score_unit": _TEXT,
            "duels": _DUELS,
            "rated": _TEXTS,
            "calls": _COUNT,
            "failed_calls": _COUNT,
            "cyclic_triads": _COUNT,
        }
    ),
    "pairs": pa.schema(
        {
            "prompt": _MESSAGES,
            "chosen": _MESSAGES,
            "rejected": _MESSAGES,
            "prefine_prompt_id": _TEXT,
            "prefine_chosen_id": _TEXT,
            "prefine_rejected_id": _TEXT,
            "prefine_rejected_prompt_id": _TEXT,
            "prefine_p_chosen": _NUMBER,
            "prefine_score_gap": _NUMBER,
            "prefine_weight": _NUMBER,
            "prefine_chosen_token_ids": _TOKENS,
            "prefine_rejected_token_ids": _TOKENS,
            "prefine_extra": _TEXT,
        }
    ),
    "lists": pa.schema(
        {
            "prompt": _MESSAGES,
            "completions": pa.list_(_MESSAGES),
            "scores": _NUMBERS,
            "ranks": pa.list_(_COUNT),
            "prefine_prompt_id": _TEXT,
            "prefine_completion_ids": _TEXTS,
            "prefine_weight": _NUMBER,
            "prefine_token_ids": pa.list_(_TOKENS),
            "prefine_extra": _TEXT,
        }
    ),
    "labels": pa.schema(
        {
            "prompt": _MESSAGES,
            "completion": _MESSAGES,
            "label": pa.bool_(),
            "prefine_prompt_id": _TEXT,
            "prefine_completion_id": _TEXT,
            "prefine_weight": _NUMBER,
            "prefine_token_ids": _TOKENS,
            "prefine_extra": _TEXT,
        }
    ),
    "heldout_tokens": pa.schema(
        {
            "prompt_id": _TEXT,
            "completion_id": _TEXT,
            "item_id": _TEXT,
            "role": _TEXT,
            "tokens": _TEXTS,
            "logps": _NUMBERS,
            "initial_logps": _NUMBERS,
        }
    ),
}
SCHEMAS["bridged_pairs"] = pa.schema(
    [
        *SCHEMAS["pairs"],
        pa.field("prefine_bridge", _TEXT),
        pa.field("prefine_original_chosen", _MESSAGES),
    ]
)
TABLE_FOLDERS = frozenset({*SCHEMAS, "heldout_pairs", "heldout_lists", "heldout_labels"})


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


class TableWriter:
    """Writes the parts of a table in order, and then removes parts of an earlier, longer run.

    Args:
        folder: Where the table is.
        kind: Its schema.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind, self._count = folder, kind, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is None:
            remove_parts_from(self._folder, self._count)

    def write(self, rows: list[dict[str, Any]], *, key: str) -> None:
        """Write the next part atomically; `key` is everything that its rows depend on."""
        write_part(part_path(self._folder, self._count), self._kind, rows, key=key)
        self._count += 1


class PartsWritten:
    """Removes parts that are not counted, of tables whose parts others write by their numbers.

    They are of an earlier, longer run, or, where a limit ended the stage, of the shard that failed
    and those after it. `count` is the number of parts that there are now.

    Args:
        folders: The tables.
    """

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        # Not earlier: by now no other process writes, or is about to rename a file of its own.
        if failed is None or issubclass(failed, LimitError):
            for folder in self._folders:
                remove_parts_from(folder, self.count)


def parts(folder: Path) -> list[Path]:
    """The parts of a table, in order.

    Raises:
        DataError: There is none.
    """
    found = existing_parts(folder)
    if not found:
        stage = _MADE_BY.get(folder.name)
        remedy = f"run `prefine {stage}`" if stage else "run the stage that makes it"
        raise DataError(f"{folder}: no part-*.parquet here; {remedy} first")
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
    """Remove parts that an earlier, longer run left behind, and files that a killed one began."""
    for path in folder.glob(".part-*.tmp"):
        path.unlink()
    for path in existing_parts(folder):
        if int(path.stem.removeprefix("part-")) >= number:
            path.unlink()


def table_hash(folder: Path) -> str:
    """Hash of the names and bytes of all parts; the bytes have the shard keys in them."""
    digest = hashlib.sha256()
    for path in existing_parts(folder):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def existing_parts(folder: Path) -> list[Path]:
    """The parts of a table; beyond 99,999 their numbers have more digits and sort behind."""
    return sorted(folder.glob("part-*.parquet"), key=lambda path: (len(path.name), path.name))


def parse(kind: type[R], values: dict[str, Any], *, where: str) -> R:
    """Validate plain values as a record.

    Raises:
        DataError: The values do not fit; `where` names the place.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{where}: {error}") from error


def shard_key(*parts: object) -> str:
    """The key of a shard: a hash of everything that its rows depend on."""
    return content_hash("shard", *parts)
