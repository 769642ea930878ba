"""The capabilities of models: small protocols, which a backend declares (`capabilities.provides`).

`Samples` draws completions, `Replies` answers conversations. `HasWeights` can be trained, `At` can
be pointed at other weights, `Releases` gives its memory back, `Checks` finds a wrong folder or key
before any work, `ListsModels` asks a server whether it is there, `Launches` starts its own.
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from prefine.config.sections import Decoding
from prefine.errors import DataError
from prefine.records import Completion, FinishReason, Message, Prompt, Usage, content_hash

if TYPE_CHECKING:
    from prefine.calls.protocol import Batch, Call, Failure


def label_of(path: str) -> str:
    """Return what a model of this folder or hub name is called, if it is given no other label."""
    return path.rstrip("/").rsplit("/", 1)[-1]


class PromptTooLong(DataError):
    """A prompt and its answer do not fit into the model; such a prompt is set aside and counted."""


class SampleRequest(NamedTuple):
    """One completion to draw: the prompt, and which of its M samples."""

    prompt: Prompt
    sample_index: int


class Answered(NamedTuple):
    """A completion beside its prompt, as reward models and other scorers rate it."""

    prompt: Prompt
    completion: Completion


class Model(Protocol):
    """The part that all backends share.

    `fingerprint` hashes everything that an answer depends on beside the question, decoding settings
    and sample index. `notes` are for the user, such as what a server ignores; they grow while the
    model is asked.
    """

    @property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer and settings."""
        ...

    @property
    def label(self) -> str:
        """A short name for people."""
        ...

    @property
    def concurrency(self) -> int:
        """Batches in flight."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Remarks for the user, each once."""
        ...


class Samples(Model, Protocol):
    """A model that completions can be drawn from."""

    def check_prompt(self, prompt: Prompt, decoding: Decoding, *, where: str) -> None:
        """Check before anything is drawn that the model can answer this prompt.

        Args:
            prompt: The prompt.
            decoding: How long the completion may be.
            where: Config path of `decoding`, for the message.

        Raises:
            PromptTooLong: Prompt and completion do not fit; this prompt is set aside.
            DataError: The model cannot read the prompt at all.
        """
        ...

    def sample(
        self,
        shard: "Sequence[Call[SampleRequest]]",
        wanted: "Sequence[Call[SampleRequest]]",
        decoding: Decoding,
    ) -> "Iterable[Batch[Completion]]":
        """Yield the batches in which the wanted completions of a shard are drawn.

        Args:
            shard: All calls of the shard, prompt by prompt. A backend whose answers depend on what
                shares their batch cuts its batches from these, so that a resumed run gives the
                bytes of a fresh one.
            wanted: Those of them that are still open; the rest is journaled.
            decoding: Temperature and other settings of sampling.

        Raises:
            BackendError: The model or its server cannot answer anything; raised by a batch.
        """
        ...


class Reply(NamedTuple):
    """The reply of a model to one conversation.

    `first_token_logps` has the likeliest tokens of the first position with their log-probabilities
    [nat]; None where the model gives none.
    """

    text: str
    finish_reason: FinishReason
    first_token_logps: Mapping[str, float] | None
    usage: Usage


class Replies(Model, Protocol):
    """A model that answers conversations, as a judge is asked."""

    @property
    def conversations_per_batch(self) -> int:
        """Conversations that are answered together."""
        ...

    def respond(
        self,
        conversations: Sequence[tuple[Message, ...]],
        *,
        max_new_tokens: int,
        temperature: float | None,
        seed: int,
        first_token: bool,
    ) -> "Sequence[Reply | Failure] | Awaitable[Sequence[Reply | Failure]]":
        """Return one reply per conversation, in order; a coroutine, or a function that blocks.

        Args:
            conversations: Messages that end with a user's turn.
            max_new_tokens: The longest reply.
            temperature: 0 is greedy; None leaves it to a server.
            seed: Of the drawing.
            first_token: Return the likeliest first tokens, too.

        Raises:
            BackendError: The model or its server cannot answer anything.
        """
        ...


class HasWeights(Model, Protocol):
    """A model whose weights are a Hugging Face folder that can be loaded and trained."""

    @property
    def path(self) -> str:
        """Folder or hub id."""
        ...

    @property
    def device(self) -> str:
        """Return the device that the weights are loaded to, such as "cuda"."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        ...

    @property
    def generation_config(self) -> Any:
        """The generation config, which names the stop tokens."""
        ...


class At(Model, Protocol):
    """A model that can be had with other weights."""

    def at(self, path: str) -> Samples:
        """Return the model of another folder with the same settings.

        Args:
            path: The folder, such as that of the trained policy.
        """
        ...


class Releases(Protocol):
    """A model that gives back the memory of its weights; asked again, it loads them again."""

    def release(self) -> None:
        """Give the memory back."""
        ...


class Checks(Protocol):
    """A model, or a judge of one, that can tell before any work whether it can be used."""

    def check_model(self) -> None:
        """Check the settings and the folder; nothing is loaded and nothing is sent.

        Raises:
            ConfigError: A setting is wrong, such as the name of a key's variable.
            BackendError: The folder cannot be used.
        """
        ...


class Launches(Model, Protocol):
    """A model whose servers are started for the time of a stage."""

    @property
    def takes_adapters(self) -> bool:
        """True if an adapter's folder can be served; False if only whole models can be."""
        ...

    def launches(self) -> str:
        """Return what would be started, in words."""
        ...


class ListsModels(Model, Protocol):
    """A model at a server, which says at no cost which models it has."""

    @property
    def name(self) -> str:
        """The model's name there."""
        ...

    @property
    def server(self) -> tuple[str, ...]:
        """The URL and the names of the keys' variables: one question for all models with these."""
        ...

    async def models(self) -> "ModelList":
        """Ask the server, once.

        Raises:
            BackendError: It is not there, or refuses the key; with its own words.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        ...


class ModelList(NamedTuple):
    """The names of the models that a server has; None if it does not say, for the reason `why`."""

    names: frozenset[str] | None
    why: str = ""


def sample_key(model_fingerprint: str, request: SampleRequest, decoding: Decoding) -> str:
    """Return the journal's key of one completion: nothing about its position in a file or batch."""
    return content_hash(
        "completion",
        model_fingerprint,
        request.prompt.id,
        request.sample_index,
        decoding_settings(decoding),
    )


def decoding_settings(decoding: Decoding) -> dict[str, float | int | None]:
    """Return the settings a completion depends on; subclasses of `Decoding` add nothing here."""
    settings = {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "max_new_tokens": decoding.max_new_tokens,
        "seed": decoding.seed,
    }
    # It came later: answers that were drawn without it keep their keys.
    return settings if decoding.top_k is None else settings | {"top_k": decoding.top_k}
