"""`prefine init`: what it writes for four kinds of data passes the check and runs to a report."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import openai_server as server
from command import prefine
from mock_place import mock_server
from openai_server import OpenAIServer
from phrase_model import save_phrase_model
from prefine.config.yaml import load
from tiny_model import save_tiny_model
from tiny_reward import save_reward_model

PHRASES = ["Rain", " falls", " from", " clouds", " water", " is", " warm", ".", " boils"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_phrase_model(folder / "policy", PHRASES)
    save_reward_model(folder / "reward", positions=4096)
    return folder


@pytest.fixture
def place(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name in ("policy", "reward"):
        (tmp_path / name).symlink_to(models / name)
    yield tmp_path


def rows(name: str, values: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in values))


def runs_to_a_report(*arguments: str, says: str) -> str:
    """The configuration that is written, after it has run as it is."""
    written = prefine("init", *arguments, "--out", "mine.yaml")
    assert written.code == 0, written.err
    assert says in written.out
    assert prefine("config", "check", "mine.yaml").out.splitlines()[-1] == "ok"
    done = prefine("run", "mine.yaml")
    assert done.code == 0, done.err
    assert Path("runs/mine/report.html").is_file() and "report: " in done.out
    return Path("mine.yaml").read_text()


def test_pairs(place: Path) -> None:
    rows(
        "pairs.jsonl",
        [
            {"prompt": f"question {n}", "chosen": f"good {n}", "rejected": "bad " * n}
            for n in range(1, 31)
        ],
    )
    text = runs_to_a_report("pairs.jsonl", "--policy", "policy", says="30 pairs")
    config = load(Path("mine.yaml"))
    assert config.pair.held_out_prompts == 4
    assert config.train.max_completion_tokens == 128 and "the longest has 121" in text


def test_the_model_that_ships_with_the_package_is_one_to_begin_with(place: Path) -> None:
    pair = {"chosen": "the tea is warm .", "rejected": "the the"}
    rows("pairs.jsonl", [{"prompt": f"write about tea {n}", **pair} for n in range(4)])
    text = runs_to_a_report("pairs.jsonl", "--policy", "playground", says="4 pairs")
    assert "\npolicy: playground\n" in text


def test_completions_with_grades(place: Path) -> None:
    rows(
        "answers.jsonl",
        [
            {
                "prompt": f"question {n}",
                "completions": [{"text": f"answer {n} {m}", "score": m} for m in range(3)],
            }
            for n in range(8)
        ],
    )
    runs_to_a_report("answers.jsonl", "--policy", "policy", says="8 prompts with completions")
    page = Path("runs/mine/report.html").read_text()
    assert "<span>policy <b><bdi>policy</bdi></b></span>" in page, "the model, not its backend"
    config = load(Path("mine.yaml"))
    assert config.rank is not None and config.rank.judge.name == "recorded"


def test_prompts_and_a_server(place: Path) -> None:
    rows("prompts.jsonl", [{"prompt": f"question {n}"} for n in range(4)])
    with OpenAIServer(server.label_judge(0.6)) as at:
        name = server_models(at.url)[0]
        runs_to_a_report(
            *("prompts.jsonl", "--policy", "policy", "--server", at.url), says="4 prompts"
        )
    config = load(Path("mine.yaml"))
    assert config.rank is not None and config.rank.judge.options["model"]["model"] == name


def test_prompts_and_a_reward_model(place: Path) -> None:
    rows("prompts.jsonl", [{"prompt": f"q{n}"} for n in range(6)])
    rows("unseen.jsonl", [{"prompt": f"u{n}"} for n in range(2)])
    text = runs_to_a_report(
        *("prompts.jsonl", "--policy", "policy", "--reward", "reward"),
        *("--eval-prompts", "unseen.jsonl"),
        says="6 prompts",
    )
    assert "judge: {name: reward, path: reward}" in text
    assert json.loads(Path("runs/mine/metrics.json").read_text())["contests"]


def server_models(url: str) -> list[str]:
    from prefine.models.openai.backend import OpenAIModel
    from prefine.stages.servers import models_beside

    return models_beside(OpenAIModel(model="any", base_url=url))


def test_a_server_that_runs_the_policy_samples(place: Path) -> None:
    rows("prompts.jsonl", [{"prompt": "hello"}])
    (place / "mock").symlink_to(place / "policy")
    with mock_server() as served:
        arguments = ("prompts.jsonl", "--policy", "mock", "--server", served.url)
        assert prefine("init", *arguments).code == 0
        assert prefine("init", *arguments, "--judge-model", "gpt", "--out", "x.yaml").code == 2
    config = load(Path("prefine.yaml"))
    assert config.sample is not None and config.sample.model is not None
    assert config.sample.model.options["model"] == "mock"


def test_answers_fit_what_the_reward_model_reads(place: Path) -> None:
    save_reward_model(place / "short")
    rows("prompts.jsonl", [{"prompt": "hello"}])
    assert prefine("init", "prompts.jsonl", "--policy", "policy", "--reward", "short").code == 0
    config = load(Path("prefine.yaml"))
    assert config.sample is not None and 8 <= config.sample.max_new_tokens < 128


def test_a_base_model_and_half_precision_are_seen(place: Path) -> None:
    folder = save_tiny_model(place / "base")
    for file in ("config.json", "tokenizer_config.json"):
        values = json.loads((folder / file).read_text())
        values.pop("chat_template", None)
        if file == "config.json":
            values["dtype"] = "bfloat16"
        (folder / file).write_text(json.dumps(values))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    rows("pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    assert prefine("init", "pairs.jsonl", "--policy", "base").code == 0
    config = load(Path("prefine.yaml"))
    assert config.policy.options == {"path": "base", "chat_template": "none"}
    assert config.train.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("row", "arguments", "code", "says"),
    [
        ({"prompt": "a"}, ("--policy", "policy"), 2, "give --server URL, --reward MODEL"),
        ({"prompt": "a", "completions": ["b"]}, ("--policy", "policy"), 2, "these are completions"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            ("--policy", "policy", "--reward", "r"),
            2,
            "need no judge",
        ),
        (
            {"prompt": "a"},
            ("--policy", "policy", "--server", "http://127.0.0.1:9/v1"),
            4,
            "http://127.0.0.1:9/v1/models: no list of models",
        ),
        ({"prompt": "a"}, ("--policy", "nowhere", "--reward", "reward"), 4, "nowhere: "),
        ({"nothing": "a"}, ("--policy", "policy", "--reward", "reward"), 3, "data.jsonl"),
        ({"prompt": "a"}, ("--policy", "policy", "--out", "here.yaml"), 2, "exists already"),
        ({"prompt": "a", "completion": "b", "label": True}, ("--policy", "p"), 2, "loss: kto"),
    ],
)
def test_what_does_not_fit_is_said(
    place: Path, row: dict[str, Any], arguments: tuple[str, ...], code: int, says: str
) -> None:
    rows("data.jsonl", [row])
    (place / "here.yaml").write_text("mine: 1\n")
    found = prefine("init", "data.jsonl", *arguments)
    assert (found.code, found.out) == (code, "")
    assert says in found.err and "Traceback" not in found.err
    assert not (place / "prefine.yaml").exists()
