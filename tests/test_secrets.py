"""A planted API key is nowhere: not in the run folder, logs, tracebacks or report, even if a
server echoes it.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import openai_server as server
from command import Result, prefine, start
from openai_server import Choice, OpenAIServer, Reply
from prefine.errors import ConfigError
from prefine.secrets import read_secret, redact, refuse_secrets
from run_place import BACKEND, CONFIG, GONE, OK, Place
from tiny_model import save_tiny_model

KEY = "sk-planted-4b1d5e9c7f"
NAME = "PREFINE_PLANTED_KEY"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, save_tiny_model(tmp_path / "stock" / "model"))


def at_server(at: OpenAIServer, key: str = NAME) -> dict[str, Any]:
    return {
        "name": "openai",
        "model": "m",
        "base_url": at.url,
        "api_key_env": key,
        "max_retries": 0,
    }


def served(at: OpenAIServer, **changes: Any) -> dict[str, Any]:
    """Completions and verdicts from a server; everything else as in the run that works."""
    return {
        "completions": GONE,
        "prompts": {"name": "file", "path": "prompts.jsonl"},
        "sample": {"model": at_server(at), "completions_per_prompt": 3, "max_new_tokens": 8},
        "rank.judge": {"name": "pairwise", "model": at_server(at)},
        "train.train_on_truncated": True,
        **changes,
    }


def run_apart(*arguments: str, verbose: bool = False) -> Result:
    """The command in its own process with the key in its environment, and the event loop's own
    remarks on if wanted.
    """
    extra = {NAME: KEY, **({"PYTHONASYNCIODEBUG": "1"} if verbose else {})}
    before = {name: os.environ.get(name) for name in extra}
    os.environ.update(extra)
    try:
        process = start(*arguments)
        out, err = process.communicate(timeout=120)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return Result(process.returncode, out, err)


def content(path: Path) -> str:
    """What a file holds, as a reader sees it: tables are compressed."""
    if path.suffix == ".parquet":
        return str(pq.read_table(path).to_pylist())
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as journal:
            return str(journal.execute("SELECT * FROM answers").fetchall())
    return path.read_bytes().decode("latin-1")


def assert_nowhere(folder: Path, *outputs: Result) -> None:
    for output in outputs:
        assert KEY not in output.out + output.err
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY in content(path)]
    print(f"\nthe planted key is in none of {len(files)} files and {len(outputs)} outputs")


def echoing(request: dict[str, Any], number: int) -> Reply:
    """A server whose answers repeat the key, completions and verdicts alike."""
    if request.get("logprobs"):
        return Reply([Choice("A", first_logps={"A": -0.1, KEY: -5.0})])
    return Reply(
        server.texts(
            *(f"{number}.{index} your key is {KEY}" for index in range(request.get("n") or 1))
        )
    )


def test_a_whole_road_leaves_no_trace_of_the_key(place: Place) -> None:
    with OpenAIServer(echoing) as at:
        place.change(served(at))
        result = run_apart("run", "run.yaml", verbose=True)
        assert result.code == OK, result.err
        assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in at.requests)
    assert (place.root / "run" / "report.html").is_file()
    assert "your key is [key]" in content(place.root / "run" / "completions" / "part-00000.parquet")
    assert_nowhere(place.root, result)


def test_a_dummy_key_spoils_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of one's own take any word for a key."""
    monkeypatch.setenv(NAME, "test")
    assert read_secret(NAME) == "test"
    assert (
        redact("This is a test of latest contestants.") == "This is a test of latest contestants."
    )
    monkeypatch.setenv(NAME, KEY)
    read_secret(NAME)
    assert redact(f"Bearer {KEY}, again {KEY}") == "Bearer [key], again [key]"


def test_a_server_that_repeats_the_key_in_its_refusal(place: Place) -> None:
    with OpenAIServer(server.unauthorized) as at:
        place.change(served(at))
        result = run_apart("run", "run.yaml")
    assert result.code == BACKEND
    assert "the key is refused" in result.err and "[key]" in result.err
    assert_nowhere(place.root, result)


def test_a_traceback_has_no_key(place: Place) -> None:
    """Code of the user's that fails with the key in its message, after the key was read."""
    place.put(
        "my_prompts.py",
        "import os\n"
        "class Bug(BaseException): pass\n"
        f"def rows():\n    yield {{'prompt': 'one'}}\n    raise "
        f"RuntimeError(os.environ['{NAME}'])\n",
    )
    with OpenAIServer() as at:
        place.change(served(at) | {"prompts": {"name": "my_prompts:rows"}})
        os.environ["PYTHONPATH"] = str(place.root)
        try:
            result = run_apart("run", "run.yaml")
        finally:
            del os.environ["PYTHONPATH"]
    assert result.code != OK
    assert "[key]" in result.err
    assert_nowhere(place.root, result)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sample.model.api_key": KEY}, "keys are never written into a configuration"),
        ({"sample.model.api_key_env": KEY}, "no name of an environment variable"),
        ({"sample.model.base_url": f"https://me:{KEY}@localhost/v1"}, "the URL holds a password"),
        ({"rank.judge.model.api_key": KEY}, "keys are never written into a configuration"),
        ({"rank.judge.model.api_key_env": KEY}, "no name of an environment variable"),
    ],
)
@pytest.mark.parametrize("command", ["run", "sample", "rank"])
def test_a_key_in_the_configuration_is_refused_and_not_repeated(
    place: Place, changes: dict[str, Any], says: str, command: str
) -> None:
    with OpenAIServer() as at:
        place.change(served(at))
        place.change(changes)
        result = prefine(command, "run.yaml")
    assert result.code == CONFIG
    assert says in result.err
    assert KEY not in result.err + result.out
    assert not (place.root / "run").exists()
    assert not at.requests


def test_a_key_that_is_not_there_is_found_before_anything_is_asked(place: Place) -> None:
    with OpenAIServer() as at:
        place.change(served(at))
        result = prefine("run", "run.yaml")
    assert result.code == CONFIG
    assert f"the environment variable {NAME} is not set" in result.err
    assert not at.requests


LONG = "abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": f"https://host/v1?key={KEY}"},
        {"base_url": f"https://host/v1?version=2&api-key={KEY}"},
        {"base_url": f"https://{LONG}@host/v1"},
        {"path": f"s3://me:{KEY}@bucket/prompts.jsonl"},
        {"extra_body": {"api-key": KEY}},
        {"extra_body": {"provider": {"Authorization": f"Bearer {KEY}"}}},
        {"extra_body": {"other": f"Bearer {LONG}"}},
        {"extra_body": {"words": ["fine", f"sk-{LONG}"]}},
        {"headers": {"X-Api-Key": KEY}},
        {"headers_env": {"api-key": KEY}},
        {"label": f"hf_{LONG}"},
        {"label": f"gsk_{LONG}"},
        {"label": f"AIza{LONG}"},
    ],
)
def test_a_key_anywhere_in_the_options_is_refused_and_not_repeated(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        refuse_secrets({"model": options})
    assert str(raised.value).startswith(f"model.{next(iter(options))}")
    assert KEY not in str(raised.value) and LONG not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "https://host/v1?api-version=2024-06-01"},
        {"base_url": "http://[::1]:8000/v1"},
        {"rubric": "Prefer answers that mention the token limit, such as sk-learn's."},
        {"extra_body": {"max_tokens": 5, "stop": ["token"], "key_points": "a"}},
        {"headers_env": {"api-key": "AZURE_API_KEY"}},
    ],
)
def test_words_that_are_no_keys_are_taken(options: dict[str, Any]) -> None:
    refuse_secrets({"model": options})


def test_headers_come_from_the_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, KEY)
    with OpenAIServer(echoing) as at:
        model = at_server(at) | {"api_key_env": None, "headers_env": {"X-Gateway-Key": NAME}}
        place.change(served(at, **{"sample": {"model": model, "completions_per_prompt": 2}}))
        result = prefine("sample", "run.yaml")
        assert result.code == OK, result.err
    assert {request.headers["x-gateway-key"] for request in at.requests} == {KEY}
    assert not any("authorization" in request.headers for request in at.requests)
    assert_nowhere(place.root, result)


def test_a_run_folder_is_for_its_owner_unless_it_was_made_otherwise(place: Place) -> None:
    with OpenAIServer() as at:
        place.change(served(at, **{"sample.model.api_key_env": None}))
        assert prefine("sample", "run.yaml").code == OK
        assert (place.root / "run").stat().st_mode & 0o777 == 0o700
        (place.root / "shared").mkdir(mode=0o755)
        assert prefine("sample", "run.yaml", "--run-dir", "shared").code == OK
    assert (place.root / "shared").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("command", [("config", "check"), ("run", "--dry-run")])
def test_code_of_the_users_is_named_before_it_runs(
    place: Place, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put("my_code.py", "def score(prompt, completion):\n    return float(len(completion))\n")
    monkeypatch.syspath_prepend(str(place.root))
    place.change({"rank.judge": {"name": "my_code:score"}})
    result = prefine(*command, "run.yaml")
    assert result.code == OK, result.err
    assert "imports your code: my_code:score" in result.out
