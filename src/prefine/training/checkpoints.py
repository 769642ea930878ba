"""Checkpoints: written whole or not at all, and checked when read.

A checkpoint is a folder `step-00100` of safetensors files and two JSON files. `hashes.json` names
the SHA-256 of every other file, so a damaged one is noticed and the one before it is used.
Schedules are functions of the step number and need no state.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefine.atomic import sync
from prefine.errors import ConfigError, DataError
from prefine.records import SCHEMA_VERSION

_STEP_SOURCE = "step_source.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after `step` updates.

    Args:
        step: Updates made so far.
        weights: The trained parameters, by name; frozen ones are those of the policy's folder.
        optimizer: Its tensors.
        rng: torch's random state.
        controllers: States of controllers of hyper-parameters, early stopping and row fill.
        row_tokens: The limit of a row, below the configured one where memory was short; None in a
            checkpoint from before it was kept.
        step_source: State of the step source.
        step_source_tensors: Its tensors, such as weights of its own.
    """

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    rng: Tensor
    controllers: dict[str, dict[str, float]]
    row_tokens: int | None = None
    step_source: Mapping[str, Any] = field(default_factory=dict)
    step_source_tensors: Mapping[str, Tensor] = field(default_factory=dict)


def save(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    run_key: str,
    keep: int,
    pinned: int | None = None,
) -> None:
    """Write a checkpoint, then delete all but the newest `keep` and the pinned one.

    Args:
        folder: Of the run's checkpoints.
        checkpoint: The state.
        run_key: Hash of everything that decides the training; another key cannot resume from it.
        keep: How many checkpoints to keep.
        pinned: The step of one that is kept however old it is.
    """
    step = checkpoint.step
    target = folder / f"step-{step:05d}"
    temporary = folder / f".step-{step:05d}.{os.getpid()}.tmp"
    for torn in folder.glob(".step-*.tmp"):
        shutil.rmtree(torn)
    temporary.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}
    save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
    save_file(dict(checkpoint.optimizer), temporary / "optimizer.safetensors")
    save_file({"torch": checkpoint.rng}, temporary / "rng.safetensors")
    if checkpoint.step_source_tensors:
        save_file(dict(checkpoint.step_source_tensors), temporary / _STEP_SOURCE)
    state = {
        "schema_version": SCHEMA_VERSION,
        "step": step,
        "run_key": run_key,
        "torch": torch.__version__,
        "controllers": checkpoint.controllers,
        "row_tokens": checkpoint.row_tokens,
    }
    if checkpoint.step_source:
        state["step_source"] = checkpoint.step_source
    (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    hashes = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
    (temporary / "hashes.json").write_text(json.dumps(hashes), encoding="utf-8")
    for path in [*temporary.iterdir(), temporary]:
        sync(path)
    # A folder cannot be renamed over a full one; the old one is of the same step, or damaged.
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    sync(folder)
    # A later one is damaged, else training would have resumed from it.
    whole = [path for path in _oldest_first(folder) if _step(path) <= step]
    for old in {*_oldest_first(folder)} - {*whole[-keep:]}:
        if _step(old) != pinned:
            shutil.rmtree(old)


def load_step(folder: Path, step: int) -> Checkpoint:
    """Return the checkpoint of a step that this training has written.

    Raises:
        DataError: It is damaged.
    """
    path = folder / f"step-{step:05d}"
    damage = _damage(path)
    if damage is not None:
        raise DataError(
            f"{path}: {damage}, and training needs it to go back to; restore the folder, or delete "
            "the checkpoints to train anew"
        )
    return _read(path, json.loads((path / "state.json").read_text(encoding="utf-8")))


def newest_optimizer(folder: Path) -> tuple[dict[str, Tensor], str]:
    """Return the optimizer's tensors of a training's newest checkpoint, and their hash.

    Args:
        folder: Of the checkpoints of a training that has ended.

    Raises:
        DataError: There is no undamaged checkpoint.
    """
    for path in reversed(_oldest_first(folder)):
        if _damage(path) is None:
            file = path / "optimizer.safetensors"
            return load_file(file), _sha256(file)[:16]
    raise DataError(
        f"{folder}: there is no checkpoint whose optimizer could be gone on with; restore the "
        "folder, or use rounds.optimizer: reset"
    )


def load_newest(folder: Path, *, run_key: str) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Return the newest undamaged checkpoint, and a note for each damaged one passed over.

    Raises:
        ConfigError: The checkpoint belongs to other data or another configuration.
    """
    notes: list[str] = []
    for path in reversed(_oldest_first(folder)):
        damage = _damage(path)
        if damage is not None:
            notes.append(f"checkpoint {path.name} is damaged ({damage}) and was passed over")
            continue
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if state["schema_version"] != SCHEMA_VERSION:
            raise ConfigError(
                f"checkpoint {path.name} has schema version {state['schema_version']}, this is "
                f"{SCHEMA_VERSION}; finish the run with the version that wrote it, or start in "
                "another folder"
            )
        if state["run_key"] != run_key:
            raise ConfigError(
                f"{path} was written with other pairs, another policy or another configuration; "
                "use another run folder, or delete its checkpoints to train anew"
            )
        return _read(path, state), tuple(notes)
    return None, tuple(notes)


def _read(path: Path, state: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of a folder and its `state.json`."""
    source = path / _STEP_SOURCE
    return Checkpoint(
        step=state["step"],
        weights=load_file(path / "model.safetensors"),
        optimizer=load_file(path / "optimizer.safetensors"),
        rng=load_file(path / "rng.safetensors")["torch"],
        # One from before there were controllers has none.
        controllers=state.get("controllers", {}),
        row_tokens=state.get("row_tokens"),
        step_source=state.get("step_source", {}),
        step_source_tensors=load_file(source) if source.is_file() else {},
    )


def _oldest_first(folder: Path) -> list[Path]:
    """The checkpoint folders."""
    return sorted(folder.glob("step-*"), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None."""
    listing = path / "hashes.json"
    if not listing.is_file():
        return "hashes.json is missing"
    try:
        hashes = json.loads(listing.read_text(encoding="utf-8"))
    except ValueError:
        return "hashes.json is not JSON"
    for name, expected in hashes.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _sha256(path / name) != expected:
            return f"{name} has changed"
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
