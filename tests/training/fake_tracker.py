"""A stand-in for wandb, mlflow and trackio: writes every call of accelerate's clients.

A test puts a folder with copies of this file, under their names, on the path.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_LOG = Path(os.environ["FAKE_TRACKER_LOG"])
_NAME = __name__


def _write(call: str, **values: Any) -> None:
    with _LOG.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({"tracker": _NAME, "call": call, **values}) + "\n")
    if os.environ.get("FAKE_TRACKER_FAILS_AT") == f"{_NAME} {call} {values.get('step')}":
        raise ConnectionError("the server of key sk-very-secret-key-1234 is gone")


class _Run:
    info = SimpleNamespace(run_id="run-of-the-server")

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        _write("log", step=step, values=values)

    def finish(self) -> None:
        _write("finish")


class _Config:
    def update(self, values: dict[str, Any], allow_val_change: bool = False) -> None:
        _write("config", values=values)


config = _Config()


def init(**values: Any) -> _Run:
    """wandb and trackio."""
    print(f"* {_NAME} speaks on stdout")
    _write("init", settings=values)
    return _Run()


def finish() -> None:
    """trackio."""
    _write("finish")


utils = SimpleNamespace(
    validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
)


def search_experiments(filter_string: str) -> list[Any]:
    return [SimpleNamespace(experiment_id="7")]


def start_run(**values: Any) -> _Run:
    _write("init", settings=values)
    return _Run()


def log_params(values: dict[str, Any]) -> None:
    _write("config", values=values)


def log_metrics(values: dict[str, Any], step: int | None = None) -> None:
    _write("log", step=step, values=values)


def end_run() -> None:
    _write("finish")
