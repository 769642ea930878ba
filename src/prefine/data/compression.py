"""Compressed files, read as if they were not: gzip, bzip2, xz, Zstandard and LZ4."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from prefine.errors import DataError


class Compression(NamedTuple):
    """The first bytes of a compressed file, its reader, and the command that unpacks it."""

    name: str
    magic: bytes
    command: str
    open: Callable[[Path], Any] | None = None


def _by_arrow(compression: str) -> Callable[[Path], IO[bytes]]:
    def opened(path: Path) -> IO[bytes]:
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(path), compression=compression))

    return opened


COMPRESSIONS = (
    Compression("gzip", b"\x1f\x8b", "gunzip", gzip.open),
    Compression("bzip2", b"BZh", "bunzip2", bz2.open),
    Compression("xz", b"\xfd7zXZ\x00", "unxz", lzma.open),
    Compression("zstd", b"\x28\xb5\x2f\xfd", "unzstd", _by_arrow("zstd")),
    Compression("lz4", b"\x04\x22\x4d\x18", "unlz4", _by_arrow("lz4")),
    Compression("zip", b"PK\x03\x04", "unzip"),
    Compression("7z", b"7z\xbc\xaf\x27\x1c", "7z x"),
)
_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z")
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".lz4")
# A text may begin with these three letters; what follows them in a compressed file is no text.
_BZIP2 = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")


def compression_of(path: Path) -> Compression | None:
    """Return the compression that the first bytes of a file show, whatever its name says."""
    with path.open("rb") as file:
        start = file.read(10)
    found = next((one for one in COMPRESSIONS if start.startswith(one.magic)), None)
    if found is not None and found.name == "bzip2" and start[4:10] not in _BZIP2:
        return None
    return found


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading its unpacked bytes.

    Raises:
        DataError: The file is an archive, or what is read of it is damaged.
    """
    compression = compression_of(path)
    if compression is None:
        with path.open("rb") as plain:
            yield plain
        return
    if compression.open is None:
        raise packed(path, compression, "may hold several files")
    try:
        with compression.open(path) as unpacked:
            yield unpacked
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{path}: damaged {compression.name} ({error}); compress the file again"
        ) from error


def check_unpacked(path: Path, kind: str) -> None:
    """Raise DataError if a file of this kind is compressed as a whole: it is read in pieces."""
    compression = compression_of(path)
    if compression is not None:
        raise packed(path, compression, f"{kind} is read in pieces")


def check_no_archive(path: Path) -> None:
    """Raise DataError if a file is an archive by its name."""
    ending = next(filter(path.name.lower().endswith, _ARCHIVES), None)
    if ending is not None:
        raise DataError(
            f"{path}: {ending} is an archive, which may hold several files; unpack it first, and "
            "name the file or the folder with its parts"
        )


def packed(path: Path, compression: Compression, why: str) -> DataError:
    """Return the error about a file that has to be unpacked first."""
    return DataError(
        f"{path}: this is compressed with {compression.name}, and {why}; unpack it first: "
        f"{compression.command} {path.name}"
    )
