"""The scripted model: the same answer to the same question, and misbehaviour on demand."""

from typing import Any

from prefine.calls.protocol import Call, Failure
from prefine.config.sections import Decoding
from prefine.models.protocol import SampleRequest, sample_key
from prefine.models.scripted import ScriptedModel
from prefine.records import Completion, Prompt

PROMPTS = [Prompt.from_text(f"question {n}") for n in range(50)]


def answers(
    model: ScriptedModel, prompts: list[Prompt] = PROMPTS, **decoding: Any
) -> dict[str, Completion | Failure]:
    settings = Decoding(**decoding)
    requests = [SampleRequest(prompt, index) for prompt in prompts for index in range(4)]
    calls = [
        Call(sample_key(model.fingerprint, request, settings), request) for request in requests
    ]
    batches = list(model.sample(calls, calls, settings))
    assert max(len(batch.keys) for batch in batches) <= model.batch
    answered = [batch.answer() for batch in batches]
    assert [list(found) for found in answered] == [list(batch.keys) for batch in batches]
    return {key: answer for found in answered for key, answer in found.items()}


def test_answers_depend_on_the_question_alone() -> None:
    model = ScriptedModel(replies=["one", "two", "three"])
    assert answers(model) == answers(ScriptedModel(replies=["one", "two", "three"], batch=3))
    assert answers(model, PROMPTS[:7]).items() <= answers(model).items()
    texts = [answer.text for answer in answers(model).values() if isinstance(answer, Completion)]
    assert set(texts) == {"one", "two", "three"}


def test_placeholders_are_filled_in() -> None:
    for answer in answers(ScriptedModel(replies=["{prompt}: {sample} {other}"])).values():
        assert isinstance(answer, Completion)
        number = next(prompt for prompt in PROMPTS if prompt.id == answer.prompt_id).text
        assert answer.text == f"{number}: {answer.sample_index} {{other}}"


def test_failures_and_truncation_have_their_share() -> None:
    found = answers(
        ScriptedModel(replies=["x"], fail_share=0.3, fail_reason="429", truncate_share=0.5)
    ).values()
    failed = [answer for answer in found if isinstance(answer, Failure)]
    cut = [a for a in found if isinstance(a, Completion) and a.finish_reason == "length"]
    assert 0.2 < len(failed) / 200 < 0.4
    assert {failure.reason for failure in failed} == {"429"}
    assert 0.4 < len(cut) / (200 - len(failed)) < 0.6
    assert all(isinstance(a, Completion) for a in answers(ScriptedModel(replies=["x"])).values())


def test_settings_make_other_questions() -> None:
    model = ScriptedModel(replies=["x"])
    assert not answers(model).keys() & answers(model, seed=1).keys()
    assert not answers(model).keys() & answers(ScriptedModel(replies=["y"])).keys()
