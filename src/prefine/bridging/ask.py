"""Bridgers that go through the call engine: one that asks a model, one that computes."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from prefine.bridging.protocol import UNCHANGED, Revises
from prefine.calls.protocol import Asker, Call, Failure
from prefine.calls.threads import in_threads
from prefine.config.sections import BridgeConfig
from prefine.errors import PrefineError
from prefine.judges import bridge_prompt, prompts
from prefine.judging.asking import Paced, ask_in_batches
from prefine.models.capabilities import check_model, provides
from prefine.models.protocol import Checks, Replies, Reply
from prefine.reasoning import split_reasoning
from prefine.records import Completion, Message, PreferencePair, Prompt, Usage, content_hash

CUT = "the rewriting was cut by the length limit: raise bridge.max_new_tokens"
_BATCH = 256


def _sides(pair: PreferencePair) -> list[object]:
    """Everything of a pair that a rewriting depends on."""
    return [pair.prompt.id, *([one.id, one.message.chat()] for one in (pair.chosen, pair.rejected))]


def _answer(key: str, pair: PreferencePair, text: str, **fields: object) -> Completion:
    """A rewriting as a completion of the pair's prompt."""
    return Completion.model_validate(
        {
            "id": content_hash("bridged", key),
            "prompt_id": pair.prompt.id,
            "sample_index": 0,
            "finish_reason": "stop",
            **fields,
            "message": Message(role="assistant", content=text),
        }
    )


@provides(Checks)
class AskedBridger:
    """Asks a model to rewrite; its whole reply is journaled, and read anew by every run.

    Args:
        model: Answers conversations.
        settings: Request, temperature, longest reply and seed.
    """

    def __init__(self, model: Replies, settings: BridgeConfig) -> None:
        self.model = model
        self._settings = settings
        self._template = bridge_prompt.prompt_text(settings.prompt)
        self._respond = in_threads(model.respond, model.concurrency)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the model, the request's text and the settings of its reply."""
        settings = self._settings
        return content_hash(
            "bridger",
            self.model.fingerprint,
            self._template,
            # Without max_new_tokens: a reply that is cut fails, and is not journaled.
            settings.temperature,
            settings.seed,
            bridge_prompt.LAYOUT_VERSION,
            prompts.LAYOUT_VERSION,
        )

    @property
    def label(self) -> str:
        """The model's name."""
        return self.model.label

    @property
    def notes(self) -> Sequence[str]:
        """Remarks about the model and its server."""
        return self.model.notes

    @property
    def concurrency(self) -> int:
        """The model's, if it answers conversations one by one."""
        return self.model.concurrency if self.model.conversations_per_batch == 1 else 1

    def check(self, prompt: Prompt) -> None:
        """Accept every prompt."""

    def check_model(self) -> None:
        """Raise before any work if the model's settings or folder cannot be used."""
        check_model(self.model)

    async def bridge(
        self, asker: Asker, pairs: Sequence[PreferencePair]
    ) -> list[Completion | Failure]:
        """Return one rewriting per pair, in order, or the reason why there is none."""
        fingerprint = self.fingerprint
        calls = [Call(content_hash("bridge", fingerprint, *_sides(one)), one) for one in pairs]
        # Pairs of one length together waste least on padding.
        ordered = sorted(calls, key=lambda call: (_length(call.payload), call.key))
        answers = await ask_in_batches(
            asker,
            ordered,
            Completion,
            self._answers,
            size=self.model.conversations_per_batch,
            batches_matter=True,
            backend=self.model,
        )
        return [self._read(call.payload, answers[call.key]) for call in calls]

    async def _answers(
        self, calls: Sequence[Call[PreferencePair]]
    ) -> Mapping[str, Completion | Failure]:
        settings = self._settings
        replies = await self._respond(
            [self._conversation(call.payload) for call in calls],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
            first_token=False,
        )
        return {
            call.key: self._completion(call, reply)
            for call, reply in zip(calls, replies, strict=True)
        }

    def _completion(
        self, call: Call[PreferencePair], reply: Reply | Failure
    ) -> Completion | Failure:
        if isinstance(reply, Failure):
            return reply
        if reply.finish_reason == "length":
            return Failure(CUT, reply.usage)
        return _answer(
            call.key,
            call.payload,
            reply.text,
            model=self.label,
            sampling={"temperature": self._settings.temperature},
            seed=self._settings.seed,
            finish_reason=reply.finish_reason,
            usage=reply.usage,
        )

    def _read(self, pair: PreferencePair, answer: Completion | Failure) -> Completion | Failure:
        """The rewriting in a reply: without reasoning before it, tags and our marks."""
        if isinstance(answer, Failure):
            return answer
        reasoning, text = split_reasoning(answer.text)
        shown = "\n".join(m.content for m in (*pair.prompt.messages, *_messages(pair)))
        text = bridge_prompt.read(text, shown=shown, nonce=self._nonce(pair))
        message = Message(role="assistant", content=text, reasoning=reasoning)
        said_none = text.rstrip(".").lower() == bridge_prompt.GOOD_ENOUGH
        unchanged = said_none and self._settings.prompt == "answers"
        metadata = UNCHANGED if unchanged else {}
        return answer.model_copy(update={"message": message, "metadata": metadata})

    def _nonce(self, pair: PreferencePair) -> str:
        return prompts.nonce(self._settings.seed, pair.prompt, pair.chosen, pair.rejected)

    def _conversation(self, pair: PreferencePair) -> tuple[Message, ...]:
        return bridge_prompt.render(
            self._template, pair.prompt, pair.chosen, pair.rejected, nonce=self._nonce(pair)
        )


class ComputedBridger:
    """A bridger that computes, journaled like one that asks a model.

    Args:
        reviser: Rewrites; it is called in one thread.
    """

    notes: tuple[str, ...] = ()
    concurrency = 1

    def __init__(self, reviser: Revises) -> None:
        self._reviser = reviser
        self.fingerprint = reviser.fingerprint
        self.label = reviser.label
        self._paced = Paced(self._answers, largest=_BATCH)

    def check(self, prompt: Prompt) -> None:
        """Raise DataError if the bridger cannot work on answers to this prompt."""
        self._reviser.check(prompt)

    async def bridge(
        self, asker: Asker, pairs: Sequence[PreferencePair]
    ) -> list[Completion | Failure]:
        """Return one rewriting per pair, in order, or the reason why there is none."""
        calls = [
            Call(content_hash("bridge", self.fingerprint, *_sides(pair)), pair) for pair in pairs
        ]
        answers = await ask_in_batches(
            asker, calls, Completion, self._paced, batches_matter=False, backend=self
        )
        return [answers[call.key] for call in calls]

    def _answers(self, calls: Sequence[Call[PreferencePair]]) -> Mapping[str, Completion | Failure]:
        return {call.key: self._rewritten(call.key, call.payload) for call in calls}

    def _rewritten(self, key: str, pair: PreferencePair) -> Completion | Failure:
        try:
            text = self._reviser.revise(pair.prompt, pair.chosen, pair.rejected)
        except PrefineError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's code is a backend: one rewriting failing is data
            return Failure(f"the bridger raised {type(error).__name__}: {error}"[:200])
        if text is None:
            metadata, text = UNCHANGED, pair.rejected.text
        elif isinstance(text, str):
            metadata = {}
        else:
            return Failure(f"the bridger returned a {type(text).__name__}, not a text")
        usage = Usage(calls=1)
        return _answer(key, pair, text, model=self.label, metadata=metadata, usage=usage)


def _messages(pair: PreferencePair) -> tuple[Message, ...]:
    return (*pair.chosen.messages, *pair.rejected.messages)


def _length(pair: PreferencePair) -> int:
    return sum(len(message.content) for message in (*pair.prompt.messages, *_messages(pair)))
