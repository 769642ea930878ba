"""Experiment trackers: a training's rows as flat numbers to TensorBoard, W&B, MLflow and trackio.

The clients are `accelerate.tracking`'s. A training that is resumed goes on in the same run of each
tracker:

- tensorboard drops the points of repeated steps, so each step is shown once.
- wandb ignores a step behind its last one, so repeated steps are sent again and fill what a kill
  lost. Offline it cannot know: every start is a folder of its own, and repeated steps are in both.
- mlflow and trackio keep whatever they are sent, so `trackers.json` holds the last step that each
  was given, and rows up to it are not sent again. After a kill -9 MLflow may have one step twice,
  and trackio, which writes every half second, may lack its last rows.
"""

import json
import math
import os
import re
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefine.errors import BackendError, ConfigError
from prefine.secrets import redact, refuse_secrets
from prefine.training.distributed.processes import is_main

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

PACKAGES: dict[TrackerName, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
"""Any one of these packages is enough; the first one is what we tell people to install."""

_RECORD_NAME = "trackers.json"
_SHOWS_A_STEP_ONCE = ("tensorboard", "wandb")


class Trackers:
    """The open trackers of a training; `with` closes them. Their failures never end a training.

    Args:
        record: The JSON file of each tracker's run and last logged steps; None keeps none.
        run_key: The record of another training is ignored.

    Raises:
        ConfigError: The record is damaged.
    """

    def __init__(self, record: Path | None = None, run_key: str = "") -> None:
        self._record, self._run_key = record, run_key
        self._entries: dict[str, dict[str, Any]] = {}
        self._started: dict[str, GeneralTracker] = {}
        self._notes: list[str] = []
        if record is not None and record.is_file():
            try:
                found = json.loads(record.read_text(encoding="utf-8"))
                if found["run_key"] == run_key:
                    self._entries = dict(found["trackers"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{record}: damaged ({error}); delete it to begin new runs in the trackers"
                ) from error

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """A note for each tracker that failed on the way; it got no more rows."""
        return tuple(self._notes)

    def start(
        self,
        name: TrackerName,
        project: str,
        shown_name: str,
        config: dict[str, Any],
        folder: Path,
        first_step: int,
    ) -> None:
        """Start a tracker in the run that is recorded, or in a new one.

        Raises:
            BackendError: It does not start.
        """
        run: str | None = self._entries.get(name, {}).get("run")
        try:
            with redirect_stdout(sys.stderr):
                tracker, run_id = _client(
                    name, run, project, shown_name, config, folder, first_step
                )
                tracker.start()
                self._started[name] = tracker
                if run is None:
                    if name != "trackio":
                        tracker.store_init_configuration(config)
                    self._entries[name] = {"run": run_id or str(tracker.tracker.info.run_id)}
                    self._write_record()
        except Exception as error:
            self.close()
            restart = "" if run is None else f"delete {self._record} to begin a new run there, "
            raise BackendError(
                f"train.tracking.trackers: {name} did not start: {_one_line(error)}; "
                f"log in or start its server as its documentation says, {restart}or take it out"
            ) from error

    def log(
        self, kind: Literal["train", "eval", "budget", "climb"], step: int, row: Mapping[str, Any]
    ) -> None:
        """Log the row of update number `step` (from 1) as `KIND/NAME`, see `flat_row`.

        A step's evaluation must come before the next step's row: W&B ignores steps behind its last.
        """
        values = flat_row(row, kind)
        for name, tracker in [*self._started.items()]:
            last_steps = self._entries[name].get("steps", {})
            if step <= last_steps.get(kind, -1):
                continue
            with self._failure_noted(name, f"step {step}"):
                tracker.log(values, step=step)
                if name not in _SHOWS_A_STEP_ONCE:
                    self._entries[name]["steps"] = last_steps | {kind: step}
                    self._write_record()

    def close(self) -> None:
        """Let every tracker send what is left; a second call does nothing."""
        for name, tracker in [*self._started.items()]:
            with self._failure_noted(name, "closing"):
                if name == "trackio":
                    # Its client's own finish also forgets the run, which would then write to
                    # stdout when Python ends.
                    import_module("trackio").finish()
                else:
                    tracker.finish()
        self._started.clear()

    @contextmanager
    def _failure_noted(self, name: str, when: str) -> Iterator[None]:
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:  # noqa: BLE001 - a server that went away must not cost the training
            del self._started[name]
            self._notes.append(
                f"tracker {name} failed ({when}) and got no more rows: {_one_line(error)}. "
                "train_log.jsonl has all of them"
            )

    def _write_record(self) -> None:
        if self._record is None:
            return
        # Without fsync, every step: a record that a power cut sets back costs a step that is there
        # twice.
        temporary = self._record.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(
            json.dumps({"run_key": self._run_key, "trackers": self._entries}), encoding="utf-8"
        )
        temporary.replace(self._record)


def check_installed(names: Sequence[TrackerName]) -> None:
    """Raise ConfigError unless all trackers are installed; imports none."""
    for name in names:
        specs = [find_spec(package) for package in PACKAGES[name]]
        # W&B leaves a folder `wandb` where it runs, which Python takes for a package without files.
        if not any(spec is not None and spec.origin is not None for spec in specs):
            raise ConfigError(
                f"train.tracking.trackers: {name} is not installed; pip install "
                f"{PACKAGES[name][0]}, or take it out"
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
    """Start the trackers, or resume the runs that an earlier call with the same `run_key` began.

    Only the main process starts any. Environment variables say where the trackers send to:
    WANDB_*, MLFLOW_TRACKING_URI, TRACKIO_*; TensorBoard and W&B write into `folder`.

    Args:
        names: The trackers.
        project: Project of W&B and trackio, experiment of MLflow.
        run_name: Shown name of the run.
        config: The resolved configuration; anything that looks like a key is refused, keys that
            were read are hidden.
        folder: The folder of their files; made if it is missing.
        run_key: Hash of everything that decides the training.
        first_step: Number of the first step (from 1) that will be logged now.

    Raises:
        ConfigError: One is not installed, or the configuration holds a key.
        BackendError: One does not start: no login, no server, a name that it refuses.
    """
    check_installed(names)
    refuse_secrets(dict(config))
    if not names or not is_main():
        return Trackers()
    folder.mkdir(parents=True, exist_ok=True)
    trackers = Trackers(folder / _RECORD_NAME, run_key)
    values = flat_config(config)
    shown_name = re.sub(r"[^\w.-]+", "-", run_name).strip("-.")[:100] or "run"
    # accelerate's clients log, and its logger asks for the process.
    from accelerate import PartialState

    PartialState()
    for name in dict.fromkeys(names):
        trackers.start(name, project, shown_name, values, folder, first_step)
    return trackers


def flat_row(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The finite numbers of a row under `prefix/name`, those of a mapping under `prefix/name/path`.

    Dots become slashes: `train/hyper_parameters/loss/beta`.
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        path = f"{prefix}/{name.replace('.', '/')}"
        if isinstance(value, Mapping):
            found |= flat_row(value, path)
        elif isinstance(value, int | float) and math.isfinite(value):
            found[path] = value
    return found


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The configuration under dotted names, keys that were read hidden; lists and None as JSON."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat_config(value, f"{path}.")
        elif isinstance(value, bool | int | float):
            found[path] = value
        else:
            text = (
                value
                if isinstance(value, str)
                else json.dumps(value, ensure_ascii=False, default=str)
            )
            found[path] = redact(text)
    return found


def _client(
    name: TrackerName,
    run: str | None,
    project: str,
    shown_name: str,
    config: dict[str, Any],
    folder: Path,
    first_step: int,
) -> "tuple[GeneralTracker, str | None]":
    """The tracker's client, and the id of its run; None if only the server knows that.

    `run` is the id that an earlier start recorded.
    """
    # Here and not above: accelerate takes a second to import.
    from accelerate import tracking

    unique = uuid.uuid4().hex[:12]
    if name == "tensorboard":
        # Steps from this one on are made again; before the first there may be step 0.
        repeated_from = 0 if run is None or first_step == 1 else first_step
        client = tracking.TensorBoardTracker("tensorboard", str(folder), purge_step=repeated_from)
        return client, "tensorboard"
    if name == "wandb":
        run = run or unique
        # W&B's console would show our progress bars.
        settings = {"console": "off"}
        client = tracking.WandBTracker(
            project, name=shown_name, id=run, resume="allow", dir=str(folder), settings=settings
        )
        return client, run
    if name == "trackio":
        # A run of trackio is found by its name alone.
        resume, run = ("never", f"{shown_name}-{unique}") if run is None else ("allow", run)
        # Its configuration must be there from the start: what is stored later does not arrive.
        return tracking.TrackioTracker(project, name=run, resume=resume, config=config), run
    return tracking.MLflowTracker(project, run_name=shown_name, run_id=run), run


def _one_line(error: Exception) -> str:
    text = " ".join(redact(str(error)).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
