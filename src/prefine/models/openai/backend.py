"""Models behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, OpenAI itself.

Servers differ in the fields they honour, and some ignore a field silently. So the response is
checked for the number of choices, log-probabilities and different samples; the backend works around
what is missing and adds a note once.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from prefine.calls.http import close_connections
from prefine.calls.protocol import Batch, Call, Failure
from prefine.config.sections import Decoding
from prefine.errors import BackendError
from prefine.models.capabilities import provides
from prefine.models.openai.answers import ResponseChoice
from prefine.models.openai.parameters import TOP_LOGPROBS
from prefine.models.openai.requests import Exchange
from prefine.models.openai.server import OPENAI_URL, Server
from prefine.models.openai.usage import TokenPrices
from prefine.models.protocol import (
    Checks,
    ListsModels,
    ModelList,
    Replies,
    Reply,
    SampleRequest,
    Samples,
    decoding_settings,
)
from prefine.records import Completion, Message, Prompt, Usage, content_hash

_SEEDS = 2**31
_LINES_OPEN = 100_000
"""Requests that may wait for batch files: as good as all that the open prompts ask for."""
_MANY = "the server ignores n, so each completion is a request of its own"
_NO_LOGPROBS = "the server gives no logprobs"
_SAME = "several samples of one request are identical; the server may ignore temperature or seed"


@provides(Samples, Replies, Checks, ListsModels)
class OpenAIModel:
    """A chat model at a URL.

    Args:
        model: Its name at the server.
        base_url: Where the server is, up to and including `/v1`.
        api_key_env: Name of the environment variable that holds the key; without it no key is sent.
        calls: `now`, or `batch` to hand requests over in batch files, which are cheaper and may
            take a day each; all prompts then ask together, round by round.
        concurrency: Requests in flight, where they are made now.
        timeout_s: For one attempt at a request, from connecting to the last byte.
        max_retries: Attempts after the first, with growing pauses or the server's Retry-After.
        patience_s: How long to wait for a server that is away or refuses everything for now.
        requests_per_minute: At most, of all models at this host; without it the pace is learned
            from the server's refusals.
        tokens_per_minute: At most, of all models at this host.
        headers_env: Further headers, each with the name of the variable that holds its value.
        prices: What the server charges, for the cost in the manifest.
        extra_body: Further fields of the request, such as vLLM's `min_p`.
        label: Name for people; the model's name when not given.
        config_path: Of this model, for messages.
    """

    conversations_per_batch = 1

    def __init__(
        self,
        *,
        model: str,
        base_url: str = OPENAI_URL,
        api_key_env: str | None = None,
        calls: Literal["now", "batch"] = "now",
        concurrency: Annotated[int, Field(gt=0, le=512)] = 16,
        timeout_s: Annotated[float, Field(gt=0)] = 120.0,
        max_retries: Annotated[int, Field(ge=0)] = 5,
        patience_s: Annotated[float, Field(ge=0)] = 600.0,
        requests_per_minute: Annotated[float, Field(gt=0)] | None = None,
        tokens_per_minute: Annotated[float, Field(gt=0)] | None = None,
        headers_env: dict[str, str] | None = None,
        prices: TokenPrices | None = None,
        extra_body: dict[str, JsonValue] | None = None,
        label: str | None = None,
        config_path: str = "",
    ) -> None:
        self.concurrency = concurrency if calls == "now" else _LINES_OPEN
        self.label = label or model
        self.name = model
        # Where the server is and how hard it is asked change no answer, and people move servers.
        self.fingerprint = content_hash("openai", model, extra_body)
        self._extra_body = extra_body or {}
        self._refusal: BackendError | None = None
        self._server = Server(
            base_url=base_url,
            model=model,
            label=self.label,
            api_key_env=api_key_env,
            timeout_s=timeout_s,
            max_retries=max_retries,
            patience_s=patience_s,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            headers_env=headers_env or {},
            prices=prices,
            in_batches=calls == "batch",
            config_path=config_path,
        )
        self._learned = self._server.learned
        files = self._server.files
        self.resume_from = None if files is None else files.resume_from

    @property
    def notes(self) -> tuple[str, ...]:
        """Fields that the server ignores, refuses or leaves out."""
        return self._server.notes

    def check_model(self) -> None:
        """Raise ConfigError if the key's variable or the URL is wrong; sends no request."""
        self._server.check()

    @property
    def server(self) -> tuple[str, ...]:
        """The URL and the names of the variables that hold the keys."""
        server = self._server
        return (server.base_url, server.api_key_env or "", *sorted(server.headers_env.values()))

    async def models(self) -> ModelList:
        """Return the names of the server's models; raise BackendError if it is not there."""
        return await self._server.models()

    def check_prompt(self, prompt: Prompt, decoding: Decoding, *, where: str) -> None:
        """Accept every prompt: only the server knows how long one may be."""

    def sample(
        self,
        shard: Sequence[Call[SampleRequest]],
        wanted: Sequence[Call[SampleRequest]],
        decoding: Decoding,
    ) -> Iterable[Batch[Completion]]:
        """Yield one request per prompt with `n` samples, or per sample if `n` is ignored."""
        by_prompt: dict[str, list[Call[SampleRequest]]] = {}
        for call in wanted:
            by_prompt.setdefault(call.payload.prompt.id, []).append(call)
        for calls in by_prompt.values():
            # Read for every prompt: an earlier request may have changed it meanwhile.
            for together in [calls] if self._learned.honours_n else [[call] for call in calls]:
                yield Batch([call.key for call in together], partial(self.draw, together, decoding))

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        if self._server.files is not None:
            await self._server.files.close()
        await close_connections()

    async def respond(
        self,
        conversations: Sequence[tuple[Message, ...]],
        *,
        max_new_tokens: int,
        temperature: float | None,
        seed: int,
        first_token: bool,
    ) -> list[Reply | Failure]:
        """Return one reply per conversation, with first tokens if the server sends them."""
        return await asyncio.gather(
            *(
                self.reply(
                    messages,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    seed=seed,
                    first_token=first_token,
                )
                for messages in conversations
            )
        )

    async def reply(
        self,
        messages: tuple[Message, ...],
        *,
        max_new_tokens: int,
        temperature: float | None,
        seed: int,
        first_token: bool,
    ) -> Reply | Failure:
        """Return the reply to one conversation; the arguments are those of `respond`."""
        exchange = await self._server.chat(
            [_sent(message) for message in messages],
            extra_body=self._extra_body,
            max_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed % _SEEDS,
            logprobs=True if first_token else None,
            top_logprobs=TOP_LOGPROBS if first_token else None,
        )
        if isinstance(exchange, Failure):
            return exchange
        choice = exchange.choices[0]
        if choice.problem:
            return Failure(choice.problem, exchange.usage)
        logps = choice.first_token if first_token else None
        if first_token and logps is None and "logprobs" not in self._learned.parameters.dropped:
            self._learned.note(_NO_LOGPROBS)
        return Reply(choice.text, choice.finish_reason, logps, exchange.usage)

    async def draw(
        self, calls: Sequence[Call[SampleRequest]], decoding: Decoding
    ) -> dict[str, Completion | Failure]:
        """Return the completions of one prompt; ask again for those a request did not bring.

        Raises:
            BackendError: The server will not answer any request.
        """
        if self._refusal is not None:
            raise self._refusal
        answers: dict[str, Completion | Failure] = {}
        while len(answers) < len(calls):
            still = calls[len(answers) :]
            if self._server.files is not None and not self._learned.honours_n and len(still) > 1:
                found = await asyncio.gather(*(self.draw([call], decoding) for call in still))
                return answers | {key: answer for one in found for key, answer in one.items()}
            together = still if self._learned.honours_n else still[:1]
            try:
                exchange = await self._ask(together, decoding)
            except BackendError as error:
                if not answers:
                    raise
                # The answers before it are paid for and must be kept; the next batch raises it.
                self._refusal = error
                return answers | {call.key: Failure(str(error)) for call in still}
            if isinstance(exchange, Failure):
                # The request was one, so it is paid once.
                costs = [exchange.usage, *[Usage()] * (len(together) - 1)]
                answers |= {
                    call.key: Failure(exchange.reason, cost)
                    for call, cost in zip(together, costs, strict=True)
                }
                continue
            choices = exchange.choices[: len(together)]
            if len(choices) < len(together):
                self._learned.honours_n = False
                if "n" not in self._learned.parameters.dropped:
                    self._learned.note(_MANY)
            texts = [choice.text for choice in choices]
            if decoding.temperature != 0 and len(texts) > 1 and len(set(texts)) == 1:
                self._server.note(_SAME)
            for number, (call, choice) in enumerate(zip(together, choices, strict=False)):
                usage = Usage() if number else exchange.usage
                answers[call.key] = self._completion(call, choice, decoding, usage)
        return answers

    async def _ask(
        self, calls: Sequence[Call[SampleRequest]], decoding: Decoding
    ) -> Exchange | Failure:
        prompt, index = calls[0].payload
        extra = dict(self._extra_body)
        if prompt.chat_template_kwargs:
            extra["chat_template_kwargs"] = prompt.chat_template_kwargs
        if prompt.messages[-1].role == "assistant":
            extra |= {"add_generation_prompt": False, "continue_final_message": True}
        return await self._server.chat(
            [_sent(message) for message in prompt.messages],
            extra_body=extra,
            key=calls[0].key,
            n=len(calls) if len(calls) > 1 else None,
            max_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            # Servers that refuse top_p refuse its default, too.
            top_p=None if decoding.top_p == 1 else decoding.top_p,
            top_k=decoding.top_k,
            # A stream of its own for each sample, also where a server seeds all requests alike.
            seed=int(content_hash("stream", decoding.seed, prompt.id, index), 16) % _SEEDS,
            tools=list(prompt.tools) if prompt.tools else None,
        )

    def _completion(
        self, call: Call[SampleRequest], choice: ResponseChoice, decoding: Decoding, usage: Usage
    ) -> Completion | Failure:
        if choice.problem:
            return Failure(choice.problem, usage)
        return Completion(
            id=content_hash("sampled", call.key, choice.text, choice.tool_calls),
            prompt_id=call.payload.prompt.id,
            sample_index=call.payload.sample_index,
            message=Message(
                role="assistant",
                content=choice.text,
                reasoning=choice.reasoning,
                tool_calls=choice.tool_calls or None,
            ),
            model=self.label,
            sampling=dict(decoding_settings(decoding)),
            seed=decoding.seed,
            finish_reason=choice.finish_reason,
            usage=usage,
        )


def _sent(message: Message) -> dict[str, Any]:
    """Return a message in the API's form, without earlier reasoning."""
    return message.model_dump(mode="json", exclude_none=True, exclude={"reasoning"})
