"""Models that draw a prompt's completions together."""

import pytest

from prefine.calls.protocol import Call
from prefine.config.base import Component
from prefine.config.sections import Decoding
from prefine.errors import ConfigError
from prefine.models.capabilities import backend_of
from prefine.models.mixture import MixtureModel
from prefine.models.protocol import SampleRequest, Samples, sample_key
from prefine.records import Prompt


def mixture(*weights: float, models: int = 2) -> MixtureModel:
    component = Component(
        name="mixture",
        models=[{"name": "scripted", "replies": [f"model {n}"]} for n in range(models)],
        weights=list(weights),
    )
    found = backend_of(component, Samples, where="sample.model")
    assert isinstance(found, MixtureModel)
    return found


def test_each_model_has_its_share_from_the_first_completions_on() -> None:
    found = mixture(3, 1)
    assert [found.drawn_by(index) for index in range(8)] == [0, 0, 1, 0, 0, 0, 1, 0]
    assert found.fingerprint == mixture(0.75, 0.25).fingerprint
    assert found.fingerprint != mixture(1, 1).fingerprint


def test_every_call_is_answered_once_by_its_model() -> None:
    found, decoding = mixture(1, 1), Decoding()
    prompt = Prompt.model_validate({"id": "p", "messages": [{"role": "user", "content": "q"}]})
    requests = [SampleRequest(prompt, index) for index in range(4)]
    calls = [Call(sample_key(found.fingerprint, one, decoding), one) for one in requests]
    answers = {}
    for batch in found.sample(calls, calls[1:], decoding):
        answers |= batch.answer()
    assert [answers[call.key].text for call in calls[1:]] == ["model 1", "model 0", "model 1"]
    assert calls[0].key not in answers


def test_weights_are_one_for_each_model() -> None:
    with pytest.raises(ConfigError, match=r"sample\.model\.weights: there are 2 models and 3"):
        mixture(1, 1, 1)
