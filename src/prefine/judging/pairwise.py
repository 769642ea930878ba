"""A judge that asks a language model which of two completions is better."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from prefine.calls.protocol import Asker, Call, Failure
from prefine.calls.threads import in_threads
from prefine.config.components import Nested
from prefine.errors import ConfigError
from prefine.judges import across_prompt, prompts, verdicts
from prefine.judges.protocol import Verdict
from prefine.judging.asking import ask_in_batches
from prefine.judging.protocol import (
    AnyMatchup,
    Matchup,
    MatchupAcross,
    across_key,
    judgment_key,
    judgments,
)
from prefine.models.capabilities import check_model, provides, required
from prefine.models.protocol import Checks, Model, Replies, Reply
from prefine.records import Completion, Judgment, Message, Prompt, Usage, content_hash

_REFUSES_ONE_TOKEN = ("HTTP 400", "the length limit")
_CUT = "the judge's reply was cut by the length limit: raise the judge's max_new_tokens"
_REPAIR = (
    "Your reply does not end with a verdict line. Write that line now, exactly as asked "
    "for, and nothing else."
)


@provides(Checks)
class PairwiseJudge:
    """Asks `model` which of two completions is better, in the order shown.

    With one token and its log-probabilities the verdict is soft: P(first) from the probabilities of
    the two labels, summed over their spellings. Where the model gives none, it is asked to reason
    briefly and to end with a verdict.

    Args:
        model: A backend that answers conversations: `openai`, `hf`, `scripted`.
        prompt: A built-in prompt: "helpfulness", or "rubric" with a rubric of yours.
        prompt_file: A Jinja file with a prompt of yours, instead.
        across_prompt_file: One with a prompt about answers to two prompts (`rank.across`), which a
            judge with a `prompt_file` needs.
        rubric: What makes a completion better, for the prompts that take one.
        answer: "label" reads the label's probabilities from the first token, "text" a verdict from
            reasoned text; "auto" is "label" for a model whose first token was ever a label, and
            else "text".
        temperature: Of the judge's text; null leaves it to the server.
        max_new_tokens: The longest reasoned reply.
        first_slot_bias: The judge's preference for the first slot [logit], where it was measured.
        seed: Of the nonces and of the judge's sampling.
    """

    def __init__(
        self,
        *,
        model: Annotated[Callable[[], Model], Nested("backend")],
        prompt: Literal["helpfulness", "rubric"] | None = None,
        prompt_file: Path | None = None,
        across_prompt_file: Path | None = None,
        rubric: str | None = None,
        answer: Literal["auto", "label", "text"] = "auto",
        temperature: Annotated[float, Field(ge=0)] | None = 0.0,
        max_new_tokens: Annotated[int, Field(gt=0)] = 1024,
        first_slot_bias: float = 0.0,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        backend = model()
        self.model = required(backend, Replies, what=f"judge.model: {backend.label!r}")
        self._respond = in_threads(self.model.respond, self.model.concurrency)
        self._template = _template(prompt, prompt_file, rubric)
        self._across_template = _across_template(prompt_file, across_prompt_file, rubric)
        self._rubric = rubric
        self._answer = answer
        self._temperature = temperature
        self._max_new_tokens = max_new_tokens
        self._seed = seed
        # With "auto" the model decides: it is asked for labels until one came with probabilities
        # (then for good), or until verdicts came from its text (then always for text).
        self._reads_text = answer == "text"
        self._labels_work = answer == "label"
        self._flagged = 0
        self.first_slot_bias = first_slot_bias
        # A template that cannot be rendered is found now, not at the first call.
        self._conversation(_PROBE, "label")
        if self._across_template is not None:
            self._conversation(_PROBE_ACROSS, "label")

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the model, the prompt's text and how the reply is read."""
        return content_hash(
            "pairwise",
            self.model.fingerprint,
            self._template,
            self._rubric,
            # Without max_new_tokens, which decides only whether a reply is cut and has no verdict.
            self._answer,
            self._temperature,
            self._seed,
            _REPAIR,
            prompts.LAYOUT_VERSION,
            verdicts.PARSER_VERSION,
        )

    @cached_property
    def _across_fingerprint(self) -> str:
        """Hash of the same, and the prompt about answers to two prompts."""
        return content_hash("across", self.fingerprint, self._across_template)

    @property
    def concurrency(self) -> int:
        """The model's, if it answers conversations one by one."""
        return self.model.concurrency if self.model.conversations_per_batch == 1 else 1

    @property
    def label(self) -> str:
        """The model's name."""
        return self.model.label

    @property
    def prompt(self) -> str:
        """The question, with names where the texts of a comparison stand."""
        return prompts.outline(self._template, self._rubric)

    @property
    def notes(self) -> Sequence[str]:
        """Remarks about the model, its server and the completions."""
        notes = list(self.model.notes)
        if self._reads_text and self._answer == "auto":
            notes.append(
                f"{self.model.label}: it gives no probabilities of a first token that is a label, "
                "so verdicts are read from text"
            )
        if self._flagged:
            notes.append(
                f"{self._flagged:,} completions contain what reads like a verdict or an "
                "instruction to the judge"
            )
        return notes

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Accept all completions; count those that talk to the judge."""
        self._flagged += sum(verdicts.suspicious(completion.text) for completion in completions)

    def check_model(self) -> None:
        """Raise before any work if the model's settings or folder cannot be used."""
        check_model(self.model)

    async def judge(self, asker: Asker, matchups: Sequence[Matchup]) -> list[Judgment]:
        """Return one judgment per matchup, in order."""
        fingerprint = self.fingerprint
        return await self._asked(
            asker, [Call(judgment_key(fingerprint, matchup), matchup) for matchup in matchups]
        )

    def check_across(self, *, where: str) -> None:
        """Raise ConfigError if the prompt is a file of the user's and there is none for two."""
        if self._across_template is None:
            raise ConfigError(
                f"{where}.prompt_file: asks about answers to one prompt, and rank.across compares "
                f"answers to two; give {where}.across_prompt_file, too (a Jinja file with "
                f"{', '.join(across_prompt.PLACES)})"
            )

    async def judge_across(self, asker: Asker, matchups: Sequence[MatchupAcross]) -> list[Judgment]:
        """Return one judgment per matchup, in order."""
        fingerprint = self._across_fingerprint
        return await self._asked(
            asker, [Call(across_key(fingerprint, matchup), matchup) for matchup in matchups]
        )

    async def _asked(self, asker: Asker, calls: Sequence[Call[AnyMatchup]]) -> list[Judgment]:
        """Return one judgment per call, in order; all of them are of one kind."""
        # Prompts of one length together waste least on padding.
        ordered = sorted(calls, key=lambda call: (_length(call.payload), call.key))
        answers = await ask_in_batches(
            asker,
            ordered,
            Judgment,
            self._answers,
            size=self.model.conversations_per_batch,
            batches_matter=True,
            backend=self.model,
        )
        return judgments(self._judging(calls[0].payload), calls, answers) if calls else []

    async def _answers(self, calls: Sequence[Call[AnyMatchup]]) -> Mapping[str, Judgment | Failure]:
        if self._reads_text:
            return await self._in_text(calls, {})
        replies = await self._ask(calls, "label")
        answers = {
            call.key: await self._judgment(call.payload, reply, "label", Usage())
            for call, reply in zip(calls, replies, strict=True)
        }
        self._labels_work |= any(
            isinstance(reply, Reply)
            and reply.first_token_logps is not None
            and isinstance(answers[call.key], Judgment)
            for call, reply in zip(calls, replies, strict=True)
        )
        if self._labels_work:
            return answers
        # No first token has been a label yet: the model tells no probabilities, reasons first, or
        # refuses a reply of one token. Ask those in text that would not fail in the same way there
        # (busy, filtered).
        again = [
            call
            for call, reply in zip(calls, replies, strict=True)
            if isinstance(reply, Reply) or reply.reason.startswith(_REFUSES_ONE_TOKEN)
        ]
        spent = {call.key: answers[call.key].usage for call in again}
        return {**answers, **await self._in_text(again, spent)}

    async def _in_text(
        self, calls: Sequence[Call[AnyMatchup]], spent: Mapping[str, Usage]
    ) -> dict[str, Judgment | Failure]:
        """Return answers from reasoned text; `spent` is the usage of each call so far."""
        replies = await self._ask(calls, "text") if calls else ()
        answers = {
            call.key: await self._judgment(
                call.payload, reply, "text", spent.get(call.key, Usage())
            )
            for call, reply in zip(calls, replies, strict=True)
        }
        self._reads_text |= any(isinstance(answer, Judgment) for answer in answers.values())
        return answers

    async def _ask(
        self, calls: Sequence[Call[AnyMatchup]], style: prompts.Style
    ) -> Sequence[Reply | Failure]:
        conversations = [self._conversation(call.payload, style) for call in calls]
        return await self._replies(conversations, style)

    async def _replies(
        self, conversations: Sequence[tuple[Message, ...]], style: prompts.Style
    ) -> Sequence[Reply | Failure]:
        return await self._respond(
            conversations,
            max_new_tokens=1 if style == "label" else self._max_new_tokens,
            temperature=self._temperature,
            seed=self._seed,
            first_token=style == "label",
        )

    async def _judgment(
        self, matchup: AnyMatchup, reply: Reply | Failure, style: prompts.Style, spent: Usage
    ) -> Judgment | Failure:
        if isinstance(reply, Failure):
            return Failure(reply.reason, spent + reply.usage)
        spent += reply.usage
        if style == "text" and reply.finish_reason == "length":
            # What looks like a verdict in the middle of a thought is none.
            return Failure(_CUT, spent)
        verdict, raw = self._read(matchup, reply), reply.text
        if verdict.p_first is None and style == "text":
            again = await self._repaired(matchup, reply)
            if isinstance(again, Failure):
                return Failure(again.reason, spent + again.usage)
            verdict, raw = self._read(matchup, again), f"{raw}\n\n{again.text}"
            spent += again.usage
        if verdict.p_first is None:
            remedy = "; if this judge reasons before it answers, set its answer: text"
            # Reasons are counted, so that they must not quote the reply.
            reason = re.sub(r"""(['"]).*\1""", "…", verdict.error or "no verdict")
            return Failure(reason if style == "text" else reason + remedy, spent)
        return Judgment(
            comparison=matchup.comparison,
            judge=self._judging(matchup),
            p_first=verdict.p_first,
            raw_text=raw,
            usage=spent,
        )

    async def _repaired(self, matchup: AnyMatchup, reply: Reply) -> Reply | Failure:
        """Ask once more for the verdict that a reasoned reply lacks."""
        conversation = (
            *self._conversation(matchup, "text"),
            Message(role="assistant", content=reply.text),
            Message(role="user", content=_REPAIR),
        )
        (again,) = await self._replies([conversation], "text")
        return again

    def _read(self, matchup: AnyMatchup, reply: Reply) -> Verdict:
        if reply.first_token_logps is not None:
            return verdicts.read_label(reply.first_token_logps)
        return verdicts.read_text(reply.text, nonce=self._nonce(matchup))

    def _judging(self, matchup: AnyMatchup) -> str:
        """Return the fingerprint that a judgment of this kind names."""
        return self.fingerprint if isinstance(matchup, Matchup) else self._across_fingerprint

    def _nonce(self, matchup: AnyMatchup) -> str:
        if isinstance(matchup, Matchup):
            return prompts.nonce(self._seed, *matchup)
        return across_prompt.nonce(self._seed, *matchup)

    def _conversation(self, matchup: AnyMatchup, style: prompts.Style) -> tuple[Message, ...]:
        nonce, rubric = self._nonce(matchup), self._rubric
        if isinstance(matchup, Matchup):
            return prompts.render(self._template, *matchup, nonce=nonce, style=style, rubric=rubric)
        assert self._across_template is not None, "checked by check_across"
        return across_prompt.render(
            self._across_template, *matchup, nonce=nonce, style=style, rubric=rubric
        )


def _template(prompt: str | None, prompt_file: Path | None, rubric: str | None) -> str:
    if prompt is not None and prompt_file is not None:
        raise ConfigError("judge: both prompt and prompt_file are given; keep one")
    if prompt_file is None:
        name = prompt or ("helpfulness" if rubric is None else "rubric")
        if (name == "rubric") != (rubric is not None):
            raise ConfigError(
                "judge: prompt: rubric needs a rubric: ... with what makes an answer better"
                if rubric is None
                else f"judge.rubric: the prompt {name!r} takes no rubric; use prompt: rubric"
            )
        return prompts.prompt_text(name)
    return _text_of(prompt_file, "judge.prompt_file")


def _across_template(
    prompt_file: Path | None, across_prompt_file: Path | None, rubric: str | None
) -> str | None:
    """Return the prompt about answers to two prompts; None if only the user could write it."""
    if across_prompt_file is not None:
        return _text_of(across_prompt_file, "judge.across_prompt_file")
    if prompt_file is not None:
        return None
    return prompts.prompt_text("across" if rubric is None else "across_rubric")


def _text_of(file: Path, what: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}: {file}: cannot be read ({error}); give a text file") from error


def _length(matchup: AnyMatchup) -> int:
    messages = [*matchup.prompt.messages, matchup.first.message, matchup.second.message]
    if isinstance(matchup, MatchupAcross):
        messages += matchup.second_prompt.messages
    return sum(len(message.content) for message in messages)


def _stand_in(index: int) -> Completion:
    text = Message(role="assistant", content=f"answer {index}")
    return Completion(id=f"probe {index}", prompt_id="probe", sample_index=index, message=text)


_PROBE = Matchup(Prompt.from_text("question"), _stand_in(0), _stand_in(1))
_PROBE_ACROSS = MatchupAcross(*_PROBE[:2], Prompt.from_text("other question"), _stand_in(1))
