"""What a backend that samples is."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from prefine.calls.base import Batch, Call
from prefine.config import Decoding
from prefine.records import Completion, Prompt, content_hash


class SampleRequest(NamedTuple):
    """One completion to draw: the prompt, and which of its M samples."""

    prompt: Prompt
    sample_index: int


class Sampler(Protocol):
    """A model that completions can be drawn from.

    `fingerprint` hashes everything that its completions depend on beside prompt, decoding and sample index.
    """

    @property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer and settings."""
        ...

    @property
    def label(self) -> str:
        """A short name for people."""
        ...

    def check_prompt(self, prompt: Prompt, decoding: Decoding, *, where: str) -> None:
        """Raise DataError when the model cannot answer this prompt, before anything is drawn.

        `where` is the config path of `decoding`, for the message.
        """
        ...

    def sample(
        self,
        shard: Sequence[Prompt],
        samples: int,
        wanted: Sequence[Call[SampleRequest]],
        decoding: Decoding,
        *,
        group: int,
    ) -> Iterable[Batch[Completion]]:
        """The batches in which the wanted completions of a shard are drawn.

        Args:
            shard: All prompts of the shard, in order: together with `samples` and `group` they fix the batches.
            samples: M.
            wanted: The calls that are still open; the rest of the shard is journaled.
            decoding: Temperature and the like.
            group: How many samples of one prompt share a batch.
        """
        ...


def sample_key(model_fingerprint: str, request: SampleRequest, decoding: Decoding) -> str:
    """The journal's key of one completion: nothing about its position in a file or batch."""
    return content_hash(
        "completion", model_fingerprint, request.prompt.id, request.sample_index, decoding_settings(decoding)
    )


def decoding_settings(decoding: Decoding) -> dict[str, float | int]:
    """The settings that a completion depends on; sections that extend `Decoding` add nothing here."""
    return {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "max_new_tokens": decoding.max_new_tokens,
        "seed": decoding.seed,
    }
