"""Parameters that servers refuse: told by their names in any shape of error."""

import asyncio
import json
from typing import Any

import pytest

from openai_server import OpenAIServer, Reply, honours_n, texts
from prefine.calls.engine import CallEngine
from prefine.calls.memory import MemoryLog
from prefine.calls.protocol import Call, Failure
from prefine.config.sections import Decoding
from prefine.errors import BackendError
from prefine.models.openai.backend import OpenAIModel
from prefine.models.openai.refusals import server_error
from prefine.models.protocol import Reply as JudgeReply
from prefine.models.protocol import SampleRequest
from prefine.records import Completion, Message, Prompt

ASKED = (Message(role="user", content="Which is better? Answer with A or B"),)


def replies(
    at: OpenAIServer, count: int = 1, **options: Any
) -> tuple[OpenAIModel, list[JudgeReply | Failure]]:
    """The model, and its replies to a judge's question, asked so many times at once."""
    model = OpenAIModel(
        **{"model": "m", "base_url": at.url, "max_retries": 0, "timeout_s": 5.0, **options}
    )

    async def run() -> list[JudgeReply | Failure]:
        try:
            return await asyncio.gather(
                *(
                    model.reply(
                        ASKED, max_new_tokens=8, temperature=0.5, seed=number, first_token=True
                    )
                    for number in range(count)
                )
            )
        finally:
            await model.aclose()

    return model, asyncio.run(run())


def refuses(field: str, status: int, body: Any) -> Any:
    def script(request: dict[str, Any], number: int) -> Reply:
        if field in request:
            return Reply(status=status, body=body)
        return Reply(texts("A"))

    return script


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **fields}}


@pytest.mark.parametrize(
    ("field", "status", "body"),
    [
        # An OpenAI model that reasons; logprobs are even forbidden (403).
        ("temperature", 400, error("Unsupported value: 'temperature' does not support 0.5")),
        ("logprobs", 403, error("You are not allowed to request logprobs from this model.")),
        # A field that it points at, without a word about it.
        ("seed", 400, error("Unsupported parameter", param="seed")),
        # Google: a list, the names in sentences; probabilities in two words.
        ("seed", 400, [error('Invalid JSON payload. Unknown name "seed": Cannot find field.')]),
        ("logprobs", 400, [error("Log probs are not enabled for models/m")]),
        # Pydantic's details, at Mistral within the message.
        ("seed", 422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]}),
        (
            "logprobs",
            422,
            {"message": {"detail": [{"loc": ["body", "logprobs"], "msg": "Extra inputs"}]}},
        ),
        # vLLM before: the repr of a list in a text.
        (
            "seed",
            400,
            {"object": "error", "message": "[{'loc': ('body', 'seed'), 'msg': 'not permitted'}]"},
        ),
        # A gateway: all names in one list, with advice, and the error of another in a text.
        (
            "logprobs",
            400,
            error("litellm.UnsupportedParamsError: m does not support parameters: ['logprobs']"),
        ),
        ("seed", 400, error('Upstream: {"error": {"message": "seed: unknown argument"}}')),
        # xAI: a code that is a sentence; a text alone; a page.
        ("seed", 400, {"code": "Client error", "error": "Argument not supported: seed"}),
        ("temperature", 422, {"error": "`temperature` must be strictly positive"}),
        ("seed", 400, "unrecognized field seed"),
        ("seed", 400, "<html><body><p>Bad Request: seed</p></body></html>"),
        # Said with a 200.
        ("seed", 200, error("seed is not supported", code=400)),
    ],
)
def test_a_refused_parameter_is_left_out_and_noted_once(field: str, status: int, body: Any) -> None:
    with OpenAIServer(refuses(field, status, body)) as at:
        model, found = replies(at, count=3)
    assert all(isinstance(reply, JudgeReply) for reply in found)
    about = [note for note in model.notes if f"refuses {field}" in note]
    assert len(about) == 1
    later = [request for request in at.bodies if field not in request]
    assert len(later) == 3
    others = {"temperature", "seed", "logprobs", "max_tokens"} - {field}
    assert all(others <= request.keys() for request in later), "nothing else is left out"


def test_several_are_learned_one_after_the_other() -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        bad = [
            name for name in ("seed", "logprobs", "top_logprobs", "temperature") if name in request
        ]
        if bad:
            return Reply(status=400, body=error(f"m does not support parameters: {bad}"))
        return Reply(texts("A"))

    with OpenAIServer(script) as at:
        model, found = replies(at, count=8)
    assert all(isinstance(reply, JudgeReply) for reply in found)
    assert len([note for note in model.notes if "refuses" in note]) == 3
    # All eight go out at once, and one of them learns: three hurdles, and top_logprobs: 5 in vain.
    assert len(at.requests) <= 8 + 4 + 7


@pytest.mark.parametrize(
    ("words", "most"),
    [
        ("Requested sample logprobs of 20, which is greater than max allowed: 5", 5),
        ("`top_n_tokens` must be >= 0 and <= 8. Given: 20", 8),
        ("Cannot request more than 5 logprobs.", 5),
        ("top_logprobs is too large", 5),
    ],
)
def test_fewer_top_logprobs_are_asked_for(words: str, most: int) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if request.get("top_logprobs", 0) > most:
            return Reply(status=400, body=error(words))
        return Reply(texts("A"))

    with OpenAIServer(script) as at:
        model, _ = replies(at)
    assert at.bodies[-1]["top_logprobs"] == most
    assert any(f"at most {most} top_logprobs" in note for note in model.notes)


def test_top_k_is_sent_and_left_out_once_where_a_server_refuses_it() -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if "top_k" in request:
            return Reply(status=400, body=error("Unrecognized request argument supplied: top_k"))
        return honours_n(request, number)

    prompts = [Prompt.from_text(text) for text in ("hello", "good bye")]
    for takes_it in (True, False):
        with OpenAIServer(honours_n if takes_it else script) as at:
            asked = OpenAIModel(model="m", base_url=at.url)
            engine = CallEngine(MemoryLog())
            for prompt in prompts:
                call = Call(prompt.id, SampleRequest(prompt, 0))
                answers = engine.run(asked.draw([call], Decoding(temperature=0.7, top_k=40)))
                assert isinstance(answers[prompt.id], Completion)
        if takes_it:
            assert [body["top_k"] for body in at.bodies] == [40, 40] and not asked.notes
        else:
            assert ["top_k" in body for body in at.bodies] == [True, False, False]
            assert asked.notes == ("m: the server refuses top_k 40, which is left out",)
            assert {body["temperature"] for body in at.bodies} == {0.7}


def test_of_temperature_and_top_p_only_the_second_is_left_out() -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if {"temperature", "top_p"} <= request.keys():
            return Reply(status=400, body=error("temperature and top_p cannot both be specified"))
        return honours_n(request, number)

    with OpenAIServer(script) as at:
        asked = OpenAIModel(model="m", base_url=at.url)
        request = SampleRequest(Prompt.from_text("hello"), 0)
        engine = CallEngine(MemoryLog())
        engine.run(asked.draw([Call("key", request)], Decoding(temperature=0.9, top_p=0.9)))
    assert asked.notes == ("m: the server refuses top_p 0.9, which is left out",)
    assert at.bodies[-1]["temperature"] == 0.9


def test_a_name_that_is_not_the_cause_is_kept_and_not_suspected_again() -> None:
    """A prompt about seeds that is refused for its length."""

    def script(request: dict[str, Any], number: int) -> Reply:
        return Reply(status=400, body=error("too long: 'how do I sow a seed of temperature 20'"))

    with OpenAIServer(script) as at:
        model, found = replies(at, count=4)
    assert all(isinstance(reply, Failure) for reply in found)
    assert model.notes == ()
    assert len(at.requests) == 4 + 2, "without the seed once, without the temperature once"


def test_a_server_that_only_streams() -> None:
    chunks = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]},
        {"choices": [{"index": 0, "delta": {"content": "The first"}}]},
        {"choices": [{"index": 0, "delta": {"content": " one"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}},
    ]
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"

    def script(request: dict[str, Any], number: int) -> Reply:
        if not request.get("stream"):
            return Reply(status=400, body=error("This model only supports stream mode"))
        return Reply(body=stream)

    with OpenAIServer(script) as at:
        model, (reply,) = replies(at)
    assert isinstance(reply, JudgeReply)
    assert (reply.text, reply.finish_reason) == ("The first one", "stop")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 3)
    assert any("only streams" in note for note in model.notes)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, error("Incorrect API key provided"), "the key is refused"),
        (400, [error("API key not valid. Please pass a valid API key.")], "the key is refused"),
        (403, error("Your authentication token has expired"), "the key is refused"),
        (402, error("Insufficient credits"), "the money or the quota is used up"),
        (429, error("You exceeded your current quota", code="insufficient_quota"), "used up"),
        (400, error("Your credit balance is too low to access the API"), "used up"),
        (404, error("The model `m` does not exist", code="model_not_found"), "there is no model"),
        (404, error('model "m" not found, try pulling it first'), "there is no model"),
        (400, error("m is not a valid model ID"), "there is no model"),
        (200, error("Insufficient credits", code=402), "used up"),
    ],
)
def test_what_cannot_mend_itself_ends_at_once_with_the_servers_words(
    status: int, body: Any, says: str
) -> None:
    words = (body[0] if isinstance(body, list) else body)["error"]["message"]
    with OpenAIServer(Reply(status=status, body=body)) as at:
        with pytest.raises(BackendError) as raised:
            replies(at, max_retries=5)
        assert len(at.requests) == 1
    assert says in str(raised.value)
    assert words in str(raised.value)


def test_a_quota_of_a_minute_is_waited_for() -> None:
    """Google says the same of both, and adds when to ask again."""
    body = [
        {
            "error": {
                "code": 429,
                "message": "You exceeded your current quota, please check your plan",
                "details": [{"@type": "RetryInfo", "retryDelay": "0.2s"}],
            }
        }
    ]
    with OpenAIServer([Reply(status=429, body=body), Reply(texts("A"))]) as at:
        _, (reply,) = replies(at, max_retries=1)
    assert isinstance(reply, JudgeReply)


def test_the_words_of_an_error_in_many_shapes() -> None:
    def words(value: Any) -> str:
        return server_error(400, json.dumps(value).encode()).words

    assert words({"error": {"message": "a b"}}) == "a b"
    assert words({"error": "a b"}) == "a b"
    assert words([{"error": {"message": "a b"}}]) == "a b"
    assert words({"detail": "a b"}) == "a b"
    assert words({"message": "a b", "object": "error"}) == "a b"
    assert words({"detail": [{"loc": ["body", "n"], "msg": "too many"}]}) == "body.n: too many"
    raw = {"error": {"message": "Provider returned error", "metadata": {"raw": "it is full"}}}
    assert words(raw) == "Provider returned error (it is full)"
    assert server_error(502, b"<html><h1>Bad</h1> gateway</html>").words == "Bad gateway"
    assert server_error(500, b"").reason == "HTTP 500"
