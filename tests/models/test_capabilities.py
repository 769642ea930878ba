"""What a backend can do is declared at its class, and asked for where it is needed."""

import weakref
from pathlib import Path

import pytest

from prefine.config.base import Component
from prefine.config.components import TABLES
from prefine.config.sections import Decoding
from prefine.errors import ConfigError
from prefine.models.capabilities import backend_of, provided, provides
from prefine.models.hf.backend import HfModel
from prefine.models.mixture import MixtureModel
from prefine.models.openai.backend import OpenAIModel
from prefine.models.protocol import (
    At,
    Checks,
    HasWeights,
    Launches,
    Releases,
    Replies,
    Samples,
)
from prefine.models.scripted import ScriptedModel
from prefine.models.served.backend import ServedModel
from prefine.records import Message

EVERY = (Samples, Replies, HasWeights, At, Releases, Checks, Launches)


class OnlyMethods:
    """It has the methods of a model that samples, and says nothing about it."""

    def check_prompt(self, *_: object, **__: object) -> None:
        """Accept every prompt."""

    def sample(self, *_: object, **__: object) -> None:
        """Draw nothing."""


@pytest.mark.parametrize(
    ("kind", "can"),
    [
        (HfModel, {Samples, Replies, HasWeights, At, Releases, Checks}),
        (OpenAIModel, {Samples, Replies, Checks}),
        (ScriptedModel, {Samples, Replies}),
        (MixtureModel, {Samples, Releases, Checks}),
        (ServedModel, {Samples, Replies, HasWeights, At, Releases, Checks, Launches}),
    ],
)
def test_each_backend_says_what_it_can_do(kind: type, can: set[type]) -> None:
    assert len(TABLES["backend"]) == 6, "the sixth is the playground's, an HfModel"
    made = object.__new__(kind)
    assert {capability for capability in EVERY if provided(made, capability) is made} == can


def test_methods_alone_declare_nothing() -> None:
    assert provided(OnlyMethods(), Samples) is None
    with pytest.raises(ConfigError) as raised:
        backend_of(Component(name=f"{__name__}:OnlyMethods"), Samples, where="sample.model")
    assert str(raised.value) == (
        f"sample.model.name: '{__name__}:OnlyMethods' draws no completions; use hf, openai or "
        "scripted. A class of your own says that it can: decorate it with "
        "prefine.models.capabilities.provides(Samples)"
    )
    declared = provides(Samples)(OnlyMethods)()
    assert provided(declared, Samples) is declared and provided(declared, Replies) is None


def test_a_capability_without_its_method_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="OnlyMethods declares Replies and has no method 'respond'"):
        provides(Samples, Replies)(OnlyMethods)


@pytest.mark.parametrize(
    ("capability", "message"),
    [
        (HasWeights, "policy.name: 'scripted' has no weights to train; use {name: hf, path"),
        (At, "policy.name: 'scripted' cannot be pointed at another folder"),
    ],
)
def test_who_needs_more_of_a_backend_says_so(capability: type, message: str) -> None:
    component = Component.model_validate({"name": "scripted", "replies": ["a"]})
    with pytest.raises(ConfigError, match=message):
        backend_of(component, capability, where="policy")


def test_a_released_model_answers_as_before(tiny_model_folder: Path) -> None:
    model = HfModel(path=str(tiny_model_folder), device="cpu", batch_rows=2)
    conversation = (Message(role="user", content="hello"),)

    def ask() -> object:
        return model.respond(
            [conversation],
            max_new_tokens=Decoding(max_new_tokens=4).max_new_tokens,
            temperature=1.0,
            seed=3,
            first_token=False,
        )

    before = ask()
    weights = weakref.ref(next(model.model.parameters()))
    model.release()
    assert weights() is None, "the memory is free"
    assert ask() == before
