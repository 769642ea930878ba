"""What a dry run finds before anything is loaded or paid, and what it says that it cannot find."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import openai_server as server
from command import prefine
from openai_server import OpenAIServer
from run_place import BACKEND, CONFIG, GONE, OK, PAIRS, SAMPLED, Place, jsonl

KEY = "planted-key-0123456789"
LONG = "tea " * 400
POSITIONS = 256


def served(at: str, model: str = "m", **options: Any) -> dict[str, Any]:
    """A run that samples and judges at a server."""
    asked = {"name": "openai", "model": model, "base_url": at, **options}
    return {
        "completions": GONE,
        "prompts": {"name": "file", "path": "prompts.jsonl"},
        "sample": {"model": asked, "completions_per_prompt": 3},
        "rank.judge": {"name": "pairwise", "model": asked},
    }


def dry_run(*options: str) -> Any:
    return prefine("run", "run.yaml", "--dry-run", *options)


def unchecked(out: str) -> str:
    return out.partition("not checked:\n")[2]


def test_each_server_is_asked_once_and_no_model_is(place: Place) -> None:
    with OpenAIServer(model="m") as at, OpenAIServer(model="other") as other:
        place.change(served(at.url))
        place.change({"evaluate.judge": served(other.url, "other")["rank.judge"]})
        found = dry_run()
        assert found.code == OK, found.err
        assert (at.lists_asked, other.lists_asked) == (1, 1)
        assert not at.requests and not other.requests
        assert "lists no model" not in found.out
        checked = prefine("config", "check", "run.yaml")
        offline = dry_run("--offline")
        assert (checked.code, offline.code) == (OK, OK)
        assert at.lists_asked == 1
    assert "whether they answer and take the key" in unchecked(offline.out)
    assert "whether they answer" not in unchecked(found.out)
    assert not Path("run").exists()


def test_a_model_that_the_server_does_not_list_is_told(place: Place) -> None:
    with OpenAIServer(model="gpt-5-mini") as at:
        place.change(served(at.url, "gpt-5-mni"))
        found = dry_run()
    assert found.code == OK, found.err
    for where in ("sample.model", "rank.judge.model"):
        assert (
            f"{where}.model: {at.url} lists no model 'gpt-5-mni'; it has gpt-5-mini\n" in found.out
        )


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (server.Reply(status=404, body="{}"), "HTTP 404"),
        (server.Reply(body="<html>Welcome</html>"), "no list of models; look at base_url"),
        (server.Reply(body={"data": []}), "its list of models is empty"),
        (
            server.Reply(status=307, headers={"Location": "http://b.test/x"}, body=""),
            "http://b.test",
        ),
    ],
)
def test_a_server_that_does_not_say_what_it_has_is_no_fault(
    models: server.Reply, said: str, place: Place
) -> None:
    with OpenAIServer(models=models) as at:
        place.change(served(at.url))
        found = dry_run()
    assert found.code == OK, found.err
    (line,) = (line for line in found.out.splitlines() if "is not known" in line)
    assert line.startswith(f"{at.url}: whether it has the model 'm' is not known: ")
    assert said in line


@pytest.mark.parametrize("body", [[{"id": "m"}], {"models": [{"name": "models/m"}]}])
def test_lists_of_other_forms(body: Any, place: Place) -> None:
    with OpenAIServer(models=server.Reply(body=body)) as at:
        place.change(served(at.url))
        found = dry_run()
    assert found.code == OK and "'m'" not in found.out


REFUSED = server.Reply(
    status=401, body={"error": {"message": "Incorrect API key: {authorization}", "code": "bad_key"}}
)


def test_a_refused_key_ends_it_with_the_servers_words(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with OpenAIServer(models=REFUSED) as at:
        place.change(served(at.url, api_key_env="MY_KEY"))
        found = dry_run()
        assert found.code == BACKEND
        said = "the key is refused (HTTP 401: Incorrect API key: Bearer [key])"
        assert f"{at.url}: {said}" in found.err and KEY not in found.err
        assert "--offline asks no server" in found.err
        assert dry_run("--offline").code == OK
        place.change(served(at.url))
        found = dry_run()
        assert found.code == BACKEND
        assert "the server wants a key: name its environment variable in api_key_env" in found.err


@pytest.mark.parametrize("status", [402, 500, 503])
def test_a_server_that_will_answer_nothing_ends_it(status: int, place: Place) -> None:
    reply = server.Reply(status=status, body={"error": {"message": "Come back tomorrow"}})
    with OpenAIServer(models=reply) as at:
        place.change(served(at.url))
        found = dry_run()
    assert found.code == BACKEND
    assert at.url in found.err and f"HTTP {status}: Come back tomorrow" in found.err


def test_a_server_that_is_not_there_ends_it(place: Place) -> None:
    with OpenAIServer() as at:
        pass
    place.change(served(at.url))
    found = dry_run()
    assert found.code == BACKEND
    assert f"{at.url}: the server cannot be reached" in found.err
    assert "start the server, or mend base_url" in found.err


def test_a_judge_that_is_never_asked_is_not_asked_here(place: Place) -> None:
    place.change({"rank.judge": served("http://127.0.0.1:9/v1")["rank.judge"]})
    scorer = {"name": "recorded"}
    place.change({"rank.strategy": {"name": "pointwise"}, "rank.scorer": scorer})
    found = dry_run()
    assert found.code == OK, found.err
    assert "servers:" not in found.out


def test_offline_is_for_the_dry_run(place: Place) -> None:
    found = prefine("run", "run.yaml", "--offline")
    assert found.code == CONFIG and "--offline: is for --dry-run" in found.err


def test_what_is_not_checked_is_said(place: Place) -> None:
    found = unchecked(dry_run().out).splitlines()
    assert found == [
        "  weight files: they are read when a stage loads its model",
        "  judge: whether answers fit into its prompt, and its verdicts can be read",
        "  memory of sampling and judging, space on the disk, time",
    ]
    place.change(PAIRS)
    assert "judge" not in unchecked(dry_run().out)


def long_answer(kind: str) -> dict[str, Any]:
    """The entry whose last row has an answer of more tokens than the model reads."""
    prompt = {"prompt": "question"}
    row: dict[str, Any] = {
        "pairs": prompt | {"chosen": "yes", "rejected": LONG},
        "completions": prompt
        | {"completions": [{"text": LONG, "grade": 1}, {"text": "no", "grade": 0}]},
        "lists": prompt | {"completions": [{"text": LONG, "score": 1}, {"text": "no", "score": 0}]},
        "labels": prompt | {"completion": LONG, "label": True},
    }
    return row[kind]


LOSSES = {"lists": {"name": "list_mle"}, "labels": {"name": "kto"}}


@pytest.mark.parametrize("command", [("config", "check", "run.yaml"), ("run", "run.yaml")])
@pytest.mark.parametrize("kind", ["pairs", "lists", "labels"])
def test_an_answer_that_training_cannot_read_is_found_first(
    kind: str, command: tuple[str, ...], place: Place
) -> None:
    place.put("long.jsonl", jsonl([long_answer(kind)]))
    place.change({"completions": GONE, "rank": GONE, kind: {"name": "file", "path": "long.jsonl"}})
    if kind in LOSSES:
        place.change({"train.loss": LOSSES[kind], "train.regularizer": GONE})
    dry = ("--dry-run",) if command[0] == "run" else ()
    for options in ((), dry):
        found = prefine(*command, *options)
        assert found.code == CONFIG, found.out
        assert "long.jsonl" in found.err
        assert f"model reads {POSITIONS}; lower train.max_prompt_tokens (1024) or" in found.err
        assert f"together {POSITIONS + 1} always fit" in found.err
        assert not Path("run").exists()
    short = ("--set", "train.max_prompt_tokens=57", "--set", "train.max_completion_tokens=200")
    fits = prefine("config", "check", "run.yaml", *short)
    assert fits.code == OK, fits.err


def test_a_pair_that_the_options_leave_out_may_be_long(place: Place) -> None:
    good = {"prompt": "question", "chosen": "yes", "rejected": "no"}
    place.put("pairs.jsonl", jsonl([good, long_answer("pairs")]))
    place.change(PAIRS)
    assert dry_run().code == CONFIG
    place.change({"pair.max_length_ratio": 3.0})
    assert dry_run().code == OK
    assert prefine("run", "run.yaml").code == OK


TOLD = f"1 × longer than the {POSITIONS} positions that training can read"


def test_answers_that_may_come_to_a_pair_are_told(place: Place) -> None:
    row = long_answer("completions")
    short = json.loads(json.dumps(row | {"prompt": "another"}).replace(LONG, "yes"))
    place.put("answers.jsonl", jsonl([short, row]))
    for command in (("config", "check"), ("run", "--dry-run")):
        found = prefine(*command, "run.yaml")
        assert found.code == OK, found.err
        assert f"completions: kept: {TOLD}" in found.out and "(answers.jsonl, line 2)" in found.out


def test_a_prompt_alone_can_be_too_long(place: Place) -> None:
    place.change(SAMPLED | {"policy": GONE})
    place.change(
        {
            "policy": {"name": "hf", "path": "model"},
            "sample.model": {"name": "scripted", "replies": ["a"]},
            "rank.judge": {"name": "pairwise", "model": {"name": "scripted", "replies": ["A"]}},
        }
    )
    place.put("prompts.jsonl", jsonl([{"prompt": "short"}, {"prompt": LONG}]))
    found = dry_run()
    assert found.code == OK, found.err
    assert f"prompts: kept: {TOLD}" in found.out and "(prompts.jsonl, line 2)" in found.out


def test_the_reference_may_read_less_than_the_policy(place: Place) -> None:
    shutil.copytree(place.root / "model", place.root / "small")
    config = place.root / "small" / "config.json"
    changed = json.loads(config.read_text()) | {"max_position_embeddings": 32}
    config.write_text(json.dumps(changed))
    place.change(PAIRS | {"train.reference": {"name": "hf", "path": "small"}})
    assert dry_run().code == OK
    place.put("pairs.jsonl", jsonl([{"prompt": "tea", "chosen": "b", "rejected": "tea " * 60}]))
    found = dry_run()
    assert found.code == CONFIG and "small reads 32; lower" in found.err


@pytest.mark.parametrize("kind", ["lists", "labels"])
def test_prompts_that_the_template_refuses_are_set_aside_from_all_entries(
    kind: str, place: Place
) -> None:
    tokenizer = place.root / "model" / "tokenizer_config.json"
    settings = json.loads(tokenizer.read_text())
    refusal = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    )
    settings["chat_template"] = refusal + settings["chat_template"]
    tokenizer.write_text(json.dumps(settings))
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "question"}]
    good = long_answer(kind) | {"prompt": "question"}
    good = json.loads(json.dumps(good).replace(LONG, "yes"))
    place.put("rows.jsonl", jsonl([good, good | {"prompt": turns}]))
    place.change({"completions": GONE, "rank": GONE, kind: {"name": "file", "path": "rows.jsonl"}})
    place.change({"train.loss": LOSSES[kind], "train.regularizer": GONE})
    found = dry_run()
    assert found.code == OK, found.err
    assert f"{kind}: set aside: 1 × refused by the chat template (rows.jsonl, line 2)" in found.out
    ran = prefine("pair", "run.yaml")
    assert ran.code == OK, ran.err
    made = json.loads(Path("run/manifest.json").read_text())["stages"]["pair"]
    assert made["counts"]["produced"] == 1
