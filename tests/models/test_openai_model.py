"""The `openai` backend at a real server on loopback that misbehaves as servers do."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import openai_server as server
from openai_server import Choice, OpenAIServer, Reply
from prefine.calls.engine import CallEngine
from prefine.calls.memory import MemoryLog
from prefine.calls.protocol import Call, Failure
from prefine.config.sections import Decoding
from prefine.errors import BackendError, ConfigError, Interrupted
from prefine.models.openai.backend import OpenAIModel
from prefine.models.openai.usage import TokenPrices
from prefine.models.protocol import Reply as JudgeReply
from prefine.models.protocol import SampleRequest, sample_key
from prefine.records import Completion, Message, Prompt

DECODING = Decoding(temperature=0.9, max_new_tokens=16, seed=3)
PROMPTS = [Prompt.from_text(f"question {number}") for number in range(3)]


def model(at: OpenAIServer, **options: Any) -> OpenAIModel:
    return OpenAIModel(
        **{"model": "m", "base_url": at.url, "max_retries": 3, "timeout_s": 5.0, **options}
    )


def sample(
    asked: OpenAIModel, prompts: list[Prompt], samples: int, engine: CallEngine | None = None
) -> dict[tuple[str, int], Completion | Failure]:
    """Completions and failures by (prompt text, sample index), through the call engine."""
    requests = [SampleRequest(prompt, index) for prompt in prompts for index in range(samples)]
    calls = [
        Call(sample_key(asked.fingerprint, request, DECODING), request) for request in requests
    ]
    engine = engine or CallEngine(MemoryLog())
    answers = engine.run(
        engine.ask(
            calls,
            Completion,
            lambda wanted: asked.sample(calls, wanted, DECODING),
            backend=asked,
        )
    )
    return {
        (call.payload.prompt.text, call.payload.sample_index): answers[call.key] for call in calls
    }


def respond(asked: OpenAIModel) -> JudgeReply | Failure:
    """The reply to a short question, by its first token."""

    async def reply() -> JudgeReply | Failure:
        (found,) = await asked.respond(
            [(Message(role="user", content="?"),)],
            max_new_tokens=1,
            temperature=0,
            seed=0,
            first_token=True,
        )
        await asked.aclose()
        return found

    return asyncio.run(reply())


def texts(answers: dict[tuple[str, int], Completion | Failure]) -> list[str]:
    return [
        answer.text if isinstance(answer, Completion) else f"failed: {answer.reason}"
        for answer in answers.values()
    ]


def test_all_samples_of_a_prompt_come_by_n_in_one_request() -> None:
    with OpenAIServer(server.honours_n) as at:
        answers = sample(model(at), PROMPTS, 4)
    assert len(set(texts(answers))) == 12
    assert [body["n"] for body in at.bodies] == [4, 4, 4]
    body = at.bodies[0]
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0.9, 16, "m")
    assert "top_p" not in body, "some servers refuse even its default"
    assert len({body["seed"] for body in at.bodies}) == 3, "each prompt has its own random stream"
    one = answers["question 1", 2]
    assert isinstance(one, Completion)
    assert (one.sample_index, one.finish_reason, one.token_ids, one.prompt_id) == (
        2,
        "stop",
        None,
        PROMPTS[1].id,
    )


def test_a_server_that_ignores_n_is_asked_once_per_sample_and_that_is_said_once() -> None:
    with OpenAIServer(server.ignores_n) as at:
        asked = model(at, concurrency=2)
        answers = sample(asked, PROMPTS, 4)
    assert len(set(texts(answers))) == 12, "M distinct samples"
    assert len(at.bodies) == 12, "no sample that was paid for is thrown away"
    assert len({body["seed"] for body in at.bodies}) == 12, "each sample has its own random stream"
    assert asked.notes == ("m: the server ignores n, so each completion is a request of its own",)


def test_identical_samples_are_noted() -> None:
    with OpenAIServer(server.duplicates) as at:
        asked = model(at)
        sample(asked, PROMPTS, 2)
    (note,) = asked.notes
    assert "identical" in note


def test_more_choices_than_asked_for_are_not_kept() -> None:
    with OpenAIServer(Reply(server.texts("a", "b", "c"))) as at:
        assert texts(sample(model(at), PROMPTS[:1], 2)) == ["a", "b"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (server.FILTERED, "content filter"),
        (server.NULL_CONTENT, "the completion is empty"),
        (server.EMPTY_CONTENT, "the completion is empty"),
        (server.EMPTY_CHOICES, "the server sent no choice"),
        (server.INVALID_JSON, "the server's answer is no chat completion"),
        (server.TOO_LONG, "HTTP 400: This model's maximum context length"),
        (Reply(body="<html>welcome</html>"), "the server's answer"),
        (Reply(body={"choices": "none"}), "the server's answer"),
        (Reply(body=[1, 2]), "the server's answer"),
        (Reply(body={"choices": [{"message": None}]}), "the server's answer"),
        (Reply(body={"choices": [{"message": {"content": 7}}]}), "the server's answer"),
        (Reply(body={"choices": [7]}), "the server's answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_a_failure_with_its_reason(reply: Reply, reason: str) -> None:
    with OpenAIServer(reply) as at:
        engine = CallEngine(MemoryLog())
        answers = sample(model(at), PROMPTS[:1], 1, engine)
    (failure,) = answers.values()
    assert isinstance(failure, Failure)
    assert reason in failure.reason
    assert sum(engine.failures.values()) == 1


def test_a_cut_completion_says_so() -> None:
    with OpenAIServer(server.CUT) as at:
        (cut,) = sample(model(at), PROMPTS[:1], 1).values()
    assert isinstance(cut, Completion)
    assert cut.finish_reason == "length"


@pytest.mark.parametrize("fault", [server.RATE_LIMITED, server.SERVER_ERROR, server.OVERLOADED])
def test_what_passes_is_retried(fault: Reply) -> None:
    with OpenAIServer([fault, Reply(server.texts("in the end"))]) as at:
        assert texts(sample(model(at), PROMPTS[:1], 1)) == ["in the end"]
    assert len(at.requests) == 2


def test_retry_after_is_honoured() -> None:
    busy = Reply(status=429, headers={"Retry-After": "1"}, body={"error": {"message": "slow down"}})
    with OpenAIServer([busy, Reply(server.texts("later"))]) as at:
        began = time.monotonic()
        assert texts(sample(model(at), PROMPTS[:1], 1)) == ["later"]
    # The client's own first pause is half a second.
    assert time.monotonic() - began >= 1.0


def test_what_does_not_pass_is_a_failure_and_the_others_go_on() -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        bad = request["messages"][-1]["content"] == "question 1"
        return server.SERVER_ERROR if bad else server.honours_n(request, number)

    with OpenAIServer(script) as at:
        answers = sample(model(at, max_retries=0), PROMPTS, 2)
    assert texts(answers)[2:4] == ["failed: HTTP 500: The server had an error"] * 2
    assert sum(isinstance(answer, Completion) for answer in answers.values()) == 4


def test_a_server_that_hangs_is_left_after_the_timeout() -> None:
    with OpenAIServer(server.HANGS) as at:
        assert texts(sample(model(at, timeout_s=0.2, max_retries=0), PROMPTS[:1], 1)) == [
            "failed: no answer within 0.2 s"
        ]


def test_at_most_concurrency_requests_are_under_way() -> None:
    def slow(request: dict[str, Any], number: int) -> Reply:
        return Reply(server.texts(f"answer {number}"), delay_s=0.05)

    with OpenAIServer(slow) as at:
        sample(model(at, concurrency=4), [Prompt.from_text(f"q {n}") for n in range(16)], 1)
    assert 2 <= at.most_at_once <= 4


@pytest.mark.parametrize(
    ("reply", "says"),
    [(server.unauthorized, "the key is refused"), (server.NO_SUCH_MODEL, "there is no model 'm'")],
)
def test_a_server_that_will_not_answer_stops_the_run(reply: Any, says: str) -> None:
    with OpenAIServer(reply) as at, pytest.raises(BackendError, match=says):
        sample(model(at), PROMPTS, 2)
    assert len(at.requests) <= len(PROMPTS)


def test_nobody_there_stops_the_run() -> None:
    with OpenAIServer() as at:
        gone = at.url
    asked = OpenAIModel(model="m", base_url=gone, max_retries=0)
    with pytest.raises(BackendError, match="cannot be reached"):
        sample(asked, PROMPTS, 1)


def test_a_server_that_fails_always_stops_the_run_early() -> None:
    prompts = [Prompt.from_text(f"q {n}") for n in range(200)]
    with (
        OpenAIServer(server.SERVER_ERROR) as at,
        pytest.raises(BackendError, match="in a row failed"),
    ):
        sample(model(at, max_retries=0, concurrency=2), prompts, 1)
    assert len(at.requests) < 30


def test_prompts_that_the_server_refuses_do_not_end_the_run() -> None:
    """Dozens of over-long prompts in a row are dozens of failures, not a broken server."""
    prompts = [Prompt.from_text(f"{'long' if n < 60 else 'short'} {n}") for n in range(80)]

    def script(request: dict[str, Any], number: int) -> Reply:
        return (
            server.TOO_LONG
            if "long" in request["messages"][0]["content"]
            else server.ignores_n(request, number)
        )

    with OpenAIServer(script) as at:
        answers = sample(model(at), prompts, 1)
    assert sum(isinstance(answer, Completion) for answer in answers.values()) == 20


def test_what_was_paid_before_a_refusal_is_kept() -> None:
    """A server that ignores n and then refuses the key: the samples of that prompt that came
    are journaled.
    """

    def script(request: dict[str, Any], number: int) -> Reply:
        return (
            server.ignores_n(request, number)
            if number < 5
            else server.unauthorized(request, number)
        )

    log = MemoryLog()
    with OpenAIServer(script) as at, pytest.raises(BackendError, match="the key is refused"):
        sample(model(at, concurrency=1), PROMPTS, 8, CallEngine(log))
    with OpenAIServer(server.ignores_n) as at:
        again = CallEngine(log)
        sample(model(at, concurrency=1), PROMPTS, 8, again)
    assert again.replayed == 5
    assert len(at.requests) == 19


def test_a_request_that_the_server_does_not_take_says_why() -> None:
    refused = Reply(status=422, body={"detail": "unexpected keys in the request: {'topk'}"})
    with (
        OpenAIServer(refused) as at,
        pytest.raises(BackendError, match=r"extra_body.*unexpected keys.*topk"),
    ):
        sample(model(at, extra_body={"topk": 3}), PROMPTS, 2)


def test_an_error_that_mentions_a_letter_is_no_refusal_of_a_field() -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if request["messages"][0]["content"] == "question 0":
            message = "context length exceeded (N = 5000 > n = 4096)"
            return Reply(status=400, body={"error": {"message": message}})
        return server.honours_n(request, number)

    with OpenAIServer(script) as at:
        asked = model(at)
        answers = sample(asked, PROMPTS, 4)
    assert sum(isinstance(answer, Completion) for answer in answers.values()) == 8
    assert asked.notes == ()
    assert len(at.requests) == 3


def test_a_text_in_parts_and_logprobs_without_alternatives_are_read() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "answer"}]
    body = {
        "choices": [
            {
                "message": {"content": parts},
                "finish_reason": "stop",
                "logprobs": {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": None}]},
            }
        ]
    }
    with OpenAIServer(Reply(body=body)) as at:
        assert texts(sample(model(at), PROMPTS[:1], 1)) == ["one answer"]
        reply = respond(model(at))
    assert isinstance(reply, JudgeReply)
    assert reply.first_token_logps == {"A": -0.1}


def test_a_model_that_only_thought_says_so() -> None:
    with OpenAIServer(Reply([Choice(None, "length")])) as at:
        (answer,) = texts(sample(model(at), PROMPTS[:1], 1))
    assert "while reasoning: raise max_new_tokens" in answer


@pytest.mark.parametrize("field", ["seed", "n", "logprobs"])
def test_a_field_that_the_server_refuses_is_left_out(field: str) -> None:
    def picky(request: dict[str, Any], number: int) -> Reply:
        if field in request:
            return Reply(status=400, body={"error": {"message": f"Unsupported parameter: {field}"}})
        return server.ignores_n(request, number)

    with OpenAIServer(picky) as at:
        asked = model(at)
        assert all(isinstance(answer, Completion) for answer in sample(asked, PROMPTS, 2).values())
        respond(asked)
    assert any(f"refuses {field}" in note for note in asked.notes)
    assert "top_logprobs" not in at.bodies[-1] or field != "logprobs"


def test_max_tokens_goes_by_its_newer_name_where_that_is_wanted() -> None:
    def newer(request: dict[str, Any], number: int) -> Reply:
        if "max_tokens" in request:
            return Reply(
                status=400, body={"error": {"message": "Use 'max_completion_tokens' instead"}}
            )
        return server.honours_n(request, number)

    with OpenAIServer(newer) as at:
        assert isinstance(sample(model(at), PROMPTS[:1], 1)["question 0", 0], Completion)
    assert at.bodies[-1]["max_completion_tokens"] == 16


def test_usage_and_cost_by_the_price_table() -> None:
    prices = TokenPrices(prompt=2.0, completion=10.0)
    with OpenAIServer(server.honours_n) as at:
        engine = CallEngine(MemoryLog())
        sample(model(at, prices=prices), PROMPTS, 4, engine)
    used = engine.usage
    assert used.calls == 3, "a request for four completions is one call"
    assert used.prompt_tokens > 0 and used.completion_tokens > 0
    assert used.cost == pytest.approx((2 * used.prompt_tokens + 10 * used.completion_tokens) / 1e6)
    with OpenAIServer(Reply(usage=False)) as at:
        asked = model(at)
        sample(asked, PROMPTS[:1], 1)
    assert any("does not say how many tokens" in note for note in asked.notes)


def test_tools_template_arguments_system_turns_and_a_prefill_are_sent() -> None:
    prompt = Prompt.make(
        (
            Message(role="system", content="be brief"),
            Message(role="user", content="hello"),
            Message(role="assistant", content="Well,", reasoning="hidden"),
        ),
        tools=({"type": "function", "function": {"name": "f"}},),
        chat_template_kwargs={"enable_thinking": False},
    )
    with OpenAIServer() as at:
        sample(model(at, extra_body={"top_k": 5}), [prompt], 1)
    (body,) = at.bodies
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant"]
    assert "reasoning" not in body["messages"][-1]
    assert body["tools"][0]["function"]["name"] == "f"
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["add_generation_prompt"], body["continue_final_message"], body["top_k"]) == (
        False,
        True,
        5,
    )


def test_what_is_in_flight_when_the_user_stops_is_kept() -> None:
    """Stopping waits for what was paid for, asks nothing more, and the next run asks for the
    rest only.
    """
    log, stop = MemoryLog(), threading.Event()

    def stopping(request: dict[str, Any], number: int) -> Reply:
        if number == 3:
            stop.set()
        return Reply(server.texts(f"answer {number}"), delay_s=0.02)

    prompts = [Prompt.from_text(f"q {n}") for n in range(20)]
    with OpenAIServer(stopping) as at:
        with pytest.raises(Interrupted):
            sample(model(at, concurrency=2), prompts, 1, CallEngine(log, should_stop=stop.is_set))
        asked_before = len(at.requests)
        assert asked_before < 10
        again = CallEngine(log)
        sample(model(at, concurrency=2), prompts, 1, again)
    assert again.replayed == asked_before
    assert len(at.requests) == 20


def test_where_the_server_is_changes_no_key() -> None:
    here = OpenAIModel(model="m", base_url="http://one/v1", concurrency=2)
    there = OpenAIModel(model="m", base_url="http://two/v1", timeout_s=3)
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint != OpenAIModel(model="n", base_url="http://one/v1").fingerprint
    assert (
        here.fingerprint
        != OpenAIModel(model="m", base_url="http://one/v1", extra_body={"top_k": 1}).fingerprint
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": "localhost:8000"}, "is no URL"),
        ({}, "wants a key"),
        (
            {"base_url": "http://h/v1", "api_key_env": "PREFINE_NOT_SET"},
            "PREFINE_NOT_SET is not set",
        ),
    ],
)
def test_settings_that_cannot_work_are_found_before_any_request(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        OpenAIModel(**{"model": "m", **options}).check_model()


@pytest.fixture
def ask_judge() -> Iterator[Callable[[Any], JudgeReply | Failure]]:
    def ask(script: Any) -> JudgeReply | Failure:
        with OpenAIServer(script) as at:
            reply = respond(model(at))
        return reply

    yield ask


def test_first_tokens_come_with_their_log_probabilities(
    ask_judge: Callable[[Any], JudgeReply | Failure],
) -> None:
    reply = ask_judge(server.label_judge(0.8))
    assert isinstance(reply, JudgeReply)
    assert reply.first_token_logps is not None
    assert set(reply.first_token_logps) == {"A", "B", "The"}
    missing = ask_judge(Reply([Choice("A")]))
    assert isinstance(missing, JudgeReply)
    assert missing.first_token_logps is None
