"""Keys that the run, the hub or the environment have are found in files by their value."""

import json
from pathlib import Path
from typing import Any

import pytest

from command import prefine
from prefine import secrets
from run_place import CONFIG, OK, PAIRS, Place

KEY = "an-unremarkable-word"
ARGUMENTS = ("push", "run", "--repo", "ada/tea", "--license", "mit", "--what", "pairs", "--dry-run")


@pytest.fixture(autouse=True)
def nothing_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_read", set())


@pytest.fixture
def run_with_key(place: Place) -> Path:
    """A run of pairs, one of which has the key as an answer."""
    place.change(PAIRS)
    pairs = [
        {"prompt": f"question {n}", "chosen": f"good {n} {KEY}", "rejected": "bad"}
        for n in range(4)
    ]
    place.put("pairs.jsonl", "".join(json.dumps(pair) + "\n" for pair in pairs))
    assert prefine("pair", "run.yaml").code == OK
    assert prefine(*ARGUMENTS).code == OK
    return place.root / "run"


def refused() -> str:
    done = prefine(*ARGUMENTS)
    assert done.code == CONFIG, done.out
    assert KEY not in done.out + done.err
    return done.err


FOUND = "pairs/part-00000.parquet, row 0, chosen.0.content: a key that this command reads"


@pytest.mark.parametrize(
    "model",
    [
        {"name": "mixture", "models": [{"name": "openai", "api_key_env": "MY_KEY"}]},
        {"name": "mixture", "models": [[{"headers_env": {"x-key": "MY_KEY"}}]]},
    ],
    ids=["the key of a mixture's model", "a header, two lists deep"],
)
def test_a_key_that_is_named_below_a_list(
    model: dict[str, Any], run_with_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run_with_key / "config.json"
    value = json.loads(file.read_text())
    value["config"]["evaluate"]["judge"] = {"name": "pairwise", "model": model}
    file.write_text(json.dumps(value))
    monkeypatch.setenv("MY_KEY", KEY)
    assert FOUND in refused()


@pytest.mark.parametrize("of", ["HF_TOKEN", "hf auth login"])
def test_the_token_of_the_hub(
    of: str, run_with_key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    if of == "HF_TOKEN":
        monkeypatch.setenv("HF_TOKEN", KEY)
    else:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        (tmp_path / "token").write_text(KEY)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert FOUND in refused()


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD"]
)
def test_a_key_of_the_environment_that_no_configuration_names(
    name: str, run_with_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, KEY)
    assert FOUND in refused()
    monkeypatch.delenv(name)
    secrets._read.clear()
    monkeypatch.setenv("MONKEY_BUSINESS", KEY)
    assert prefine(*ARGUMENTS).code == OK
