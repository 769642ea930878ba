"""A model that answers from a script and can fail on purpose: for dry runs and tests."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field

from prefine.calls.protocol import Batch, Call, Failure
from prefine.config.base import Share
from prefine.config.sections import Decoding
from prefine.models.capabilities import provides
from prefine.models.protocol import Replies, Reply, SampleRequest, Samples, decoding_settings
from prefine.records import Completion, Message, Prompt, Usage, content_hash

_HASH_RANGE = float(16**16)


@provides(Samples, Replies)
@dataclass(eq=False, kw_only=True)
class ScriptedModel:
    """Answers each sample and each conversation with one of `replies`, chosen by hash.

    Args:
        replies: The texts to choose from; `{prompt}` and `{sample}` are filled in.
        fail_share: Share of calls that fail, chosen by hash, the same ones every time.
        fail_reason: The reason such a call gives.
        truncate_share: Share of answers that end with finish_reason "length".
        delay_s: Seconds to wait before each batch.
        batch: Calls per batch.
    """

    concurrency: ClassVar = 1
    notes: ClassVar[tuple[str, ...]] = ()
    label: ClassVar = "scripted"

    replies: Annotated[list[str], Field(min_length=1)]
    fail_share: Share = 0.0
    fail_reason: str = "scripted failure"
    truncate_share: Share = 0.0
    delay_s: Annotated[float, Field(ge=0)] = 0.0
    batch: Annotated[int, Field(gt=0)] = 32

    @property
    def fingerprint(self) -> str:
        """Hash of the script."""
        return content_hash("scripted", self.replies, self.fail_share, self.truncate_share)

    def check_prompt(self, prompt: Prompt, decoding: Decoding, *, where: str) -> None:
        """Accept every prompt."""

    def sample(
        self,
        shard: Sequence[Call[SampleRequest]],
        wanted: Sequence[Call[SampleRequest]],
        decoding: Decoding,
    ) -> Iterable[Batch[Completion]]:
        """Yield the wanted calls, `batch` at a time."""
        for start in range(0, len(wanted), self.batch):
            calls = wanted[start : start + self.batch]
            yield Batch([call.key for call in calls], partial(self._answers, calls, decoding))

    @property
    def conversations_per_batch(self) -> int:
        """Conversations per batch, as many as completions."""
        return self.batch

    def respond(
        self,
        conversations: Sequence[tuple[Message, ...]],
        *,
        max_new_tokens: int,
        temperature: float | None,
        seed: int,
        first_token: bool,
    ) -> list[Reply | Failure]:
        """Return one of `replies` for each conversation, without log-probabilities."""
        time.sleep(self.delay_s)
        return [
            self._reply_to(content_hash([message.chat() for message in chat], seed))
            for chat in conversations
        ]

    def _reply_to(self, key: str) -> Reply | Failure:
        if self._chance("fail", key) < self.fail_share:
            return Failure(self.fail_reason)
        text = self.replies[int(content_hash("reply", key), 16) % len(self.replies)]
        cut = self._chance("truncate", key) < self.truncate_share
        return Reply(text, "length" if cut else "stop", None, Usage(calls=1))

    def _answers(
        self, calls: Sequence[Call[SampleRequest]], decoding: Decoding
    ) -> Mapping[str, Completion | Failure]:
        time.sleep(self.delay_s)
        return {call.key: self._answer(call, decoding) for call in calls}

    def _answer(self, call: Call[SampleRequest], decoding: Decoding) -> Completion | Failure:
        reply = self._reply_to(call.key)
        if isinstance(reply, Failure):
            return reply
        prompt, index = call.payload
        text = reply.text.replace("{prompt}", prompt.text).replace("{sample}", str(index))
        return Completion(
            id=content_hash("scripted", call.key),
            prompt_id=prompt.id,
            sample_index=index,
            message=Message(role="assistant", content=text),
            model=self.label,
            sampling=dict(decoding_settings(decoding)),
            seed=decoding.seed,
            finish_reason=reply.finish_reason,
        )

    @staticmethod
    def _chance(purpose: str, key: str) -> float:
        return int(content_hash(purpose, key), 16) / _HASH_RANGE
