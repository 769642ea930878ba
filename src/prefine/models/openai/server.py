"""One chat request to an OpenAI-compatible server, and the meaning of its failures.

Timeouts, retries and Retry-After are the `openai` client's. Here an answer that cannot be used
becomes a `Failure`, and a server that will not answer anything (no such model, wrong key, nobody
there) a `BackendError`.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import openai
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefine.calls.protocol import Failure
from prefine.errors import BackendError, ConfigError
from prefine.models.openai.answers import Answer, ResponseChoice
from prefine.records import Usage
from prefine.secrets import read_secret, redact

OPENAI_URL = "https://api.openai.com/v1"
TOP_LOGPROBS = 20  # the most that servers allow

_FAILURES_IN_A_ROW = 20
_CLIP = 120
# Fields that may be left out and worked around; to leave out any other would ask something else.
_DISPENSABLE = ("logprobs", "seed", "n")
_GOES_WITH = {"logprobs": ("top_logprobs",)}


_FATAL: Mapping[int, str] = {
    401: "the key is refused",
    403: "the key may not do this",
    404: "there is no model {model!r}, or base_url is wrong",
    422: "the server does not take such requests; look at extra_body",
}


class TokenPrices(BaseModel):
    """The server's prices, in the user's currency per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The cost of one request [currency]."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


class Exchange(NamedTuple):
    """The choices that came back, and what the request cost."""

    choices: Sequence[ResponseChoice]
    usage: Usage


@dataclass(eq=False, kw_only=True)
class Server:
    """A chat model at a URL.

    Args:
        base_url: Up to and including `/v1`.
        model: Its name there.
        label: Name for people, in notes.
        api_key_env: Name of the environment variable that holds the key; None sends no key.
        timeout_s: For one request.
        max_retries: Of one request, with exponential backoff, after 408, 409, 429, 5xx and
            connection errors.
        prices: For the cost; None counts tokens only.
    """

    base_url: str
    model: str
    label: str
    api_key_env: str | None
    timeout_s: float
    max_retries: int
    prices: TokenPrices | None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._notes: dict[str, None] = {}
        self._left_out: set[str] = set()
        self._renamed: dict[str, str] = {}
        self._failed_in_a_row = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """Fields that the server ignores or refuses, each once."""
        return tuple(self._notes)

    def note(self, text: str) -> None:
        """Add a note for the user, once."""
        with self._lock:
            self._notes.setdefault(f"{self.label}: {text}")

    def check(self) -> None:
        """Raise ConfigError if the URL or the key's variable is wrong; sends no request."""
        if not re.match(r"https?://[^/\s]+", self.base_url):
            raise ConfigError(
                f"base_url: {self.base_url!r} is no URL; it looks like http://localhost:8000/v1"
            )
        if self.api_key_env is None and self.base_url.startswith(OPENAI_URL):
            raise ConfigError(
                f"api_key_env: {OPENAI_URL} wants a key; name the environment variable that holds "
                "it"
            )
        if self.api_key_env is not None:
            read_secret(self.api_key_env)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        extra_body: Mapping[str, Any] | None,
        **fields: Any,
    ) -> Exchange | Failure:
        """Send one request.

        Args:
            messages: The conversation.
            extra_body: Fields that the OpenAI API does not have.
            fields: Fields that it has, by its own names.

        Raises:
            BackendError: The server will not answer any request.
        """
        wanted = {name: value for name, value in fields.items() if value is not None}
        conversation: Any = list(messages)
        while True:
            sent = {
                self._renamed.get(name, name): value
                for name, value in wanted.items()
                if name not in self._left_out
            }
            try:
                response = self._client.chat.completions.with_raw_response.create(
                    model=self.model, messages=conversation, extra_body=extra_body or None, **sent
                )
                # The client itself takes any JSON for a completion. A server may repeat what it was
                # sent, the key too.
                return self._succeeded(Answer.model_validate_json(redact(response.text)))
            except openai.APIStatusError as error:
                if not self._adapted(error, sent):
                    return self._status(error)
            except openai.APITimeoutError:
                return self._failed(f"no answer within {self.timeout_s:g} s")
            except openai.APIConnectionError as error:
                raise BackendError(
                    f"{self.base_url}: the server cannot be reached "
                    f"({redact(str(error.__cause__ or error))}); start it, or mend base_url"
                ) from None
            except ValidationError as error:
                return self._failed(_malformed(error))

    @cached_property
    def _client(self) -> openai.OpenAI:
        key = "none" if self.api_key_env is None else read_secret(self.api_key_env)
        return openai.OpenAI(
            api_key=key,
            base_url=self.base_url,
            timeout=self.timeout_s,
            max_retries=self.max_retries,
        )

    def _succeeded(self, answer: Answer) -> Exchange | Failure:
        with self._lock:
            self._failed_in_a_row = 0
        counts = answer.usage
        if counts is None:
            self.note("the server does not say how many tokens it used; they count as 0")
        prompt, completion = (
            (0, 0) if counts is None else (counts.prompt_tokens or 0, counts.completion_tokens or 0)
        )
        cost = 0.0 if self.prices is None else self.prices.cost(prompt, completion)
        usage = Usage(calls=1, prompt_tokens=prompt, completion_tokens=completion, cost=cost)
        if not answer.choices:
            return Failure("the server sent no choice", usage)
        return Exchange(answer.choices, usage)

    def _adapted(self, error: openai.APIStatusError, sent: Mapping[str, Any]) -> bool:
        """Return True if the request can be repeated without a field, or with its newer name."""
        if error.status_code not in (400, 422):
            return False
        text = _message(error)
        if "max_tokens" in sent and "max_completion_tokens" in text:
            self._renamed["max_tokens"] = "max_completion_tokens"
            return True
        name = next((n for n in _DISPENSABLE if n in sent and _refuses(n, text, error)), None)
        if name is None:
            return False
        with self._lock:
            self._left_out |= {name, *_GOES_WITH.get(name, ())}
        self.note(f"the server refuses {name}, which is left out")
        return True

    def _status(self, error: openai.APIStatusError) -> Failure:
        words = _message(error)
        if what := _FATAL.get(error.status_code):
            raise BackendError(
                f"{self.base_url}: {what.format(model=self.model)} (HTTP {error.status_code}: "
                f"{words})"
            ) from None
        if error.status_code != 400:
            return self._failed(f"HTTP {error.status_code}")
        # This conversation was refused, such as one that is too long; the server is well. Reasons
        # are counted, and numbers differ from call to call.
        return Failure(f"HTTP 400: {re.sub(r'[0-9]{2,}', '#', words)}")

    def _failed(self, reason: str) -> Failure:
        with self._lock:
            self._failed_in_a_row += 1
            count = self._failed_in_a_row
        if count >= _FAILURES_IN_A_ROW:
            raise BackendError(
                f"{self.base_url}: {count} requests in a row failed, the last one with: {reason}; "
                "mend the server or the settings"
            )
        return Failure(reason)


def _refuses(name: str, text: str, error: openai.APIStatusError) -> bool:
    """Return True if an error is about this field, not about something with its name in it."""
    if isinstance(error.body, dict) and error.body.get("param"):
        return str(error.body["param"]) in (name, *_GOES_WITH.get(name, ()))
    word = rf"(?<![\w=<>] )['\"`]?\b(?:top_)?{name}\b['\"`]?"
    after = r"\s+(?:is|are|must|should|not|cannot|can't|parameter|param|field|option|unsupported)\b"
    before = r"\b(?:parameter|param|field|argument|option|support|supports)s?\b:?\s+"
    return bool(re.search(f"{word}{after}|{before}{word}", text, re.IGNORECASE))


def _malformed(error: ValidationError) -> str:
    """Describe what is wrong with a body, without its content."""
    problem = error.errors(include_input=False, include_url=False)[0]
    if problem["type"] == "json_invalid" or not problem["loc"]:
        return "the server's answer is no chat completion; does base_url end in /v1?"
    place = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
    return f"the server's answer is no chat completion: {place}: {problem['msg'].lower()}"


def _message(error: openai.APIStatusError) -> str:
    """Return the server's own words, short and without secrets."""
    body = error.body if isinstance(error.body, dict) else {}
    words = body.get("message") or body.get("detail") or error.response.text or error.message
    return redact(" ".join(str(words).split()))[:_CLIP]
