"""The scripted server is understood by the real client, fault by fault."""

import threading
from collections.abc import Callable

import openai
import pytest

from openai_server import (
    CUT,
    EMPTY_CHOICES,
    FILTERED,
    HANGS,
    INVALID_JSON,
    NO_USAGE,
    NULL_CONTENT,
    RATE_LIMITED,
    SERVER_ERROR,
    OpenAIServer,
    Reply,
    duplicates,
    honours_n,
    ignores_n,
    in_turn,
    label_judge,
    texts,
    unauthorized,
)


def ask(
    server: OpenAIServer,
    *,
    n: int = 1,
    logprobs: bool = False,
    model: str = "m",
    timeout: float = 5,
) -> object:
    with openai.OpenAI(
        base_url=server.url, api_key="planted-key", max_retries=0, timeout=timeout
    ) as client:
        return client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Which colour?"}],
            n=n,
            logprobs=logprobs or None,
            top_logprobs=5 if logprobs else None,
        )


def answers(result: object) -> list[str | None]:
    assert isinstance(result, openai.types.chat.ChatCompletion)
    return [choice.message.content for choice in result.choices]


def test_choices_requests_and_keys_are_recorded() -> None:
    with OpenAIServer(lambda request, number: Reply(texts("blue", f"number {number}"))) as server:
        assert answers(ask(server, n=2)) == ["blue", "number 0"]
        assert answers(ask(server, n=2)) == ["blue", "number 1"]
    assert [body["n"] for body in server.bodies] == [2, 2]
    assert server.requests[0].headers["authorization"] == "Bearer planted-key"


def test_manners_of_n() -> None:
    with OpenAIServer(honours_n) as server:
        assert len(set(answers(ask(server, n=4)) + answers(ask(server, n=4)))) == 8
    with OpenAIServer(ignores_n) as server:
        assert answers(ask(server, n=4)) + answers(ask(server)) == ["answer 0", "answer 1"]
    with OpenAIServer(duplicates) as server:
        assert len(set(answers(ask(server, n=4)))) == 1


def test_logprobs_for_who_asks() -> None:
    with OpenAIServer(label_judge(0.8, variants=True)) as server:
        plain, asked = ask(server), ask(server, logprobs=True)
    assert isinstance(plain, openai.types.chat.ChatCompletion)
    assert isinstance(asked, openai.types.chat.ChatCompletion)
    assert plain.choices[0].logprobs is None
    assert asked.choices[0].logprobs is not None
    assert asked.choices[0].logprobs.content is not None
    assert [top.token for top in asked.choices[0].logprobs.content[0].top_logprobs] == [
        "A",
        " A",
        "B",
        "The",
    ]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (RATE_LIMITED, openai.RateLimitError),
        (SERVER_ERROR, openai.InternalServerError),
        (INVALID_JSON, ValueError),
    ],
)
def test_faults_that_raise(reply: Reply, error: type[Exception]) -> None:
    with OpenAIServer(in_turn(reply, Reply())) as server:
        with pytest.raises(error):
            ask(server)
        assert answers(ask(server)) == ["an answer"]


def test_faults_that_come_with_a_200() -> None:
    with OpenAIServer([EMPTY_CHOICES, NULL_CONTENT, CUT, FILTERED, NO_USAGE]) as server:
        results = [ask(server) for _ in range(5)]
    assert [answers(result) for result in results[:3]] == [[], [None], ["an answer that is cut"]]
    reasons = [getattr(result, "choices")[0].finish_reason for result in results[2:4]]  # noqa: B009
    assert reasons == ["length", "content_filter"]
    assert getattr(results[4], "usage", "absent") is None


def test_a_refused_key_is_echoed() -> None:
    with (
        OpenAIServer(unauthorized) as server,
        pytest.raises(openai.AuthenticationError, match="Bearer planted-key"),
    ):
        ask(server)


def test_another_model_is_not_found() -> None:
    with OpenAIServer(model="judge") as server:
        with pytest.raises(openai.NotFoundError):
            ask(server, model="other")
        assert answers(ask(server, model="judge"))


def test_a_hanging_request_ends_by_the_clients_timeout_and_does_not_hold_up_the_end() -> None:
    with OpenAIServer(HANGS) as server, pytest.raises(openai.APITimeoutError):
        ask(server, timeout=0.2)


def test_requests_at_once_are_counted() -> None:
    gate = threading.Barrier(3, timeout=5)

    def meet(request: dict[str, object], number: int) -> Reply:
        gate.wait()
        return Reply()

    def run(call: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=call)
        thread.start()
        return thread

    with OpenAIServer(meet) as server:
        for thread in [run(lambda: ask(server)) for _ in range(3)]:
            thread.join()
    assert server.most_at_once == 3


def test_nothing_is_answered_after_the_end() -> None:
    with (
        OpenAIServer() as server,
        openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as client,
    ):
        assert client.models.list().data
        server.__exit__(None, None, None)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
