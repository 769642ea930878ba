"""Names to components, and the checking of their options."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from prefine.config.base import Component
from prefine.config.checking import checked, suggest
from prefine.config.components import SHARED_BY_SELECTORS, bind, lookup, options_model
from prefine.config.sections import PairConfig
from prefine.config.yaml import parse_yaml
from prefine.errors import ConfigError


def component(
    data: int,
    *,
    beta: Annotated[float, Field(gt=0)] = 0.1,
    path: Path | None = None,
    betas: tuple[float, float] = (0.0, 0.0),
    names: dict[str, int] | None = None,
    kind: Literal["a", "b"] = "a",
    flag: bool = False,
    needed: int,
) -> dict[str, Any]:
    return {
        "data": data,
        "beta": beta,
        "path": path,
        "betas": betas,
        "names": names,
        "flag": flag,
        "needed": needed,
    }


class Klass:
    def __init__(self, *, size: int = 1, given: float) -> None:
        self.size, self.given = size, given


HERE = __name__


def test_options_are_filled_in_and_data_stays_open() -> None:
    bound = bind(
        "loss", f"{HERE}:component", {"needed": 3, "path": "x", "betas": [0.5, 1]}, where="w"
    )
    assert bound(7) == {
        "data": 7,
        "beta": 0.1,
        "path": Path("x"),
        "betas": (0.5, 1.0),
        "names": None,
        "flag": False,
        "needed": 3,
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"needed": 1, "beta": 0}, "w.beta: Input should be greater than 0 (got 0)"),
        ({"needed": 1, "beta": True}, "w.beta: Input should be a valid number (got True)"),
        ({"needed": 1, "beta": float("nan")}, "w.beta: Input should be a finite number (got nan)"),
        ({"needed": "1"}, "w.needed: Input should be a valid integer (got '1')"),
        ({"needed": 1, "flag": 1}, "w.flag: Input should be a valid boolean (got 1)"),
        ({"needed": 1, "betas": [True, 1]}, "w.betas.0: Input should be a valid number (got True)"),
        (
            {"needed": 1, "names": {"a": "1"}},
            "w.names.a: Input should be a valid integer (got '1')",
        ),
        ({"needed": 1, "kind": "c"}, "w.kind: Input should be 'a' or 'b' (got 'c')"),
        ({}, "w.needed: Field required"),
        ({"needed": 1, "bta": 1}, "w.bta: unknown option of loss"),
        ({"needed": 1, "data": 1}, "w.data: unknown option of loss"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind("loss", f"{HERE}:component", options, where="w")
    assert says in str(caught.value)


def test_what_the_caller_gives_is_no_option() -> None:
    assert set(options_model(Klass, given=("given",)).model_fields) == {"size"}
    assert (
        bind("judge", f"{HERE}:Klass", {"size": 2}, where="w", given=("given",))(given=0.5).given
        == 0.5
    )
    with pytest.raises(ConfigError, match=r"w\.given: unknown option"):
        bind("judge", f"{HERE}:Klass", {"given": 1}, where="w", given=("given",))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dpoo", "did you mean 'dpo'"),
        ("", "Allowed: aipo, all_pairs, alpha_po, aot, "),
        ("no.such.module:loss", "cannot import 'no.such.module'"),
        (f"{HERE}:absent", "has no 'absent'"),
    ],
)
def test_names_that_are_none(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lookup("loss", name, where="train.loss")
    assert says in str(caught.value)
    assert "train.loss" in str(caught.value)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("min_gap", "all selectors share it: set pair.min_gap instead"),
        ("max_pairs", "all selectors share it: set pair.pairs_per_prompt instead"),
        ("other", "it has no options"),
    ],
)
def test_an_option_that_is_elsewhere(option: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind("selector", "all_pairs", {option: 1}, where="pair.selector", given=("seed",))
    assert (
        str(caught.value)
        == f"pair.selector.{option}: unknown option of selector 'all_pairs'; {says}"
    )


def test_where_options_are_instead_is_true() -> None:
    assert {
        path.removeprefix("pair.") for path in SHARED_BY_SELECTORS.values()
    } == PairConfig.model_fields.keys() - {"selector"}


def test_a_suggestion_only_where_one_is_near() -> None:
    assert suggest("bta", ["beta", "delta"]) == "did you mean 'beta'? Allowed: beta, delta"
    assert suggest("zzz", ["beta"]) == "Allowed: beta"


def test_a_long_value_is_clipped() -> None:
    with pytest.raises(ConfigError) as caught:
        checked(options_model(component), {"needed": 1, "kind": "x" * 10_000}, where="w")
    assert len(str(caught.value)) < 200


def test_vllm_is_used_through_its_server() -> None:
    with pytest.raises(ConfigError) as caught:
        lookup("backend", "vllm", where="policy")
    message = str(caught.value)
    assert message.startswith("policy.name: unknown backend 'vllm'; ")
    assert "`vllm serve MODEL`" in message and "{name: openai, base_url: " in message
    # What the message says to write is a backend.
    written = parse_yaml(message[message.index("{name: openai") :], where="message")
    assert Component.model_validate(written).resolve("backend", where="policy")


def unhinted(data: int, *, beta=0.1, extra: dict[str, Any] | None = None) -> tuple[Any, ...]:  # type: ignore[no-untyped-def]
    return data, beta, extra


def test_an_option_without_annotation_takes_what_is_given() -> None:
    assert bind("loss", f"{HERE}:unhinted", {"beta": 0.2}, where="w")(1) == (1, 0.2, None)


def test_only_losses_and_regularizers_have_schedules() -> None:
    schedule = {"schedule": "linear", "start": 0.1, "end": 0.2}
    assert (
        bind("regularizer", f"{HERE}:component", {"needed": 1, "beta": schedule}, where="w")
        .keywords["beta"]
        .end
        == 0.2
    )
    with pytest.raises(ConfigError, match=r"w\.beta: has no schedule"):
        bind("selector", f"{HERE}:component", {"needed": 1, "beta": schedule}, where="w")
    # What is called so in an option of another kind is the option's own.
    assert bind("backend", f"{HERE}:unhinted", {"extra": schedule}, where="w")(1) == (
        1,
        0.1,
        schedule,
    )
