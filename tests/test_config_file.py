"""Configuration files: what YAML words mean, overrides, and messages that lead to the mistake."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import prefine
from prefine.config.base import Component
from prefine.config.sections import RunConfig
from prefine.config.training import TrainConfig
from prefine.config.yaml import load, parse_yaml, validate
from prefine.errors import ConfigError

MINIMAL: dict[str, Any] = {
    "run_dir": "run",
    "policy": {"name": "playground"},
    "pairs": {"name": "file", "path": "p.jsonl"},
}
TEXT = "run_dir: run\npolicy: {name: playground}\npairs: {name: file, path: p.jsonl}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E-6", 1e-6),
        ("-1e-6", -1e-6),
        ("+1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("5", 5),
        ("-5", -5),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # Words in YAML 1.2; YAML 1.1 makes booleans, sexagesimals, octals and dates of them.
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("<<", "<<"),
        ("1e", "1e"),
        ("'1'", "1"),
    ],
)
def test_plain_words(text: str, value: object) -> None:
    found = parse_yaml(f"key: {text}", where="test")["key"]
    assert found == value
    assert type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_a_number(number: float) -> None:
    assert parse_yaml(f"[{number!r}]", where="test") == [number]


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_our_error(text: str) -> None:
    try:
        parse_yaml(text, where="somewhere")
    except ConfigError as error:
        assert str(error).startswith("somewhere: not valid YAML")


def test_aliases_are_allowed() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x", where="test") == {"a": {"b": 1}, "c": {"b": 1}}


def test_defaults_are_filled_in(file: Path) -> None:
    config = load(file)
    assert config.run_dir == Path("run")
    assert config.train.loss == Component(name="dpo")
    assert config.train.adam_betas == (0.9, 0.999)
    assert config.sample is None


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"", "# a comment: é\n".encode()])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_marks_and_line_ends(file: Path, prefix: bytes, newline: bytes) -> None:
    expected = load(file)
    file.write_bytes(prefix + TEXT.encode().replace(b"\n", newline))
    assert load(file) == expected


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.loss.beta=0.05", ("train", "loss", "beta"), 0.05),
        ("train.learning_rate=1e-6", ("train", "learning_rate"), 1e-6),
        ("train.regularizer={name: budget, delta: 2}", ("train", "regularizer", "delta"), 2),
        ("report.title=a = b", ("report", "title"), "a = b"),
        ("train.max_grad_norm=", ("train", "max_grad_norm"), None),
        ("train.loss.name=ipo", ("train", "loss", "name"), "ipo"),
    ],
)
def test_overrides(file: Path, override: str, path: tuple[str, ...], value: object) -> None:
    file.write_text(TEXT + "train: {loss: {name: dpo}}\n")
    found: Any = load(file, overrides=[override]).resolved()
    for name in path:
        found = found[name]
    assert found == value


def test_the_last_override_wins_and_run_dir_beats_them(file: Path) -> None:
    config = load(file, overrides=["train.seed=1", "train.seed=2", "run_dir=a"], run_dir=Path("b"))
    assert (config.train.seed, config.run_dir) == (2, Path("b"))


def test_an_override_makes_missing_sections(file: Path) -> None:
    assert load(file, overrides=["evaluate.decoding.temperature=0.5"]).evaluate.decoding is not None


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(
            MINIMAL | {"trian": {}, "train": {"seed": -1, "regularizer": {"delta": 1}}},
            where="run.yaml",
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "run.yaml:"
    assert len(lines) == 4
    assert all(
        any(path in line for line in lines)
        for path in ("trian", "train.seed", "train.regularizer.name")
    )


def test_an_integer_is_a_number_but_nothing_else_is_converted() -> None:
    assert validate(MINIMAL | {"train": {"learning_rate": 1}}, where="x").train.learning_rate == 1.0
    for value in (True, "1", [1], None):
        with pytest.raises(ConfigError, match=r"train\.learning_rate"):
            validate(MINIMAL | {"train": {"learning_rate": value}}, where="x")


def test_the_resolved_configuration_is_plain_and_leaves_the_folder_out() -> None:
    config = validate(MINIMAL, where="x")
    resolved = config.resolved()
    assert "run_dir" not in resolved
    assert json.loads(json.dumps(resolved)) == resolved
    assert RunConfig.model_validate({"run_dir": "run", **resolved}) == config


def test_check_says_ok_and_dry_run_makes_nothing(place: Any) -> None:
    assert prefine("config", "check", "run.yaml") == (0, "ok\n", "")
    plan = prefine("run", "run.yaml", "--dry-run")
    assert plan.code == 0, plan.err
    assert "stages: sample → rank → pair → train → report\nfolder: run\n" in plan.out
    assert "judge calls, at most" in plan.out
    assert "training steps" in plan.out
    assert not Path("run").exists()


def test_schema_is_json() -> None:
    result = prefine("config", "schema")
    assert result.code == 0
    assert json.loads(result.out)["additionalProperties"] is False


def test_set_reaches_into_lists(file: Path) -> None:
    losses = "{name: mixture, losses: [{name: dpo}, {name: ipo, beta: 0.3}], weights: [1, 2]}"
    overrides = [f"train.loss={losses}", "train.loss.losses.1.beta=0.7", "train.loss.weights.0=0.5"]
    options = load(file, overrides=overrides).train.loss.options
    assert options["losses"][1] == {"name": "ipo", "beta": 0.7}
    assert options["weights"] == [0.5, 2]
    for wrong in (
        "train.loss.losses.2.beta=1",
        "train.loss.losses.x.beta=1",
        "train.loss.weights.2=1",
    ):
        with pytest.raises(ConfigError, match="has no item"):
            load(file, overrides=[overrides[0], wrong])


def test_an_unknown_key_of_a_schedule_is_at_its_place(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            file,
            overrides=["train.regularizer_weight={schedule: linear, start: 0.1, end: 1, unti: 1}"],
        )
    assert "train.regularizer_weight.unti: unknown key; did you mean 'until'?" in str(caught.value)


def test_a_key_within_a_list_is_refused_at_its_place(file: Path) -> None:
    losses = "{name: mixture, losses: [{name: dpo}, {name: ipo, api_key: abc}], weights: [1, 2]}"
    with pytest.raises(
        ConfigError, match=r"train\.loss\.losses\.1\.api_key: keys are never written"
    ):
        load(file, overrides=[f"train.loss={losses}"])


def test_an_option_is_no_function() -> None:
    losses = ({"name": "dpo", "beta": len},)
    with pytest.raises(ConfigError, match="'len' is a function; name it"):
        validate(
            {**MINIMAL, "train": {"loss": {"name": "mixture", "losses": losses, "weights": [1]}}},
            where="settings",
        )


def test_a_changed_copy_has_nothing_of_the_old_values() -> None:
    train = TrainConfig()
    assert train.references[0].model is None
    other = train.model_copy(update={"reference": Component(name="hf")})
    assert other.references[0].model == Component(name="hf")
    assert train.references[0].model is None
