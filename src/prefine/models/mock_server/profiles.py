"""Providers as they refuse and answer: the shapes of errors in their documents and SDKs.

A profile says which requests are refused, in which body, and changes good answers to its manners.
None of them is the provider: only what a client must get along with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Request = Mapping[str, Any]
Shape = Callable[[int, str, str | None], Any]
"""From status, words and the parameter to the body of an error."""


@dataclass(frozen=True)
class Refusal:
    """An error: its status, the server's words, and the parameter that it is about."""

    status: int
    words: str
    parameter: str | None = None


def _openai(status: int, words: str, parameter: str | None) -> Any:
    code = "unsupported_parameter" if parameter else None
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": words, "type": kind, "param": parameter, "code": code}}


def _nested(status: int, words: str, parameter: str | None) -> Any:
    kind = {400: "BadRequestError", 429: "RateLimitError"}.get(status, "InternalServerError")
    return {"error": {"message": words, "type": kind, "param": None, "code": status}}


def _flat(status: int, words: str, parameter: str | None) -> Any:
    return {
        "object": "error",
        "message": words,
        "type": "BadRequestError" if status == 400 else "InternalServerError",
        "param": None,
        "code": status,
    }


def _google(status: int, words: str, parameter: str | None) -> Any:
    names = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED"}
    error: dict[str, Any] = {
        "code": status,
        "message": words,
        "status": names.get(status, "UNAVAILABLE"),
    }
    if parameter:
        kind = "type.googleapis.com/google.rpc.BadRequest"
        error["details"] = [{"@type": kind, "fieldViolations": [{"description": words}]}]
    return [{"error": error}]


def _validation(status: int, words: str, parameter: str | None) -> Any:
    if status != 422:
        return {"object": "error", "message": words, "type": "api_error", "code": str(status)}
    detail = {"type": "extra_forbidden", "loc": ["body", parameter], "msg": words, "input": 1}
    return {
        "object": "error",
        "message": {"detail": [detail]},
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def _anthropic(status: int, words: str, parameter: str | None) -> Any:
    kinds = {400: "invalid_request_error", 429: "rate_limit_error", 529: "overloaded_error"}
    kind = kinds.get(status, "api_error")
    return {"error": {"code": kind, "message": words, "type": kind, "param": None}}


def _openrouter(status: int, words: str, parameter: str | None) -> Any:
    upstream = {"raw": f'{{"error":{{"message":"{words}"}}}}', "provider_name": "Mock"}
    error = {"message": "Provider returned error", "code": status, "metadata": upstream}
    return {"error": error, "user_id": "mock"}


def _litellm(status: int, words: str, parameter: str | None) -> Any:
    message = f"litellm.BadRequestError: {words}"
    return {"error": {"message": message, "type": "None", "param": None, "code": str(status)}}


def _tgi(status: int, words: str, parameter: str | None) -> Any:
    return {"error": words, "error_type": "validation" if status == 422 else "overloaded"}


def _llama_cpp(status: int, words: str, parameter: str | None) -> Any:
    kind = "invalid_request_error" if status < 500 else "unavailable_error"
    return {"error": {"code": status, "message": words, "type": kind}}


def _ollama(status: int, words: str, parameter: str | None) -> Any:
    kind = "invalid_request_error" if status < 500 else "api_error"
    return {"error": {"message": words, "type": kind, "param": None, "code": None}}


@dataclass(frozen=True)
class Profile:
    """A provider.

    Args:
        shape: Of its errors.
        refuses: The refusal of a request, or None.
        gives_logprobs: Where they are asked for.
        honours_n: More than one choice at a time.
        manners: Changes a good answer in place.
    """

    shape: Shape = _openai
    refuses: Callable[[Request], Refusal | None] = lambda request: None
    gives_logprobs: bool = True
    honours_n: bool = True
    manners: Callable[[dict[str, Any]], None] = lambda answer: None

    def as_asked(self, request: Request) -> dict[str, Any]:
        """Return the request as this provider reads it: without the fields that it ignores."""
        ignored = set() if self.gives_logprobs else {"logprobs", "top_logprobs"}
        ignored |= set() if self.honours_n else {"n"}
        return {name: value for name, value in request.items() if name not in ignored}


def _unsupported(request: Request, *names: str) -> Refusal | None:
    for name in names:
        if name in request:
            words = f"Unsupported parameter: '{name}' is not supported with this model."
            if name == "max_tokens":
                words += " Use 'max_completion_tokens' instead."
            return Refusal(400, words, name)
    return None


def _openai_reasoner(request: Request) -> Refusal | None:
    if refusal := _unsupported(request, "max_tokens", "top_p"):
        return refusal
    if request.get("temperature", 1) != 1:
        words = (
            f"Unsupported value: 'temperature' does not support {request['temperature']} with this "
            "model. Only the default (1) value is supported."
        )
        return Refusal(400, words, "temperature")
    if "logprobs" in request:
        return Refusal(403, "You are not allowed to request logprobs from this model.")
    if request.get("max_completion_tokens", 16) < 16:
        return Refusal(
            400,
            "Could not finish the message because max_tokens or model output limit was reached. "
            "Please try again with higher max_tokens.",
        )
    return None


def _claude(request: Request) -> Refusal | None:
    if (request.get("n") or 1) > 1:
        return Refusal(400, "n: Input should be less than or equal to 1")
    if "temperature" in request and "top_p" in request:
        words = (
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one"
        )
        return Refusal(400, words)
    if request["messages"][-1]["role"] == "assistant":
        words = (
            "This model does not support assistant message prefill. The conversation must end with "
            "a user message."
        )
        return Refusal(400, words)
    return None


def _gemini(request: Request) -> Refusal | None:
    for name in ("seed", "add_generation_prompt", "continue_final_message"):
        if name in request:
            words = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
            return Refusal(400, words, name)
    if "logprobs" in request:
        return Refusal(400, "Logprobs is not enabled for models/mock")
    if (request.get("n") or 1) > 1:
        words = (
            "The specified value for candidateCount is not supported by this model; only 1 "
            "candidate can be generated."
        )
        return Refusal(400, words)
    return None


def _mistral(request: Request) -> Refusal | None:
    for name in ("seed", "logprobs", "top_logprobs"):
        if name in request:
            return Refusal(422, "Extra inputs are not permitted", name)
    return None


def _groq(request: Request) -> Refusal | None:
    if (request.get("n") or 1) > 1:
        return Refusal(400, "'n' : number must be at most 1")
    if "logprobs" in request:
        return Refusal(400, "`logprobs` is not supported with this model")
    return None


def _gateway(request: Request) -> Refusal | None:
    names = [name for name in ("seed", "logprobs", "top_logprobs", "n") if name in request]
    if not names:
        return None
    words = (
        f"mock does not support parameters: {names}, for model=mock. To drop these, set "
        f"`litellm.drop_params=True`. If you want to use these params dynamically send "
        f"allowed_openai_params={names} in your request."
    )
    return Refusal(400, words)


def _vllm(request: Request) -> Refusal | None:
    asked = request.get("top_logprobs") or 0
    if asked > 5:
        words = f"Requested sample logprobs of {asked}, which is greater than max allowed: 5"
        return Refusal(400, words)
    return None


def _tgi_rules(request: Request) -> Refusal | None:
    top_p, temperature = request.get("top_p"), request.get("temperature")
    asked = request.get("top_logprobs") or 0
    if top_p is not None and not 0 < top_p < 1:
        return Refusal(422, "Input validation error: `top_p` must be > 0.0 and < 1.0")
    if temperature == 0:
        return Refusal(422, "Input validation error: `temperature` must be strictly positive")
    if asked > 5:
        words = f"Input validation error: `top_n_tokens` must be >= 0 and <= 5. Given: {asked}"
        return Refusal(422, words)
    return None


def _one_choice(request: Request) -> Refusal | None:
    if (request.get("n") or 1) > 1:
        return Refusal(400, "Only one completion choice is allowed")
    return None


def _upstream(request: Request) -> Refusal | None:
    if "logprobs" in request:
        return Refusal(400, "logprobs are not available from this provider")
    return None


def _thoughts_in_parts(answer: dict[str, Any]) -> None:
    for choice in answer["choices"]:
        text = choice["message"]["content"]
        thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}
        choice["message"]["content"] = [thought, {"type": "text", "text": text}]


def _thoughts_in(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def add(answer: dict[str, Any]) -> None:
        for choice in answer["choices"]:
            choice["message"][field] = value

    return add


def _hidden_thoughts(answer: dict[str, Any]) -> None:
    answer["usage"]["total_tokens"] += 100


PROFILES: Mapping[str, Profile] = {
    "plain": Profile(),
    "openai": Profile(refuses=_openai_reasoner),
    "anthropic": Profile(_anthropic, _claude, gives_logprobs=False),
    "gemini": Profile(_google, _gemini, manners=_hidden_thoughts),
    "mistral": Profile(_validation, _mistral, manners=_thoughts_in_parts),
    "groq": Profile(_openai, _groq),
    "openrouter": Profile(
        _openrouter,
        _upstream,
        honours_n=False,
        manners=_thoughts_in(
            "reasoning_details", [{"type": "reasoning.text", "text": "Let me see."}]
        ),
    ),
    "litellm": Profile(_litellm, _gateway),
    "vllm": Profile(_nested, _vllm, manners=_thoughts_in("reasoning", "Let me see.")),
    "sglang": Profile(_flat, manners=_thoughts_in("reasoning_content", "Let me see.")),
    "tgi": Profile(_tgi, _tgi_rules, honours_n=False),
    "llama_cpp": Profile(_llama_cpp, _one_choice),
    "ollama": Profile(_ollama, gives_logprobs=False, honours_n=False),
}
"""By name; `plain` takes everything."""
