"""What all stages share: progress, resuming, and the manifest that says how a stage was made."""

import inspect
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Protocol, TypeVar

from pydantic import JsonValue

from prefine.calls.engine import CallEngine
from prefine.config.sections import RunConfig
from prefine.data.import_report import ImportReport
from prefine.errors import DataError
from prefine.judging.protocol import Judge
from prefine.records import Completion, Counts, Manifest, Prompt, Usage
from prefine.run.folder import STAGE_SECTIONS, RunFolder, fingerprinted
from prefine.run.tables import TABLE_FOLDERS, table_hash

T = TypeVar("T")
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow")


class Progress(Protocol):
    """Where a stage says how far it is. The command line draws it; a library user may ignore it."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage begins `total` units of work."""
        ...

    def advance(self, count: int = 1, note: str = "") -> None:
        """Some units are done."""
        ...

    def say(self, text: str) -> None:
        """Something the user should know."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether the user asked to stop; stages stop at the next safe place."""
        ...


class StageRun:
    """One stage at work: skips what is done, counts, and writes the manifest.

    Args:
        folder: The run folder.
        stage: Its name.
        config: The whole configuration; only the stage's sections count.
        inputs: Hashes of what it reads.
    """

    def __init__(
        self, folder: RunFolder, stage: str, config: RunConfig, inputs: Mapping[str, str]
    ) -> None:
        resolved = config.resolved()
        self.folder = folder
        self.stage = stage
        self.sections: dict[str, JsonValue] = {
            name: resolved[name] for name in STAGE_SECTIONS[stage]
        }
        self.deciding = fingerprinted(self.sections)
        self.inputs = dict(inputs)
        self.failed: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.notes: list[str] = []
        self._seed: int | None = None
        self._began = time.monotonic()
        before = folder.manifests().get(stage)
        self._before = before if before and self._same(before) else None

    @property
    def finished(self) -> Manifest | None:
        """The manifest of an earlier run that did the same to the end, if what it made is still there."""
        if self._before is None or not self._before.complete:
            return None
        hashes = self._before.output_hashes.items()
        whole = all(
            table_hash(self.folder / name) == value
            for name, value in hashes
            if name in TABLE_FOLDERS
        )
        return self._before if whole else None

    def set_aside(self, screen: ImportReport) -> None:
        """Count what was read and set aside, and note the first places."""
        self.dropped.update(screen.dropped)
        self.notes += screen.notes()

    def begin(self, seed: int | None = None) -> None:
        """Write the manifest of a stage that has begun."""
        self._seed = seed
        self.folder.write_manifest(self._manifest(complete=False))

    def end(
        self,
        *,
        taken: int,
        produced: int,
        outputs: Mapping[str, str],
        engine: CallEngine | None = None,
    ) -> Manifest:
        """Write and return the manifest of a stage that is done."""
        manifest = self._manifest(
            complete=True, taken=taken, produced=produced, outputs=outputs, engine=engine
        )
        self.folder.write_manifest(manifest)
        return manifest

    def _same(self, manifest: Manifest) -> bool:
        return (
            fingerprinted(manifest.config) == self.deciding and manifest.input_hashes == self.inputs
        )

    def _manifest(
        self,
        *,
        complete: bool,
        taken: int = 0,
        produced: int = 0,
        outputs: Mapping[str, str] | None = None,
        engine: CallEngine | None = None,
    ) -> Manifest:
        earlier = self._before
        return Manifest(
            stage=self.stage,
            complete=complete,
            config=self.sections,
            input_hashes=self.inputs,
            output_hashes=dict(outputs or {}),
            code_version=version("prefine"),
            versions=versions(),
            seed=self._seed,
            counts=Counts(
                taken=taken, produced=produced, failed=dict(self.failed), dropped=dict(self.dropped)
            ),
            repeated_after_interruption=(earlier.repeated_after_interruption if earlier else 0)
            + (engine.repeated if engine else 0),
            wall_time_s=round(
                (earlier.wall_time_s if earlier else 0.0) + time.monotonic() - self._began, 3
            ),
            replayed=engine.replayed if engine else 0,
            usage=engine.usage if engine else Usage(),
            notes=tuple(self.notes),
        )


def check_judge(judge: Judge, prompt: Prompt, completions: list[Completion]) -> None:
    """Nothing, if the judge can work on these completions.

    Raises:
        DataError: It cannot; the message begins with the prompt's place in the user's file.
    """
    try:
        judge.check(prompt, completions)
    except DataError as error:
        raise DataError(f"{prompt.source}: {error}" if prompt.source else str(error)) from error


def check_model(backend: object) -> None:
    """Raise before any work when the settings or the folder of a model, or of a judge's model, cannot be used."""
    for name in ("check_model", "check"):
        own = getattr(backend, name, None)
        if own is not None and not inspect.signature(own).parameters:
            own()
            return


def versions() -> dict[str, str]:
    """Versions of the libraries that decide results."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Silent:
    """Progress for library users and tests: says nothing."""

    stopping = False

    def start(self, stage: str, total: int, unit: str) -> None:
        """Ignore."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Ignore."""

    def say(self, text: str) -> None:
        """Ignore."""


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter; nothing is read ahead."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
