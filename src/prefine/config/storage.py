"""The section `storage`: a run folder at a URL."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, Strict

from prefine.config.base import Section


class StorageConfig(Section):
    """A run folder at a URL: where it works on this machine, and how it is kept.

    `url` is that of `run_dir`; with a `run_dir` of this machine it may stand here. `local` is the
    folder of this machine in which the run works; without it, one in `~/.cache/prefine/runs`.
    `options` are those of `fsspec` for this kind of URL, such as `endpoint_url`; credentials stay
    in the environment. Another machine takes the run over when nothing was heard of this one for
    `lease_s` seconds. A run waits for the store when a finished file has waited for `behind_s`
    seconds, and stops when the store has not answered for `patience_s`.
    """

    url: str | None = Field(None, exclude=True)
    local: Annotated[Path | None, Strict(False)] = None
    options: dict[str, Any] | None = None
    lease_s: Annotated[float, Field(ge=1)] = 60.0
    behind_s: PositiveFloat = 300.0
    patience_s: PositiveFloat = 60.0


def is_url(text: str) -> bool:
    """Return True for a URL such as s3://bucket/run, also as `pathlib` spoils it: s3:/bucket/run.

    A letter before a colon is a drive.
    """
    scheme, colon, rest = text.partition(":")
    return (
        bool(colon)
        and len(scheme) > 1
        and scheme.isascii()
        and rest.startswith("/")
        and (scheme[0].isalpha() and all(one.isalnum() or one in "+.-" for one in scheme))
    )


def as_url(text: str) -> str:
    """Return a URL with all its slashes, of which `pathlib` leaves one."""
    scheme, _, rest = text.partition(":")
    return f"{scheme}://{'/' if scheme in ('file', 'local') else ''}{rest.lstrip('/')}".rstrip("/")


def local_folder(url: str) -> Path:
    """The folder of this machine in which a run at a URL works, if its configuration names none."""
    words = "".join(one if one.isalnum() or one in ".-" else "_" for one in url)
    # Other URLs may have the same words.
    name = f"{words[-80:].lstrip('.')}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    return Path.home() / ".cache" / "prefine" / "runs" / name
