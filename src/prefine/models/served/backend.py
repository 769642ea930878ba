"""Models whose server prefine starts itself: vLLM, SGLang, transformers, llama.cpp, a command."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, JsonValue

from prefine import chat
from prefine.calls.http import close_connections
from prefine.calls.protocol import Batch, Call, Failure
from prefine.config.sections import Decoding
from prefine.errors import ConfigError, option_path
from prefine.models.capabilities import provides
from prefine.models.openai.answers import EMPTY, ResponseChoice
from prefine.models.openai.parameters import TOP_LOGPROBS
from prefine.models.openai.requests import CHAT, TEXT, Exchange
from prefine.models.openai.server import Learned, Server
from prefine.models.protocol import (
    At,
    Checks,
    HasWeights,
    Launches,
    Releases,
    Replies,
    Reply,
    SampleRequest,
    Samples,
    decoding_settings,
    label_of,
)
from prefine.models.served.engines import ENGINES, EngineName, PromptsAs, flag_of
from prefine.models.served.fleet import Fleet
from prefine.models.served.replica import Patience, Replica
from prefine.models.served.serving import Serving
from prefine.models.served.wording import Wording, sampling_fields
from prefine.records import Completion, Message, Prompt, content_hash

if TYPE_CHECKING:
    from prefine.models.hf.backend import HfModel

_SEEDS = 2**31
_NO_LOGPROBS = "the server gives no logprobs"
_RENDERED = 4096
_HANG_S = 60.0
"""Without a sign of health; less where answers have less time."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """The pace and the patience with which servers are asked; options of `ServedModel`."""

    concurrency: int
    timeout_s: float
    max_retries: int
    start_timeout_s: float
    max_restarts: int


@provides(Samples, Replies, HasWeights, At, Releases, Checks, Launches)
class ServedModel:
    """A model that is served on this machine while it is asked, and trained in this process.

    Its servers start with the first call of a stage and are gone when the stage has asked its last
    one, so that none of them shares a GPU with training.

    Args:
        path: Folder or hub id; a `.gguf` file for llama_cpp.
        engine: Who serves it.
        replicas: Servers; "auto" is GPUs / tensor_parallel, and 1 without GPUs.
        tensor_parallel: GPUs of each server.
        arguments: Flags of the engine that answers may depend on, such as {dtype: float16}.
        tuning: Flags that no answer depends on, such as {gpu-memory-utilization: 0.8}; they may
            change in a begun run.
        command: For engine command: a command line with {path} and {port}, and perhaps {host} and
            {api_key}.
        executable: The engine's program, or for sglang and transformers its Python, where that is
            not the one of this process.
        prompts_as: "token_ids" or "text" of our rendering, or "messages" that the server renders;
            by default what the engine takes.
        concurrency: Requests in flight at each server; by default the engine's.
        timeout_s: For one attempt at a request.
        max_retries: Attempts after the first.
        start_timeout_s: Until a server has to be healthy.
        max_restarts: How often each server is started again in a stage when it dies.
        device: For training, as {name: hf} has it.
        label: Name for people; the path's last part when not given.
        chat_template: As {name: hf} has it.
        system: As {name: hf} has it.
        date: As {name: hf} has it.
        config_path: Of this model, for messages.
    """

    conversations_per_batch = 1

    def __init__(
        self,
        *,
        path: str,
        engine: EngineName,
        replicas: Annotated[int, Field(gt=0, le=64)] | Literal["auto"] = "auto",
        tensor_parallel: Annotated[int, Field(gt=0)] = 1,
        arguments: dict[str, JsonValue] | None = None,
        tuning: dict[str, JsonValue] | None = None,
        command: str | None = None,
        executable: str | None = None,
        prompts_as: PromptsAs | None = None,
        concurrency: Annotated[int, Field(gt=0, le=512)] | None = None,
        timeout_s: Annotated[float, Field(gt=0)] = 600.0,
        max_retries: Annotated[int, Field(ge=0)] = 5,
        start_timeout_s: Annotated[float, Field(gt=0)] = 900.0,
        max_restarts: Annotated[int, Field(ge=0)] = 3,
        device: str = "auto",
        label: str | None = None,
        chat_template: str | None = None,
        system: Literal["own", "merge"] = "own",
        date: date | None = None,
        config_path: str = "",
    ) -> None:
        self._serving = Serving(
            path=path,
            name=engine,
            replicas=replicas,
            tensor_parallel=tensor_parallel,
            arguments=arguments or {},
            tuning=tuning or {},
            command=command,
            executable=executable,
            prompts_as=prompts_as or ENGINES[engine].prompts_as,
            config_path=config_path,
        )
        if self._serving.prompts_as == "messages" and chat_template is not None:
            raise ConfigError(
                f"{option_path(config_path, 'chat_template')}: the server renders messages by its "
                "own template; set prompts_as: token_ids or text for a server that takes these, or "
                "give the template to the server"
            )
        self.path = path
        self.label = label or label_of(path)
        self._asking = Asking(
            concurrency=concurrency or ENGINES[engine].concurrency,
            timeout_s=timeout_s,
            max_retries=max_retries,
            start_timeout_s=start_timeout_s,
            max_restarts=max_restarts,
        )
        self._here: dict[str, Any] = {
            "device": device,
            "chat_template": chat_template,
            "system": system,
            "date": date,
        }
        self._config_path = config_path
        self._notes: dict[str, None] = {}
        self._learned = {CHAT: Learned(), TEXT: Learned()}
        self._rendered: dict[str, Wording] = {}
        self._fleet: Fleet | None = None

    def at(self, path: str) -> "ServedModel":
        """Return the model of another folder with the same settings."""
        serving = self._serving
        return ServedModel(
            path=path,
            engine=serving.name,
            replicas=serving.replicas,
            tensor_parallel=serving.tensor_parallel,
            arguments=dict(serving.arguments),
            tuning=dict(serving.tuning),
            command=serving.command,
            executable=serving.executable,
            prompts_as=serving.prompts_as,
            **asdict(self._asking),
            **self._here,
        )

    def check_model(self) -> None:
        """Raise before any work if the model, the engine or the GPUs are not there."""
        self._serving.check()
        if not self._serving.is_gguf:
            self._hf.check_model()

    def launches(self) -> str:
        """Return what would be started for a stage that asks this model."""
        return self._serving.plan

    @property
    def takes_adapters(self) -> bool:
        """True if its engine serves an adapter's folder."""
        return self._serving.engine.takes_adapters

    # --- what it is

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer, engine and its arguments, and of how prompts are sent."""
        serving = self._serving
        # That of a folder has the template and the date, too.
        weights = serving.file_digest if serving.is_gguf else self._hf.fingerprint
        arguments = {flag_of(name): value for name, value in serving.arguments.items()}
        return content_hash(
            "served", weights, serving.name, serving.command, arguments, serving.prompts_as
        )

    @cached_property
    def _hf(self) -> "HfModel":
        """The model in this process: tokenizer, template and weights of the folder served."""
        if self._serving.is_gguf:
            raise ConfigError(
                f"{option_path(self._config_path, 'path')}: {self.path} is a GGUF file, whose "
                "weights and tokenizer are not read here; name a Hugging Face folder"
            )
        from prefine.models.hf.backend import HfModel

        return HfModel(path=self.path, config_path=self._config_path, **self._here)

    @property
    def device(self) -> str:
        """The device that it is trained on."""
        return self._hf.device

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._hf.tokenizer

    @property
    def generation_config(self) -> Any:
        """The generation config."""
        return self._hf.generation_config

    @property
    def concurrency(self) -> int:
        """Requests in flight at all servers."""
        return self._asking.concurrency * self._serving.count

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how it is served and on what happened to its servers."""
        learned = (note for one in self._learned.values() for note in one.notes)
        return tuple(f"{self.label}: {note}" for note in (*self._notes, *learned))

    def note(self, text: str) -> None:
        """Add a remark for the user, once."""
        self._notes.setdefault(text)

    def release(self) -> None:
        """Stop the servers, if they have not been stopped by the end of their event loop."""
        if self._fleet is not None:
            self._fleet.stop()
            self._fleet = None

    async def aclose(self) -> None:
        """Stop the servers, at the end of the event loop in which they were asked."""
        fleet, self._fleet = self._fleet, None
        try:
            if fleet is not None:
                await fleet.close()
        finally:
            await close_connections()

    # --- servers

    def _running(self) -> Fleet:
        """The servers; they are started by the first call."""
        if self._fleet is None:
            serving, asking = self._serving, self._asking
            if serving.gpus:
                # What a training in this process has left behind, which nobody uses any more.
                from prefine.models.hf.loading import free_memory

                free_memory()
            what = "an adapter, with its base" if serving.served.adapter else "the whole model"
            self.note(
                f"{self.path} ({what}) is served by {serving.count} × {serving.name}; prompts go "
                f"as {serving.prompts_as.replace('_', ' ')}"
            )
            patience = Patience(
                start_s=asking.start_timeout_s,
                silent_s=2 * asking.timeout_s,
                hang_s=min(_HANG_S, asking.timeout_s),
            )
            ports = set[int]()
            self._fleet = Fleet(
                [
                    Replica(number, serving.launch, gpus, patience, ports)
                    for number, gpus in enumerate(serving.gpu_sets)
                ],
                max_restarts=asking.max_restarts,
                what=f"{self._config_path or self.label} ({serving.name})",
                note=self.note,
            )
        return self._fleet

    def _server(self, replica: Replica, path: str) -> Server:
        server = Server(
            base_url=f"{replica.url}/v1",
            model=self._serving.served.name,
            label=self.label,
            api_key_env=None,
            timeout_s=self._asking.timeout_s,
            max_retries=self._asking.max_retries,
            # Longer than it takes to see that the server hangs, and to start it again.
            patience_s=2 * self._asking.timeout_s + _HANG_S,
            requests_per_minute=None,
            tokens_per_minute=None,
            prices=None,
            path=path,
            headers={"Authorization": f"Bearer {replica.key}"},
        )
        # A server that was started again has another URL and takes the same parameters.
        server.learned = self._learned[path]
        return server

    # --- asking

    def check_prompt(self, prompt: Prompt, decoding: Decoding, *, where: str) -> None:
        """Raise PromptTooLong if prompt and answer exceed the positions of the folder's model."""
        if not self._serving.is_gguf:
            self._hf.check_prompt(prompt, decoding, where=where)

    def sample(
        self,
        shard: Sequence[Call[SampleRequest]],
        wanted: Sequence[Call[SampleRequest]],
        decoding: Decoding,
    ) -> Iterable[Batch[Completion]]:
        """Yield one request per completion: no answer depends on what is asked beside it."""
        for call in wanted:
            yield Batch([call.key], partial(self._draw, call, decoding))

    async def _draw(
        self, call: Call[SampleRequest], decoding: Decoding
    ) -> dict[str, Completion | Failure]:
        prompt, index = call.payload
        seed = int(content_hash("stream", decoding.seed, prompt.id, index), 16) % _SEEDS
        wording = self._worded(prompt)
        fields, extra = sampling_fields(
            self._serving.name,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            top_k=decoding.top_k,
            max_new_tokens=decoding.max_new_tokens,
            stop_ids=self._stop_ids if wording.ours else (),
            pad_id=self._pad_id if wording.ours else None,
        )
        found = await self._ask(wording, fields | {"seed": seed}, extra)
        if isinstance(found, Failure):
            return {call.key: found}
        choice = found.choices[0]
        # A model may have learned to say nothing; where we see its tokens, that is its answer.
        says_nothing = choice.problem == EMPTY and wording.ours and choice.finish_reason == "stop"
        if choice.problem and not says_nothing:
            return {call.key: Failure(choice.problem, found.usage)}
        text, ids = self._text_of(choice) if wording.ours else (choice.text, None)
        completion = Completion(
            id=content_hash("sampled", call.key, text, choice.tool_calls),
            prompt_id=prompt.id,
            sample_index=index,
            message=Message(
                role="assistant",
                content=text,
                reasoning=choice.reasoning,
                tool_calls=choice.tool_calls or None,
            ),
            token_ids=ids,
            tokenizer_hash=None if ids is None else self._tokenizer_hash,
            model=self.label,
            sampling=dict(decoding_settings(decoding)),
            seed=decoding.seed,
            finish_reason=choice.finish_reason,
            usage=found.usage,
        )
        return {call.key: completion}

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
        replies: list[Reply | Failure] = []
        for messages in conversations:
            wording = self._worded(Prompt.make(messages))
            fields, extra = sampling_fields(
                self._serving.name,
                temperature=temperature,
                top_p=None,
                top_k=None,
                max_new_tokens=max_new_tokens,
                stop_ids=self._stop_ids if wording.ours else (),
                pad_id=self._pad_id if wording.ours else None,
            )
            fields["seed"] = seed % _SEEDS
            if first_token and wording.ours:
                fields["logprobs"] = TOP_LOGPROBS
            elif first_token:
                fields |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
            found = await self._ask(wording, fields, extra)
            if isinstance(found, Failure):
                replies.append(found)
                continue
            choice = found.choices[0]
            if choice.problem:
                replies.append(Failure(choice.problem, found.usage))
                continue
            logps = choice.first_token if first_token else None
            if first_token and logps is None:
                self.note(_NO_LOGPROBS)
            replies.append(Reply(choice.text, choice.finish_reason, logps, found.usage))
        return replies

    async def _ask(
        self, wording: Wording, fields: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> Exchange | Failure:
        """Ask a server.

        Raises:
            BackendError: No server can be had.
        """

        async def send(replica: Replica) -> Exchange | Failure:
            if wording.prompt is not None:
                server = self._server(replica, TEXT)
                found = await server.complete(wording.prompt, extra_body=extra, **fields)
            else:
                server = self._server(replica, CHAT)
                found = await server.chat(
                    wording.messages, extra_body={**extra, **wording.extra}, **fields
                )
            for note in server.notes:
                self.note(note.removeprefix(f"{self.label}: "))
            return found

        return await self._running().ask(send)

    def _worded(self, prompt: Prompt) -> Wording:
        """The prompt as the server is sent it; rendered once for its samples, which come soon."""
        if prompt.id not in self._rendered:
            if len(self._rendered) >= _RENDERED:
                self._rendered.clear()
            self._rendered[prompt.id] = self._wording_of(prompt)
        return self._rendered[prompt.id]

    def _wording_of(self, prompt: Prompt) -> Wording:
        if self._serving.prompts_as == "token_ids":
            return Wording(self._hf.prompt_ids(prompt))
        if self._serving.prompts_as == "text":
            if (text := chat.prompt_text(self.tokenizer, prompt)) is not None:
                return Wording(text)
            self.note(
                "some prompts have no text with the token ids of our rendering, such as those "
                "with a special token; they went as messages, which the server renders"
            )
        return Wording.of_messages(prompt)

    def _text_of(self, choice: ResponseChoice) -> tuple[str, tuple[int, ...] | None]:
        """The text of a choice and its token ids, where the server sent them."""
        ids = choice.token_ids
        if ids is None:
            return choice.text, None
        ended = choice.finish_reason == "stop" and ids[-1:] and ids[-1] in self._stop_ids
        shown = ids[:-1] if ended else ids
        # As our own models decode, whatever the server thinks of blanks and special tokens.
        return str(self.tokenizer.decode(list(shown), skip_special_tokens=True)), ids

    @cached_property
    def _stop_ids(self) -> tuple[int, ...]:
        eos = self.generation_config.eos_token_id
        named = eos if isinstance(eos, list) else [eos]
        stop = chat.stop_token_id(self.tokenizer, self.generation_config)
        return tuple(sorted({stop, *(token for token in named if token is not None)}))

    @cached_property
    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self._stop_ids[0] if pad is None else pad)

    @cached_property
    def _tokenizer_hash(self) -> str:
        return chat.tokenizer_hash(self.tokenizer)
