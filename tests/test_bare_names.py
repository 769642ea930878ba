"""Components as people write them: a word, a path, a function of theirs."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

import prefine
from prefine.config.components import in_full
from prefine.config.foreign_keys import HERE
from prefine.config.sections import RunConfig
from prefine.config.training import TrainConfig
from prefine.config.yaml import load, validate
from prefine.errors import ConfigError

TEXT = """
run_dir: run
policy: org/model
pairs: pairs.jsonl
train: {loss: simpo, regularizer: budget, adapter: lora, reference: other/model}
evaluate: {metrics: [displacement, {name: ranking_flips}], gold: playground}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(TEXT)
    return path


def at(config: RunConfig, path: str) -> Any:
    found: Any = config.resolved()
    for name in path.split("."):
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def test_bare_words_are_components_with_their_defaults(file: Path) -> None:
    config = load(file)
    assert at(config, "policy") == {"name": "hf", "path": "org/model"}
    assert at(config, "pairs") == {"name": "file", "path": "pairs.jsonl"}
    assert at(config, "train.loss") == {"name": "simpo"}
    assert at(config, "train.regularizer") == {"name": "budget"}
    assert at(config, "train.adapter.name") == "lora"
    assert at(config, "train.reference") == {"name": "hf", "path": "other/model"}
    assert at(config, "evaluate.metrics") == [{"name": "displacement"}, {"name": "ranking_flips"}]
    assert at(config, "evaluate.gold") == {"name": "playground"}
    assert (at(config, "evaluate.model"), at(config, "evaluate.baseline")) == ("trained", "initial")


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("backend", "playground", {"name": "playground"}),
        ("backend", "./models/mine", {"name": "hf", "path": "./models/mine"}),
        ("backend", "http://h:1/v1", {"name": "openai", "base_url": "http://h:1/v1"}),
        ("backend", "mine:Model", {"name": "mine:Model"}),
        ("source", "hub:org/name", {"name": "hub", "path": "org/name"}),
        ("source", "rows/*.jsonl.gz", {"name": "file", "path": "rows/*.jsonl.gz"}),
        ("source", "mine:rows", {"name": "mine:rows"}),
        (
            "judge",
            {"name": "pairwise", "model": "a/b"},
            {"name": "pairwise", "model": {"name": "hf", "path": "a/b"}},
        ),
        (
            "loss",
            {"name": "mixture", "losses": ["dpo", {"name": "nll"}], "weights": [1, 1]},
            {"name": "mixture", "losses": [{"name": "dpo"}, {"name": "nll"}], "weights": [1, 1]},
        ),
    ],
)
def test_what_a_word_stands_for(kind: Any, text: Any, found: Any) -> None:
    assert in_full(kind, text) == found


@pytest.mark.parametrize(
    ("overrides", "path", "value"),
    [
        (["train.loss.beta=3"], "train.loss", {"name": "simpo", "beta": 3}),
        (["train.loss=ipo"], "train.loss", {"name": "ipo"}),
        (["train.loss=ipo", "train.loss.beta=2"], "train.loss", {"name": "ipo", "beta": 2}),
        (["train.regularizer.delta=3"], "train.regularizer", {"name": "budget", "delta": 3}),
        (["policy.dtype=bfloat16"], "policy.dtype", "bfloat16"),
        (["train.adapter.rank=4"], "train.adapter.rank", 4),
        (["pair.selector.seed=1"], "pair.selector", {"name": "best_vs_random", "seed": 1}),
        (
            ["rank={judge: {name: pairwise, model: a/b}}", "rank.judge.model.device=cpu"],
            "rank.judge.model",
            {"name": "hf", "path": "a/b", "device": "cpu"},
        ),
    ],
)
def test_an_override_reaches_into_a_word(
    file: Path, overrides: list[str], path: str, value: object
) -> None:
    assert at(load(file, overrides=overrides), path) == value


def test_the_override_of_the_readme_works_on_a_default_loss(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("run_dir: r\npolicy: playground\npairs: p.jsonl\n")
    assert at(load(path, overrides=["train.loss.beta=0.05"]), "train.loss") == {
        "name": "dpo",
        "beta": 0.05,
    }


def test_a_word_and_its_mapping_are_the_same_configuration() -> None:
    short = {"run_dir": "r", "policy": "a/b", "pairs": "p.jsonl", "train": {"loss": "ipo"}}
    long = {
        "run_dir": "r",
        "policy": {"name": "hf", "path": "a/b"},
        "pairs": {"name": "file", "path": "p.jsonl"},
        "train": {"loss": {"name": "ipo"}},
    }
    assert validate(short, where="x").resolved() == validate(long, where="x").resolved()


def my_loss(logps: Any, *, scale: float = 1.0) -> Any:
    return -scale * logps.margin


def test_functions_have_names_that_other_processes_find() -> None:
    assert TrainConfig(loss=my_loss).loss.name == f"{__name__}:my_loss"
    assert TrainConfig(loss=prefine.losses.simpo).loss.name == "simpo"
    bound = TrainConfig(loss=partial(my_loss, scale=2.0)).loss
    assert (bound.name, bound.options) == (f"{__name__}:my_loss", {"scale": 2.0})
    mapped = TrainConfig(loss={"name": my_loss, "scale": 3.0}).loss
    assert (mapped.name, mapped.options) == (f"{__name__}:my_loss", {"scale": 3.0})


def test_other_functions_are_known_to_this_process_alone() -> None:
    def scaled(scale: float) -> Any:
        return lambda logps: -scale * logps.margin

    one, same, other = (TrainConfig(loss=scaled(scale)).loss for scale in (1.0, 1.0, 2.0))
    assert one.name == same.name != other.name
    assert one.lookup("loss", where="train.loss")
    with pytest.raises(ConfigError, match=r"train\.loss\.name: 'given:gone-1' .* gives it again"):
        TrainConfig(loss="given:gone-1").loss.lookup("loss", where="train.loss")


@pytest.mark.parametrize("key", HERE)
def test_keys_of_other_trainers_are_answered(key: str) -> None:
    """With settings that exist, in the file and in Python."""
    with pytest.raises(ConfigError) as caught:
        validate({"run_dir": "r", "policy": "m", "pairs": "p", "train": {key: 1}}, where="run.yaml")
    assert f"train.{key}: unknown key; here it is {HERE[key]}" in str(caught.value)
    for word in HERE[key].replace(",", " ").split():
        if word.startswith(("train.", "sample.", "rank.", "pair.")):
            _, first, *rest = word.rstrip(";.").split(".")
            config = load_defaults()
            place = getattr(config, word.split(".")[0])
            assert first in type(place).model_fields, word
            assert not rest or rest == ["rank"]


def load_defaults() -> RunConfig:
    return validate(
        {
            "run_dir": "r",
            "policy": "m",
            "prompts": "p",
            "sample": {},
            "rank": {"judge": "playground"},
        },
        where="x",
    )


def test_a_key_in_another_section_is_found() -> None:
    with pytest.raises(ConfigError, match=r"learning_rate: unknown key; here it is train\."):
        validate(
            {"run_dir": "r", "policy": "m", "pairs": "p", "learning_rate": 1}, where="run.yaml"
        )
    with pytest.raises(ConfigError, match=r"train\.loss\.lr: .* here it is train\.learning_rate"):
        TrainConfig(loss={"name": "dpo", "lr": 1}).loss.resolve("loss", where="train.loss")
