"""A chat model at a URL: requests with the parameters that the server takes, learned on the way."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from prefine.calls.protocol import Failure
from prefine.errors import ConfigError, at_config_path, option_path
from prefine.models.openai.batches import BatchFiles, Line
from prefine.models.openai.model_list import list_models
from prefine.models.openai.parameters import Parameters, refuses_prefill
from prefine.models.openai.refusals import ServerError
from prefine.models.openai.requests import CHAT, Exchange, Refused, Requests
from prefine.models.openai.usage import TokenPrices
from prefine.models.protocol import ModelList
from prefine.records import content_hash
from prefine.secrets import read_secret

OPENAI_URL = "https://api.openai.com/v1"

PROBE = [{"role": "user", "content": "Say hello."}]
"""A question that no server minds."""

_HARMLESS: Mapping[str, Any] = {"messages": PROBE, "prompt": "Say hello."}


@dataclass(eq=False)
class Learned:
    """The capabilities of a model at a URL, shared by all who ask it in this process.

    Args:
        notes: On what is left out and worked around.
        useless: Pairs of an error and what did not help against it.
        no_prefill: The reason why prompts that end with a begun answer fail.
        tried: Names of fields that a request had together, and went out at once.
        honours_n: Several choices come when they are asked for.
    """

    parameters: Parameters = field(default_factory=Parameters)
    notes: dict[str, None] = field(default_factory=dict)
    useless: set[tuple[str, str]] = field(default_factory=set)
    no_prefill: str | None = None
    tried: set[frozenset[str]] = field(default_factory=set)
    honours_n: bool = True

    def note(self, text: str) -> None:
        """Add a note for the user, once."""
        self.notes.setdefault(text)


_LEARNED: defaultdict[tuple[str, str], Learned] = defaultdict(Learned)


def forget_servers() -> None:
    """Forget what all servers take, as a new process does."""
    _LEARNED.clear()


@dataclass(eq=False, kw_only=True)
class Server:
    """A chat model at a URL.

    Args:
        base_url: Up to and including `/v1`.
        model: Its name there.
        label: Name for people, in notes.
        api_key_env: Name of the environment variable that holds the key; None sends no key.
        headers_env: Further headers, each with the name of the variable that holds its value.
        timeout_s: For one attempt at a request, from connecting to the last byte.
        max_retries: Attempts after the first.
        patience_s: How long to wait for a server that is away.
        requests_per_minute: At most, of all models at this host.
        tokens_per_minute: At most, of all models at this host.
        prices: For the cost; None counts tokens only.
        in_batches: Requests go in batch files, but for the first one, which finds out at once what
            the server refuses.
        config_path: Of the model, for messages.
        path: Of the requests below `base_url`.
        headers: Sent with every request, such as the key of a server that this process started.
    """

    base_url: str
    model: str
    label: str
    api_key_env: str | None
    headers_env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float
    max_retries: int
    patience_s: float
    requests_per_minute: float | None
    tokens_per_minute: float | None
    prices: TokenPrices | None
    in_batches: bool = False
    config_path: str = ""
    path: str = CHAT
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = None
        if self.in_batches:
            self.files = BatchFiles(
                base_url=self.base_url,
                headers=self._headers,
                timeout_s=self.timeout_s,
                patience_s=self.patience_s,
            )
        self.learned = _LEARNED[self.base_url, self.model]
        self._notes: dict[str, None] = {}
        self._learning: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )
        self._requests = Requests(
            base_url=self.base_url,
            headers=self._headers,
            timeout_s=self.timeout_s,
            max_retries=self.max_retries,
            patience_s=self.patience_s,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            prices=self.prices,
            note=self.note,
            files=self.files,
            path=self.path,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Fields that the server ignores or refuses, each once."""
        return tuple(f"{self.label}: {note}" for note in (*self.learned.notes, *self._notes))

    def note(self, text: str) -> None:
        """Add a note for the user, once."""
        self._notes.setdefault(text)

    def check(self) -> None:
        """Raise ConfigError if the URL or a variable is wrong; sends no request."""
        if not re.match(r"https?://[^/\s]+", self.base_url):
            raise ConfigError(
                f"{self._option('base_url')}: {self.base_url!r} is no URL; it looks like "
                "http://localhost:8000/v1"
            )
        if self.api_key_env is None and self.base_url.startswith(OPENAI_URL):
            raise ConfigError(
                f"{self._option('api_key_env')}: {OPENAI_URL} wants a key; name the environment "
                "variable that holds it"
            )
        self._headers()

    async def models(self) -> ModelList:
        """Ask once which models there are.

        Raises:
            BackendError: The server is not there, or refuses the key.
        """
        with self._at_url():
            return await list_models(
                self.base_url,
                self._headers(),
                timeout_s=self.timeout_s,
                sends_key=self.api_key_env is not None or bool(self.headers_env),
            )

    def _option(self, name: str) -> str:
        return option_path(self.config_path, name)

    def _at_url(self) -> AbstractContextManager[None]:
        """Name the config path of the URL in errors, where a configuration names it."""
        return at_config_path(self.config_path, "base_url")

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        extra_body: Mapping[str, Any],
        key: str | None = None,
        **fields: Any,
    ) -> Exchange | Failure:
        """Send one conversation.

        Args:
            messages: The conversation.
            extra_body: Fields that the OpenAI API does not have.
            key: Its name in batch files; by default a hash of all that is asked.
            fields: Fields that it has, by its own names.

        Raises:
            BackendError: The server will not answer any request.
        """
        prefill = messages[-1]["role"] == "assistant"
        return await self._ask(
            "messages", messages, extra_body=extra_body, key=key, prefill=prefill, **fields
        )

    async def complete(
        self, prompt: str | Sequence[int], *, extra_body: Mapping[str, Any], **fields: Any
    ) -> Exchange | Failure:
        """Send a text, or token ids, for the model to continue; `path` is that of such requests.

        Args:
            prompt: The text or the ids.
            extra_body: Fields that the OpenAI API does not have.
            fields: Fields that it has, by its own names.

        Raises:
            BackendError: The server will not answer any request.
        """
        return await self._ask("prompt", prompt, extra_body=extra_body, **fields)

    async def _ask(
        self,
        name: str,
        question: Any,
        *,
        extra_body: Mapping[str, Any],
        key: str | None = None,
        prefill: bool = False,
        **fields: Any,
    ) -> Exchange | Failure:
        """Send one question in the field of this name."""
        learned = self.learned
        if prefill and learned.no_prefill:
            return Failure(learned.no_prefill)
        wanted = {name: value for name, value in fields.items() if value is not None}
        request = _Request(self.model, question, wanted, extra_body, name)
        # Named by what is asked, and not by what is sent, which depends on what was learned before.
        asked = (self.model, question, wanted, extra_body)
        line = None if self.files is None else Line(key or content_hash(*asked))
        names = frozenset(wanted)
        while True:
            parameters = learned.parameters
            outcome: Exchange | Refused | Failure | None = None
            if self.files is None or line is None:
                outcome = await self._send(request, parameters)
            elif names in learned.tried or self.files.holds(line):
                with self._at_url():
                    outcome = await self._requests.send_in_batch(request.body(parameters), line)
            if isinstance(outcome, Exchange | Failure):
                return outcome
            async with self._lock():
                if learned.parameters is not parameters or (
                    outcome is None and names in learned.tried
                ):
                    continue  # somebody else has learned meanwhile
                if outcome is None:
                    outcome = await self._send(request, parameters)
                if isinstance(outcome, Refused):
                    outcome = await self._adapted(request, outcome)
                learned.tried.add(names)
            if not isinstance(outcome, Refused):
                return outcome
            with self._at_url():
                failure = await self._requests.give_up(outcome, request.probe(learned.parameters))
            if prefill and refuses_prefill(outcome.error):
                learned.no_prefill = failure.reason
                learned.note("the server refuses prompts that end with a begun answer; they fail")
            return failure

    async def _adapted(self, request: "_Request", refused: Refused) -> Exchange | Refused | Failure:
        """Ask again without what the server may have refused; keep what helped.

        Returns the last refusal when nothing helps.
        """
        parameters, notes, spent = self.learned.parameters, list[str](), refused.usage
        while (step := self._untried(parameters, refused.error, request.fields)) is not None:
            note, changed = step
            outcome = await self._send(request, changed)
            if not isinstance(outcome, Refused):
                if isinstance(outcome, Exchange):
                    self.learned.parameters = changed
                    for text in (*notes, note):
                        self.learned.note(text)
                return outcome._replace(usage=spent + outcome.usage)
            spent += outcome.usage
            if _signature(outcome.error) == _signature(refused.error):
                self.learned.useless.add((_signature(refused.error), note))
            else:  # one hurdle is taken, and the next one met
                parameters, refused = changed, outcome
                notes.append(note)
        return refused._replace(usage=spent)

    def _untried(
        self, parameters: Parameters, error: ServerError, wanted: Mapping[str, Any]
    ) -> tuple[str, Parameters] | None:
        for note, changed in parameters.remedies(error, wanted):
            if changed != parameters and (_signature(error), note) not in self.learned.useless:
                return note, changed
        return None

    async def _send(
        self, request: "_Request", parameters: Parameters
    ) -> Exchange | Refused | Failure:
        with self._at_url():
            return await self._requests.send(request.body(parameters), request.probe(parameters))

    def _lock(self) -> asyncio.Lock:
        return self._learning.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def _headers(self) -> Mapping[str, str]:
        headers = dict(self.headers) | {
            name: read_secret(variable, where=self._option(f"headers_env.{name}"))
            for name, variable in self.headers_env.items()
        }
        if self.api_key_env is not None:
            key = read_secret(self.api_key_env, where=self._option("api_key_env"))
            headers["Authorization"] = f"Bearer {key}"
        return headers


@dataclass(frozen=True)
class _Request:
    """A request before it is known which parameters the server takes."""

    model: str
    question: Any
    fields: Mapping[str, Any]
    extra_body: Mapping[str, Any]
    name: str
    """The field of the question."""

    def body(self, parameters: Parameters) -> dict[str, Any]:
        return {
            "model": self.model,
            self.name: self.question,
            **parameters.fields(self.fields),
            **self.extra_body,
        }

    def probe(self, parameters: Parameters) -> dict[str, Any]:
        """Return the same request with a harmless question and one answer."""
        body = self.body(parameters) | {self.name: _HARMLESS[self.name]}
        for name in ("n", "add_generation_prompt", "continue_final_message"):
            body.pop(name, None)
        return body


def _signature(error: ServerError) -> str:
    """The part of a refusal that is the same in all refusals for this reason."""
    return f"{error.status} {error.parameters} {re.sub(r'[0-9]+', '#', error.text)}"
