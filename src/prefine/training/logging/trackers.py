"""Experiment trackers: a training's rows as flat numbers to TensorBoard, W&B, MLflow and trackio.

The clients are `accelerate.tracking`'s. A training that is resumed goes on in the same run of each
tracker:

- tensorboard drops the points of the steps that are made again: each is shown once, whatever
  happened.
- wandb takes no step behind its last one, so what is made again is sent again and fills what a kill
  lost. Offline it cannot know: every start is a folder of its own, and the steps made again are in
  both.
- mlflow and trackio keep whatever they are sent, so the last step that each was given is remembered
  in `trackers.json` and rows up to it are not sent again. After a kill -9 MLflow may have one step
  twice, and trackio, which writes every half second, may lack its last rows.
"""

import json
import math
import re
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from prefine.errors import BackendError, ConfigError
from prefine.secrets import redact, refuse_secrets
from prefine.training.distributed.processes import is_main
from prefine.training.logging.figures import StepRow
from prefine.training.logging.tracker_record import RECORD_NAME, TrackerRecord

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

PACKAGES: dict[TrackerName, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
"""Any one of these packages is enough; the first one is what we tell people to install."""

_KEEPS_ONE: frozenset[str] = frozenset({"tensorboard", "wandb"})
"""These show a step once by themselves."""


class Tracker(Protocol):
    """What is used of an `accelerate.tracking.GeneralTracker`."""

    name: str

    def start(self) -> None:
        """Begin a run, or go on with one."""
        ...

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the configuration of a new run."""
        ...

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Take the numbers of a step."""
        ...

    def finish(self) -> None:
        """Send what is left."""
        ...


class Trackers:
    """Several open trackers; `with` closes them. Nothing that they do later ends a training.

    Args:
        trackers: Started ones, by name.
        record: Where the last logged steps are remembered.
    """

    def __init__(self, trackers: Mapping[str, Tracker], record: TrackerRecord) -> None:
        self._trackers = dict(trackers)
        self._record = record
        self._notes: list[str] = []

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """Which trackers failed on the way, and why; they got no more rows."""
        return tuple(self._notes)

    def add(self, name: str, tracker: Tracker) -> None:
        """One more, which has been started."""
        self._trackers[name] = tracker

    def log_step(self, row: StepRow) -> None:
        """Log a step's row as `train/loss`, `train/margin`, …; moving ones as `train/hyper_parameters/loss/beta`."""
        self._log("train", row.step, flat_row(row.model_dump(exclude={"step"}), "train"))

    def log_evaluation(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Log figures of held-out pairs after update number `step` (from 1) as `eval/NAME`; None is left out.

        It must come before the next step's row: W&B takes no step that is behind its last.
        """
        self._log("eval", step, flat_row(figures, "eval"))

    def close(self) -> None:
        """Let every tracker send what it still has; again is harmless."""
        for name in [*self._trackers]:
            with self._guarded(name, "closing"):
                _finish(name, self._trackers[name])
        self._trackers.clear()

    def _log(self, kind: str, step: int, values: dict[str, float]) -> None:
        for name in [*self._trackers]:
            if step <= self._record.last_step(name, kind):
                continue
            with self._guarded(name, f"step {step}"):
                self._trackers[name].log(values, step=step)
                if name not in _KEEPS_ONE:
                    self._record.logged(name, kind, step)

    @contextmanager
    def _guarded(self, name: str, when: str) -> Iterator[None]:
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:  # noqa: BLE001 - a server that went away must not cost the training
            del self._trackers[name]
            self._notes.append(
                f"tracker {name} failed ({when}) and got no more rows: {_one_line(error)}. "
                "train_log.jsonl has all of them"
            )


def untracked(first_step: int) -> Trackers:
    """None at all."""
    return Trackers({}, TrackerRecord(None, run_key=""))


def check_installed(
    names: Sequence[TrackerName], *, where: str = "train.tracking.trackers"
) -> None:
    """Nothing, if all trackers are installed; nothing is imported.

    Args:
        names: Which ones.
        where: Config path, for the message.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        if not any(_importable(package) for package in PACKAGES[name]):
            package = PACKAGES[name][0]
            raise ConfigError(
                f"{where}: {name} is not installed; pip install {package}, or take it out"
            )


def open_trackers(
    names: Sequence[TrackerName],
    *,
    project: str,
    run_name: str,
    config: Mapping[str, Any],
    folder: Path,
    run_key: str,
    first_step: int,
) -> Trackers:
    """Start the trackers, or go on with the runs that an earlier call with the same `run_key` began.

    On other processes than the main one nothing is started or written. Where the trackers send to
    is their own
    affair: WANDB_*, MLFLOW_TRACKING_URI, TRACKIO_*; TensorBoard and W&B write into `folder`.

    Args:
        names: Which ones.
        project: Project of W&B and trackio, experiment of MLflow.
        run_name: Shown name of the run.
        config: The resolved configuration; what looks like a key is refused, what was read as one
            is hidden.
        folder: Of their files; made if it is missing.
        run_key: Hash of everything that decides the training.
        first_step: Number of the first step (from 1) that will be logged now.

    Raises:
        ConfigError: One is not installed, or the configuration holds a key.
        BackendError: One does not start: no login, no server, a name that it refuses.
    """
    check_installed(names)
    refuse_secrets(dict(config))
    if not names or not is_main():
        return Trackers({}, TrackerRecord(None, run_key=run_key))
    folder.mkdir(parents=True, exist_ok=True)
    record = TrackerRecord(folder / RECORD_NAME, run_key=run_key)
    opened = Trackers({}, record)
    values, shown = flat_config(config), _plain_name(run_name)
    # accelerate's clients log, and its logger wants to know the process.
    from accelerate import PartialState

    PartialState()
    for name in dict.fromkeys(names):
        run = record.run_of(name)
        try:
            with redirect_stdout(sys.stderr):
                tracker, run_id = _start(
                    name,
                    run,
                    project=project,
                    shown=shown,
                    config=values,
                    folder=folder,
                    first_step=first_step,
                )
                opened.add(name, tracker)
                if run is None:
                    if name != "trackio":
                        tracker.store_init_configuration(values)
                    record.began(name, run_id)
        except Exception as error:
            opened.close()
            anew = (
                "" if run is None else f"delete {folder / RECORD_NAME} to begin a new run there, "
            )
            raise BackendError(
                f"train.tracking.trackers: {name} did not start: {_one_line(error)}; "
                f"log in or start its server as its documentation says, {anew}or take it out"
            ) from error
    return opened


def flat_row(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The finite numbers in a row under `prefix/name`; those of a mapping within under `prefix/name/path/of/it`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        place = f"{prefix}/{name.replace('.', '/')}"
        if isinstance(value, Mapping):
            found |= flat_row(value, place)
        elif isinstance(value, int | float) and math.isfinite(value):
            found[place] = value
    return found


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The configuration under dotted names, without keys that were read; lists and None as JSON."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        place = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat_config(value, f"{place}.")
        elif isinstance(value, str):
            found[place] = redact(value)
        elif isinstance(value, bool | int | float):
            found[place] = value
        else:
            found[place] = redact(json.dumps(value, ensure_ascii=False, default=str))
    return found


def _start(
    name: TrackerName,
    run: str | None,
    *,
    project: str,
    shown: str,
    config: dict[str, Any],
    folder: Path,
    first_step: int,
) -> tuple[Tracker, str]:
    """A started tracker and the id by which its run is found again; `run` is that of an earlier start."""
    # Here and not above: accelerate takes a second to import.
    from accelerate import tracking as clients

    unique = uuid.uuid4().hex[:12]
    tracker: Any
    if name == "tensorboard":
        # What lies in its folder of this step and later ones is made again; before the first there
        # may be step 0.
        anew = 0 if run is None or first_step == 1 else first_step
        tracker = clients.TensorBoardTracker("tensorboard", str(folder), purge_step=anew)
        run = run or "tensorboard"
    elif name == "wandb":
        run = run or unique
        # Our progress bars are no console output that anyone wants to read there.
        settings = {"console": "off"}
        tracker = clients.WandBTracker(
            project, name=shown, id=run, resume="allow", dir=str(folder), settings=settings
        )
    elif name == "trackio":
        # A run of trackio is found by its name alone.
        resume, run = ("never", f"{shown}-{unique}") if run is None else ("allow", run)
        # What accelerate would store after the start does not arrive there.
        tracker = clients.TrackioTracker(project, name=run, resume=resume, config=config)
    else:
        tracker = clients.MLflowTracker(project, run_name=shown, run_id=run)
    tracker.start()
    return tracker, run or str(tracker.tracker.info.run_id)


def _finish(name: str, tracker: Tracker) -> None:
    if name == "trackio":
        # Its own finish also forgets the run, which would otherwise write to stdout when Python
        # ends.
        import_module("trackio").finish()
    else:
        tracker.finish()


def _importable(package: str) -> bool:
    spec = find_spec(package)
    # W&B leaves a folder `wandb` where it runs, which Python takes for a package without files.
    return spec is not None and spec.origin is not None


def _plain_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:100] or "run"


def _one_line(error: Exception) -> str:
    text = " ".join(redact(str(error)).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
