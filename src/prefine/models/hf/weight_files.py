"""Weight files of a folder, checked by their headers alone: all there, and none cut short."""

import json
from pathlib import Path

from prefine.errors import BackendError

_INDEX = "model.safetensors.index.json"
_AGAIN = "restore or download the folder again"


def check_weight_files(folder: Path) -> None:
    """Check the files that transformers loads, and an adapter's.

    Raises:
        BackendError: One is missing, shorter or longer than its header says, or no such file.
    """
    names = ["model.safetensors", "adapter_model.safetensors"]
    if not (folder / names[0]).is_file() and (folder / _INDEX).is_file():
        names += _shards(folder)
    for name in names:
        if (folder / name).is_file():
            _check_size(folder / name)


def _shards(folder: Path) -> list[str]:
    """Return the names of the files that the index of a divided model names."""
    try:
        named = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(name) for name in named.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(f"{folder / _INDEX}: damaged ({error!r}); {_AGAIN}") from error
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise BackendError(
            f"{folder}: {len(missing)} of the {len(shards)} weight files that {_INDEX} names are "
            f"missing, such as {missing[0]}; {_AGAIN}"
        )
    return shards


def _check_size(file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if start.startswith(b"version "):
            raise BackendError(
                f"{file}: this is a pointer of Git LFS, not the weights; fetch them with git lfs "
                "pull"
            )
        try:
            header = json.loads(stream.read(length) if 8 + length <= size else b"")
            ends = [one["data_offsets"][1] for name, one in header.items() if name[:2] != "__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            expected = None
    if expected != size:
        says = "no header" if expected is None else f"{expected:,} bytes in its header"
        raise BackendError(
            f"{file}: cannot be loaded: the file has {size:,} bytes and {says}, so it is damaged "
            f"or cut short; {_AGAIN}"
        )
