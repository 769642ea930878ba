"""Chat templates that write the date: a run keeps the day on which it began."""

import json
import shutil
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from command import prefine
from prefine.models.hf.backend import HfModel
from run_place import CONFIG, OK, PAIRS, Place

TEMPLATE = (
    "{% set day = date_string if date_string is defined else strftime_now('%d %b %Y') %}"
    "<system>Today is {{ day }}.{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
EAST, WEST = "Pacific/Kiritimati", "Pacific/Pago_Pago"
"""Twenty-five hours apart: never the same day."""


@pytest.fixture
def dated(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A run of pairs whose template writes the date, and a function that moves the clock."""
    (place.root / "own.jinja").write_text(TEMPLATE)
    place.change({**PAIRS, "policy.chat_template": "own.jinja", "train.regularizer": None})
    place.change({"train.max_steps": 2, "train.checkpoint_every": 1, "train.keep_checkpoints": 2})

    def go(zone: str) -> str:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        return date.today().isoformat()

    yield go
    monkeypatch.undo()
    time.tzset()


def _train(folder: str) -> dict[str, Any]:
    manifest = json.loads(Path(folder, "manifest.json").read_text())
    found: dict[str, Any] = manifest["stages"]["train"]
    return found


def _kept(folder: str) -> list[bytes]:
    return [Path(folder, name).read_bytes() for name in ("train_log.jsonl", "train_final.json")]


@pytest.mark.parametrize("command", [("run", "run.yaml"), ("train", "run.yaml")])
def test_a_run_that_goes_on_another_day_has_the_tokens_of_the_first(
    dated: Any, command: tuple[str, ...]
) -> None:
    first = dated(EAST)
    if command[0] == "train":
        assert prefine("pair", "run.yaml").code == OK
    begun = prefine(*command)
    assert begun.code == OK, begun.err
    assert json.loads(Path("run/config.json").read_text())["config"]["policy"]["date"] == first
    whole = _kept("run")
    # As if it had been killed after its first step.
    shutil.rmtree("run/model")
    shutil.rmtree("run/checkpoints/step-00002")
    later = dated(WEST)
    assert later != first
    done = prefine(*command)
    assert done.code == OK, done.err
    assert _kept("run") == whole
    assert (f"all prompts of this run have {first} (today is {later})") in " ".join(
        _train("run")["notes"]
    )
    assert not list(Path().glob("run/training-before-*"))
    assert len(list(Path(".prefine/reference").rglob("*.safetensors"))) == 1
    other = prefine("run", "run.yaml", "--run-dir", "other")
    assert other.code == OK, other.err
    assert _kept("other") != whole


def test_the_date_is_part_of_the_run_key_and_another_one_is_refused(dated: Any) -> None:
    first = dated(EAST)
    assert prefine("run", "run.yaml").code == OK
    later = dated(WEST)
    refused = prefine("run", "run.yaml", "--set", f"policy.date={later}")
    assert refused.code == CONFIG
    assert first in refused.err and later in refused.err and "policy.date" in refused.err
    assert prefine("run", "run.yaml", "--run-dir", "new").code == OK
    keys = [Path(run, "checkpoints/run_key").read_text() for run in ("run", "new")]
    assert keys[0] != keys[1]


def test_a_template_without_a_date_has_none(place: Place) -> None:
    place.change(PAIRS)
    assert prefine("run", "run.yaml").code == OK
    assert "date" not in json.loads(Path("run/config.json").read_text())["config"]["policy"]


def test_the_date_is_written_as_the_template_asks(dated: Any) -> None:
    model = HfModel(path="model", chat_template="own.jinja", date=date(2024, 2, 29))
    turns = [{"role": "user", "content": "Why?"}]
    text = model.tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<system>Today is 29 Feb 2024.<user>Why?"
    other = HfModel(path="model", chat_template="own.jinja", date=date(2024, 3, 1))
    assert other.fingerprint != model.fingerprint
    assert model.at("model").fingerprint == model.fingerprint


def test_the_trials_of_a_sweep_keep_the_day_on_which_they_began(dated: Any, place: Place) -> None:
    place.change({"sweep": {"grid": {"train.loss.beta": [0.1, 0.4]}}})
    first = dated(EAST)
    begun = prefine("sweep", "run.yaml")
    assert begun.code == OK, begun.err
    trials = [str(path) for path in sorted(Path("run").glob("trial-*"))]
    for trial in trials:
        values = json.loads(Path(trial, "config.json").read_text())["config"]
        assert values["policy"]["date"] == first
    whole = [_kept(trial) for trial in trials]
    shutil.rmtree(f"{trials[1]}/model")
    shutil.rmtree(f"{trials[1]}/checkpoints/step-00002")
    assert dated(WEST) != first
    done = prefine("sweep", "run.yaml")
    assert done.code == OK, done.err
    assert [_kept(trial) for trial in trials] == whole
