"""One stage at work: its progress, resuming, and the manifest that says how it was made."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prefine.config.sections import RunConfig
from prefine.data.import_report import ImportReport
from prefine.errors import DataError
from prefine.records import Completion, Counts, Manifest, Prompt
from prefine.run.config_changes import STAGE_SECTIONS, fingerprinted
from prefine.run.folder import RunFolder
from prefine.run.tables import TABLE_FOLDERS, table_hash
from prefine.stages import origins

if TYPE_CHECKING:  # runs without calls load neither engine nor judges
    from prefine.calls.engine import CallEngine
    from prefine.judging.protocol import Judge

T = TypeVar("T")


class Progress(Protocol):
    """Receives how far a stage is. The command line draws it; a library user may ignore it."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage of `total` units of work.

        Args:
            stage: Its name.
            total: The units of work.
            unit: Their name, in the plural.
        """
        ...

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count units as done.

        Args:
            count: How many.
            note: Shown with the count.
        """
        ...

    def say(self, text: str) -> None:
        """Show a line that the user should read.

        Args:
            text: The line.
        """
        ...

    @property
    def stopping(self) -> bool:
        """True once the user asked to stop; stages stop at the next safe place."""
        ...


class Silent:
    """Progress for library users and tests: shows nothing."""

    stopping = False

    def start(self, stage: str, total: int, unit: str) -> None:
        """Ignore."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Ignore."""

    def say(self, text: str) -> None:
        """Ignore."""


class Watched:
    """Progress of a run at a URL: every step looks first if the store keeps up.

    Args:
        shown: Shows it.
        check: Waits for the store, and raises when it cannot be written.
    """

    def __init__(self, shown: Progress, check: Callable[[], None]) -> None:
        self._shown, self._check = shown, check

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage of `total` units of work."""
        self._shown.start(stage, total, unit)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count units as done, once the store has what may not wait any longer."""
        self._check()
        self._shown.advance(count, note)

    def say(self, text: str) -> None:
        """Show a line that the user should read."""
        self._shown.say(text)

    @property
    def stopping(self) -> bool:
        """True once the user asked to stop."""
        return self._shown.stopping


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
        self._sections = {name: resolved[name] for name in STAGE_SECTIONS[stage]}
        self.fingerprinted: dict[str, Any] = fingerprinted(self._sections)
        self.inputs = dict(inputs)
        self._lineage = config.lineage
        self.failed: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.notes: list[str] = []
        self._judge_prompt: str | None = None
        self._seed: int | None = None
        self._began_at = origins.now()
        self._began = time.monotonic()
        earlier = folder.manifests().get(stage)
        if earlier is not None and (
            fingerprinted(earlier.config) != self.fingerprinted
            or earlier.input_hashes != self.inputs
        ):
            earlier = None
        self._earlier = earlier

    @property
    def finished(self) -> Manifest | None:
        """The manifest of an earlier, complete run of the same, if its tables are still there."""
        earlier = self._earlier
        if earlier is None or not earlier.complete:
            return None
        for name, value in earlier.output_hashes.items():
            if name in TABLE_FOLDERS and table_hash(self.folder / name) != value:
                return None
        return earlier

    def set_aside(self, report: ImportReport) -> None:
        """Count what was read and set aside, and note the first places."""
        self.dropped.update(report.dropped)
        self.notes += (*report.recognised(), *report.notes())

    def asks(self, judge: "Judge | None") -> None:
        """Keep a judge's prompt for the manifest, if it has one."""
        prompt = getattr(judge, "prompt", None)
        self._judge_prompt = prompt if isinstance(prompt, str) else None

    def begin(self, seed: int | None = None) -> None:
        """Write the manifest of a stage that has begun."""
        self._seed = seed
        if self._earlier is None:
            self._write()
        else:
            self._write(usage=self._earlier.usage)

    def note(self, engine: "CallEngine") -> None:
        """Write what the engine has counted so far, so that the manifest is true whenever it ends.

        Of a resumed run, whose answers come from the journal again one by one, the cost is at least
        what it was.
        """
        usage = engine.usage
        if self._earlier is not None and self._earlier.usage.calls > usage.calls:
            usage = self._earlier.usage
        counts = Counts(failed=dict(engine.failures))
        self._write(engine, counts=counts, usage=usage, replayed=engine.replayed)

    def end(
        self,
        *,
        taken: int,
        produced: int,
        outputs: Mapping[str, str],
        engine: "CallEngine | None" = None,
    ) -> Manifest:
        """Write and return the manifest of a stage that is done.

        Args:
            taken: How many rows it read.
            produced: How many it made.
            outputs: Hashes of what it made.
            engine: The engine that it asked through: its usage and repeated calls are stored.
        """
        counts = Counts(
            taken=taken, produced=produced, failed=dict(self.failed), dropped=dict(self.dropped)
        )
        asked = {} if engine is None else {"replayed": engine.replayed, "usage": engine.usage}
        return self._write(
            engine,
            complete=True,
            output_hashes=dict(outputs),
            counts=counts,
            notes=tuple(self.notes),
            **asked,
        )

    def _write(self, engine: "CallEngine | None" = None, **results: Any) -> Manifest:
        # The same stage, begun again after an interruption, goes on counting its time and repeats.
        seconds = time.monotonic() - self._began
        repeated = engine.repeated if engine else 0
        began_at: str | None = self._began_at
        if self._earlier is not None:
            began_at = self._earlier.began_at
            seconds += self._earlier.wall_time_s
            repeated += self._earlier.repeated_after_interruption
        if engine is not None:
            # The journal's own count outlives a kill; a folder of before it had one has ours.
            repeated = max(repeated, engine.journal.repeats(self.stage))
        manifest = Manifest(
            stage=self.stage,
            config=self._sections,
            input_hashes=self.inputs,
            code_version=version("prefine"),
            commit=origins.commit(),
            versions=origins.all_versions(),
            command=origins.command(),
            began_at=began_at,
            seed=self._seed,
            judge_prompt=self._judge_prompt,
            parent_run=None if self._lineage is None else self._lineage.parent_run,
            round=None if self._lineage is None else self._lineage.round,
            repeated_after_interruption=repeated,
            wall_time_s=round(seconds, 3),
            **results,
        )
        self.folder.write_manifest(manifest)
        return manifest


class ChecksAnswers(Protocol):
    """A judge, or whoever else can tell beforehand that it cannot work on answers."""

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Raise DataError if it cannot work on these completions of a prompt.

        Args:
            prompt: Their prompt.
            completions: The completions.
        """
        ...


def check_judge(judge: ChecksAnswers, prompt: Prompt, completions: list[Completion]) -> None:
    """Raise DataError, naming the prompt's place in its file, if the judge cannot handle these."""
    try:
        judge.check(prompt, completions)
    except DataError as error:
        raise DataError(f"{prompt.source}: {error}" if prompt.source else str(error)) from error


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter; nothing is read ahead."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
