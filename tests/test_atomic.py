"""Files are there whole or not at all."""

import errno
from pathlib import Path

import pytest

from prefine.atomic import disk_errors, write_atomically, write_text
from prefine.errors import ConfigError, LimitError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file.txt"
    write_text(path, "old \u2028 \U0001f600")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text(encoding="utf-8") == "old \u2028 \U0001f600"
    assert [item.name for item in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_a_limit(tmp_path: Path, number: int) -> None:
    def fail(temporary: Path) -> None:
        raise OSError(number, "no room")

    with pytest.raises(LimitError, match="free some space"):
        write_atomically(tmp_path / "file", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP]
)
def test_a_forbidden_place_is_usage(number: int) -> None:
    with (
        pytest.raises(ConfigError, match=r"/a/b: cannot write here .* --run-dir"),
        disk_errors(Path("/a/b")),
    ):
        raise OSError(number, "no")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(OSError, match="odd"), disk_errors(Path("x")):
        raise OSError(errno.EIO, "odd")
