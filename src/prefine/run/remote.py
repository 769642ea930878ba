"""Files at a URL, by `fsspec`: read, written whole and listed, with retries."""

import errno
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prefine.atomic import write_atomically
from prefine.errors import BackendError, ConfigError, PrefineError

T = TypeVar("T")

PATIENCE_S = 60.0
"""For so long a call to the store is tried again, before the run stops."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 10.0
_OBJECTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2"}
"""Stores that have no folders, and where making one would make a bucket."""
_WHOLE_BYTES = 16 * 2**20
"""Up to this size a file is read at once, so that what is uploaded is one moment of it."""
_IN_PLACE = {"sftp", "ssh", "smb"}
"""Stores that show a file while it is being written, and can rename one."""
# What another machine has written since must be seen. A connection keeps no listings, and answers
# one call after the other: a beat of the lease must not wait for an upload.
_OF_REQUESTS = {"use_listings_cache": False}
_OF_A_CONNECTION = {"skip_instance_cache": True}


class Stored(NamedTuple):
    """The size of a stored file in bytes, and a mark that is another one when it has changed."""

    size: int
    mark: str


class Remote:
    """A folder at a URL.

    Args:
        url: Such as s3://bucket/run.
        options: Of its file system, as `fsspec` names them.
        patience_s: For so long each call is tried again.
        may_change: Is called before each try to write or delete; what it raises, other than a
            PrefineError, is tried again.

    Raises:
        ConfigError: `fsspec`, or the package for this kind of URL, is missing.
        BackendError: The store cannot be connected to.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any] | None = None,
        patience_s: float = PATIENCE_S,
        may_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.url = url.rstrip("/")
        self.patience_s, self._may_change = patience_s, may_change
        self._until = math.inf
        self._is_in_place = self.url.partition(":")[0] in _IN_PLACE
        self._turn = threading.Lock() if self._is_in_place else nullcontext()
        try:
            import fsspec

            settings = _OF_A_CONNECTION if self._is_in_place else _OF_REQUESTS
            self._files, self._root = fsspec.core.url_to_fs(
                self.url, **{**settings, **(options or {})}
            )
        except (ImportError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{url}: this kind of URL cannot be opened ({error}); install prefine[storage] and "
                "what fsspec needs for it"
            ) from error
        except Exception as error:  # each kind of store has its own
            raise BackendError(
                f"{url}: cannot be opened ({type(error).__name__}: {error}); check the address and "
                "the credentials"
            ) from error

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let all calls of a block, which one thread makes, be tried for so long together."""
        self._until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = math.inf

    def listing(self, below: str = "") -> dict[str, Stored]:
        """All files of the folder, by their path in it; none if it is not there yet.

        Args:
            below: Only those of this folder in it.
        """
        place = self._path(below) if below else self._root

        def listed() -> Mapping[str, Any]:
            self._files.invalidate_cache()
            try:
                found: Mapping[str, Any] = self._files.find(place, detail=True)
            except FileNotFoundError:
                return {}
            return found

        start = len(self._files._strip_protocol(self._root).rstrip("/")) + 1
        return {
            self._files._strip_protocol(path)[start:]: _stored(entry)
            for path, entry in self._patiently(listed).items()
            if not _is_half(path)
        }

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: There is none.
        """
        found: bytes = self._patiently(lambda: self._files.cat_file(self._path(name)))
        return found

    def download(self, name: str, to: Path) -> None:
        """Write a file to the disk, whole or not at all."""
        to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = to.with_name(f".{to.name}.fetched.tmp")
        self._patiently(lambda: self._files.get_file(self._path(name), str(temporary)))
        temporary.rename(to)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole.

        Raises:
            ConfigError: There is no such bucket.
        """
        with self._bucket_is_there():
            self._patiently(lambda: self._written(name, content))

    def overwrite(self, name: str, content: bytes) -> None:
        """Write a file that is there at every moment, and that readers may see half written."""
        with self._bucket_is_there():
            self._patiently(lambda: self._piped(name, content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there yet; False if it is."""
        try:
            with self._bucket_is_there():
                self._patiently(lambda: self._piped(name, content, mode="create"))
        except FileExistsError:
            return self.read(name) == content
        # A store that knows no exclusive writing keeps the last of two.
        return self.read(name) == content

    def upload(self, file: Path, name: str) -> None:
        """Write a file of the disk, whole.

        Raises:
            FileNotFoundError: It has gone from the disk.
        """
        if file.stat().st_size <= _WHOLE_BYTES:
            self.write(name, file.read_bytes())
        else:
            with self._bucket_is_there(file):
                self._patiently(lambda: self._put(file, name))

    def delete(self, names: Iterable[str]) -> None:
        """Take files away; those that are gone already are no error."""
        for name in names:
            try:
                self._patiently(lambda name=name: self._removed(name))  # type: ignore[misc]
            except FileNotFoundError:
                continue

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _removed(self, name: str) -> None:
        self._may_change()
        self._files.rm_file(self._path(name))

    def _written(self, name: str, content: bytes) -> None:
        if not self._is_in_place:
            self._piped(name, content)
            return
        self._may_change()
        self._renamed(name, lambda half: self._files.pipe_file(half, content))

    def _piped(self, name: str, content: bytes, mode: str = "overwrite") -> None:
        self._may_change()
        path = self._with_folder(name)
        if not self._is_disk:
            self._files.pipe_file(path, content, mode=mode)
        elif mode == "create":
            with Path(path).open("xb") as file:
                file.write(content)
        else:
            write_atomically(Path(path), lambda half: _write(half, content))

    def _put(self, file: Path, name: str) -> None:
        self._may_change()
        if self._is_in_place:
            self._renamed(name, lambda half: self._files.put_file(str(file), half))
            return
        path = self._with_folder(name)
        if self._is_disk:
            write_atomically(Path(path), lambda half: _copy(file, half))
        else:
            self._files.put_file(str(file), path)

    def _renamed(self, name: str, write: Callable[[str], None]) -> None:
        """Write a file under another name, and give it its own when it is whole."""
        path = self._with_folder(name)
        folder, _, last = path.rpartition("/")
        half = f"{folder}/.{last}.tmp"
        write(half)
        try:
            self._files.mv(half, path)
        except OSError as error:
            # SMB gives no name that is taken.
            if error.errno != errno.EEXIST:
                raise
            self._files.rm_file(path)
            self._files.mv(half, path)

    def _with_folder(self, name: str) -> str:
        """The path of a file, whose folder is there from now on."""
        path = self._path(name)
        if not _OBJECTS.intersection(_protocols(self._files)):
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        return path

    @property
    def _is_disk(self) -> bool:
        """True for a folder of this machine, or one mounted here."""
        return "file" in _protocols(self._files)

    @contextmanager
    def _bucket_is_there(self, file: Path | None = None) -> Iterator[None]:
        """Say what is missing where something is written; a `file` may have gone meanwhile."""
        try:
            yield
        except FileNotFoundError as error:
            if file is not None and not file.exists():
                raise
            raise ConfigError(
                f"{self.url}: there is no such bucket or folder ({error}); make it first"
            ) from error

    def _patiently(self, work: Callable[[], T]) -> T:
        """Call the store until it answers.

        Raises:
            FileNotFoundError: There is no such file.
            FileExistsError: There is one, and it was to be new.
            ConfigError: It may not be read or written.
            LimitError: A disk is full.
            BackendError: It has not answered for long.
        """
        began, wait = time.monotonic(), _FIRST_WAIT_S
        end = min(began + self.patience_s, self._until)
        while True:
            try:
                with self._turn:
                    return work()
            except (FileNotFoundError, FileExistsError, PrefineError):
                raise
            except PermissionError as error:
                raise ConfigError(
                    f"{self.url}: no permission ({error}); check the credentials in the environment"
                ) from error
            except Exception as error:  # each kind of store has its own
                if "Credential" in type(error).__name__:
                    raise ConfigError(
                        f"{self.url}: {error}; export those that this kind of URL needs, such as "
                        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    ) from error
                if isinstance(error, OSError) and error.errno == errno.ENOENT:  # as SMB says it
                    raise FileNotFoundError(str(error)) from error
                if isinstance(error, OSError) and "PreconditionFailed" in repr(error):
                    raise FileExistsError(str(error)) from error
                if time.monotonic() + wait > end:
                    raise BackendError(
                        f"{self.url}: cannot be reached ({type(error).__name__}: {error}) for "
                        f"{time.monotonic() - began:.1f} s; the run stops, so that no more is lost "
                        "with this machine than storage allows. Run the same command again"
                    ) from error
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)


def _protocols(files: Any) -> tuple[str, ...]:
    """The names of a file system's kind."""
    found: str | tuple[str, ...] = files.protocol
    return (found,) if isinstance(found, str) else found


def _is_half(path: str) -> bool:
    """Return True for a file that was being written when its writer was killed."""
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(".tmp")


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _copy(file: Path, to: Path) -> None:
    shutil.copyfile(file, to)


def _stored(entry: Mapping[str, Any]) -> Stored:
    named = ("ETag", "etag", "md5", "mtime", "created", "LastModified")
    marks = (entry.get(name) for name in named)
    return Stored(int(entry["size"]), str(next((one for one in marks if one is not None), "")))
