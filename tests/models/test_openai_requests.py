"""Is it the server or the prompt? Who waits, who fails alone, and what ends the run."""

import asyncio
import threading
import time
from typing import Any

import pytest

from mock_place import free_port, mock_server
from openai_server import HANGS, OpenAIServer, Reply, texts
from prefine.calls.hosts import host_at
from prefine.calls.http import origin_of
from prefine.calls.protocol import Failure
from prefine.errors import BackendError
from prefine.models.openai.backend import OpenAIModel
from prefine.models.openai.usage import TokenPrices
from prefine.models.protocol import Reply as JudgeReply
from prefine.records import Message, Usage


def ask(url: str, count: int, poison: int | None = None, **options: Any) -> list[Any]:
    """Replies to so many different questions at once; the one with this number has POISON in it."""
    model = OpenAIModel(
        **{"model": "m", "base_url": url, "max_retries": 2, "timeout_s": 5.0, **options}
    )

    async def one(number: int) -> JudgeReply | Failure:
        word = "POISON" if number == poison else "question"
        return await model.reply(
            (Message(role="user", content=f"{word} {number}"),),
            max_new_tokens=16,
            temperature=0.0,
            seed=0,
            first_token=False,
        )

    async def run() -> list[Any]:
        try:
            return await asyncio.gather(*(one(number) for number in range(count)))
        finally:
            await model.aclose()

    return asyncio.run(run())


def poisoned(reply: Reply) -> Any:
    def script(request: dict[str, Any], number: int) -> Reply:
        if "POISON" in request["messages"][-1]["content"]:
            return reply
        return Reply(texts("fine"))

    return script


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=403, body={"error": {"message": "Your input was flagged"}}),
        Reply(status=404, body={"error": {"message": "no deployment for this input"}}),
        Reply(status=413, body={"error": {"message": "too long"}}),
        Reply(status=422, body={"error": "`inputs` tokens must be <= 4096"}),
        Reply(status=307, headers={"Location": "http://elsewhere.invalid/v1"}),
        Reply(status=500, body={"error": {"message": "assertion failed"}}),
        Reply(status=502, body="<html>Bad gateway</html>"),
        Reply(status=503, body={"error": {"message": "no slot"}}),
        Reply(body={"error": {"message": "Provider returned error", "code": 502}}),
        Reply(body="<html>Welcome</html>"),
    ],
    ids=lambda reply: str(reply.status),
)
@pytest.mark.parametrize("first", [True, False], ids=["the first prompt", "one among others"])
def test_a_prompt_that_the_server_cannot_stand_fails_alone(reply: Reply, first: bool) -> None:
    count, poison = (1, 0) if first else (6, 3)
    with OpenAIServer(poisoned(reply)) as at:
        answers = ask(at.url, count, poison, max_retries=1)
    assert [isinstance(answer, Failure) for answer in answers] == [
        number == poison for number in range(count)
    ]


@pytest.mark.parametrize("fault", ["reset", "close", "half", "not_http"])
def test_a_prompt_whose_connection_is_broken_fails_alone(fault: str) -> None:
    with mock_server(fault=fault, fault_share=0.2) as at:
        answers = ask(at.url, 30, max_retries=1)
        good = at.server.statuses["200"]
    failed = [answer for answer in answers if isinstance(answer, Failure)]
    assert 0 < len(failed) < 15
    assert all("connection" in failure.reason or "HTTP" in failure.reason for failure in failed)
    assert good >= 30 - len(failed)


def test_the_words_of_an_error_within_a_200_are_kept_and_it_is_tried_again() -> None:
    busy = Reply(body={"error": {"message": "Provider returned error", "code": 503}})
    with OpenAIServer([busy, Reply(texts("fine"))]) as at:
        (answer,) = ask(at.url, 1)
    assert isinstance(answer, JudgeReply)
    with OpenAIServer(poisoned(busy)) as at:
        answers = ask(at.url, 2, 1, max_retries=0)
    assert answers[1].reason == "HTTP 503: Provider returned error"


def test_an_outage_is_waited_for_with_few_requests() -> None:
    with mock_server(fault="503", outage=(0.0, 3.0)) as at:
        began = time.monotonic()
        answers = ask(at.url, 40, max_retries=1)
        assert all(isinstance(answer, JudgeReply) for answer in answers)
        assert time.monotonic() - began >= 2.0
        assert at.server.statuses["503"] <= 2 * 40 + 5


def test_a_server_that_comes_back_is_asked_again() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    answers: list[Any] = []
    with mock_server(port, latency_s=0.05) as at:
        model = threading.Thread(
            target=lambda: answers.extend(ask(url, 200, max_retries=0, requests_per_minute=6000))
        )
        model.start()
        while at.server.requests < 20:
            time.sleep(0.01)
    time.sleep(1.0)  # nobody listens
    with mock_server(port):
        model.join(30)
    assert len(answers) == 200
    assert all(isinstance(answer, JudgeReply) for answer in answers)


def test_a_server_that_stays_away_ends_the_run_after_its_patience() -> None:
    with mock_server(fault="reset") as at:
        began = time.monotonic()
        with pytest.raises(BackendError, match=r"no answer for 1 s .*patience_s"):
            ask(at.url, 10, max_retries=0, patience_s=1.0)
        assert time.monotonic() - began < 10


def test_a_limiter_without_a_word_on_waiting_fails_no_request() -> None:
    with mock_server(limit=40, retry_after="none") as at:
        answers = ask(at.url, 120, max_retries=1)
    assert all(isinstance(answer, JudgeReply) for answer in answers)


def test_a_wait_longer_than_the_patience_ends_the_run_with_the_servers_words() -> None:
    reply = Reply(status=429, headers={"Retry-After": "7200"}, body={"error": "come back later"})
    with OpenAIServer(reply) as at, pytest.raises(BackendError, match=r"come back later.*7200 s"):
        ask(at.url, 1)


def test_one_prompt_that_is_always_too_much_fails_alone() -> None:
    busy = Reply(status=429, body={"error": {"message": "too much"}})
    with OpenAIServer(poisoned(busy)) as at:
        answers = ask(at.url, 5, 2, max_retries=0)
    assert [isinstance(answer, Failure) for answer in answers] == [False, False, True, False, False]
    assert answers[2].reason == "HTTP 429: too much"


def test_a_server_that_refuses_all_ends_at_once_with_its_words() -> None:
    refused = Reply(status=403, body={"error": {"message": "not in your country"}})
    with OpenAIServer(refused) as at:
        with pytest.raises(BackendError, match=r"refuses every request.*not in your country"):
            ask(at.url, 1)
        assert len(at.requests) == 2, "the prompt, and a harmless one"


PRICES = TokenPrices(prompt=1.0, completion=2.0)
COUNTED = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [], "usage": COUNTED},
        {"choices": [{"message": {"content": 7}}], "usage": COUNTED},
        {"choices": [{"message": {"content": None}}], "usage": COUNTED},
        {"choices": [{"message": {"content": "h"}, "finish_reason": "error"}], "usage": COUNTED},
        {"error": {"message": "upstream died", "code": 500}, "usage": COUNTED},
    ],
)
def test_answers_that_cannot_be_used_are_paid_for(body: Any) -> None:
    with OpenAIServer(Reply(body=body)) as at:
        (failure,) = ask(at.url, 1, max_retries=1, prices=PRICES)
        sent = len(at.requests)
    used = failure.usage
    assert (used.calls, used.prompt_tokens, used.completion_tokens) == (sent, 100 * sent, 20 * sent)
    assert used.cost == pytest.approx(sent * (100 * 1 + 20 * 2) / 1e6)


def test_requests_without_an_answer_in_time_are_counted() -> None:
    with mock_server(fault="hang") as at:
        (failure,) = ask(at.url, 1, max_retries=2, timeout_s=0.2)
    assert failure == Failure("no answer within 0.2 s", Usage(calls=3))


def test_requests_without_an_answer_in_time_are_priced_by_estimate() -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if "POISON" in request["messages"][-1]["content"]:
            return HANGS
        return Reply(texts("fine"))

    with OpenAIServer(script) as at:
        model = OpenAIModel(model="m", base_url=at.url, timeout_s=0.3, max_retries=1, prices=PRICES)

        async def run() -> list[Any]:
            found = []
            for word in ("question", "POISON"):
                found.append(
                    await model.reply(
                        (Message(role="user", content=f"{word} {'x' * 400}"),),
                        max_new_tokens=16,
                        temperature=0.0,
                        seed=0,
                        first_token=False,
                    )
                )
            await model.aclose()
            return found

        answer, failure = asyncio.run(run())
    used = failure.usage
    # Two tries, and the probe.
    assert (used.calls, used.completion_tokens) == (3, 3 * answer.usage.completion_tokens)
    assert 2 * 100 < used.prompt_tokens < 2 * 200, "at four characters a token"
    assert used.cost == pytest.approx((used.prompt_tokens + 2 * used.completion_tokens) / 1e6)
    assert "priced" in str(model.notes)


def test_the_pace_and_what_a_server_takes_are_known_to_the_next_model() -> None:
    """A stage has an event loop and models of its own."""

    def script(request: dict[str, Any], number: int) -> Reply:
        if "seed" in request:
            return Reply(status=400, body={"error": {"message": "unknown field: seed"}})
        return Reply(texts("fine"))

    async def slow_down(url: str) -> None:
        host_at(origin_of(url)).limits.refused(time.monotonic(), 60.0)

    async def turn(url: str) -> None:
        await asyncio.wait_for(host_at(origin_of(url)).limits.turn(0, 0), 0.05)

    with OpenAIServer(script) as at:
        ask(at.url, 2)
        before = len(at.requests)
        ask(at.url, 2)
        assert len(at.requests) == before + 2, "without the seed at once"
        asyncio.run(slow_down(at.url))
        with pytest.raises(TimeoutError):
            asyncio.run(turn(at.url))


def test_a_drip_ends_at_the_deadline() -> None:
    with mock_server(fault="drip") as at:
        began = time.monotonic()
        (failure,) = ask(at.url, 1, max_retries=0, timeout_s=0.7)
        assert time.monotonic() - began < 2.0
    assert failure.reason == "no answer within 0.7 s"
