"""Records: the data that crosses files and processes, joined by id and never by position.

A record is frozen and refuses unknown fields. `SCHEMA_VERSION` is written into every file; a reader
raises an error for another version instead of guessing.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

SCHEMA_VERSION = 1

FinishReason = Literal["stop", "length", "content_filter", "unknown"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
_MOST_SHOWN, _MOST_ITEMS = 60, 4
"""Characters of a text and items of a tuple that a `repr` shows."""


def canonical_json(value: Any) -> str:
    """Return compact JSON with sorted keys and no NaN: equal values give equal text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def content_hash(*parts: Any) -> str:
    """Return 16 hex digits of the SHA-256 of `parts` as canonical JSON, for ids and keys."""
    return hashlib.sha256(canonical_json(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Record(BaseModel):
    """Base of all records: frozen, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the fields that are not at their defaults, long values cut."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value != field.default:
                yield name, _short(value)

    def __dir__(self) -> list[str]:
        """Return fields and methods of the record, without pydantic's."""
        return [n for n in super().__dir__() if n[:2] != "__" and not hasattr(BaseModel, n)]


def _short(value: Any) -> Any:
    """Return a long text as its beginning, a long tuple as its length."""
    if isinstance(value, str) and len(value) > _MOST_SHOWN:
        return value[: _MOST_SHOWN - 1] + "…"
    if isinstance(value, tuple) and len(value) > _MOST_ITEMS:
        return f"({len(value):,} items)"
    return value


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    reasoning: str | None = None
    tool_calls: tuple[dict[str, JsonValue], ...] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def chat(self) -> dict[str, Any]:
        """Return the message for chat templates, without the fields that are not set."""
        return self.model_dump(exclude_none=True)


class Prompt(Record):
    """A conversation to complete. Equal prompts have equal ids: `id` is a hash of the content."""

    id: str
    messages: tuple[Message, ...] = Field(min_length=1)
    tools: tuple[dict[str, JsonValue], ...] | None = None
    chat_template_kwargs: dict[str, JsonValue] = {}
    source: str = ""
    metadata: dict[str, JsonValue] = {}

    @classmethod
    def make(
        cls,
        messages: tuple[Message, ...],
        *,
        tools: tuple[dict[str, JsonValue], ...] | None = None,
        chat_template_kwargs: Mapping[str, JsonValue] | None = None,
        source: str = "",
        metadata: Mapping[str, JsonValue] | None = None,
    ) -> Self:
        """Return a prompt whose id comes from messages, tools and template arguments alone."""
        kwargs = dict(chat_template_kwargs or {})
        return cls(
            id=content_hash([m.chat() for m in messages], tools, kwargs),
            messages=messages,
            tools=tools,
            chat_template_kwargs=kwargs,
            source=source,
            metadata=dict(metadata or {}),
        )

    @classmethod
    def from_text(
        cls, text: str, *, source: str = "", metadata: Mapping[str, JsonValue] | None = None
    ) -> Self:
        """Return a prompt of one user turn."""
        return cls.make((Message(role="user", content=text),), source=source, metadata=metadata)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the last user turn and the id."""
        yield None, _short(self.text)
        yield "id", self.id

    @property
    def text(self) -> str:
        """The last user turn."""
        return next(
            (m.content for m in reversed(self.messages) if m.role == "user"),
            self.messages[-1].content,
        )


class Usage(Record):
    """The cost of calls, with tokens as the backend counted them."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Finite = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{name: value + getattr(other, name) for name, value in self})


class Completion(Record):
    """One answer to a prompt, sampled here or imported.

    An answer of several turns ends with `message`; `earlier_turns` are the others, in their order:
    calls of tools and what came back, or questions in between. What the assistant said in them
    belongs to the answer, the rest of them is given.

    `usage` is the cost of its request; if one request gave several completions, the first has all
    of it. It is stored in the journal, not in tables.
    """

    id: str
    prompt_id: str
    sample_index: int = Field(ge=0)
    message: Message
    earlier_turns: tuple[Message, ...] = ()
    token_ids: tuple[int, ...] | None = None
    tokenizer_hash: str | None = None
    sampled_logp: float | None = None
    model: str = ""
    sampling: dict[str, JsonValue] = {}
    seed: int | None = None
    finish_reason: FinishReason = "unknown"
    usage: Usage | None = None
    metadata: dict[str, JsonValue] = {}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the text and the ids."""
        yield None, _short(self.text)
        yield "prompt_id", self.prompt_id
        yield "sample_index", self.sample_index

    @property
    def text(self) -> str:
        """The text of the answer's last turn, without reasoning."""
        return self.message.content

    @property
    def messages(self) -> tuple[Message, ...]:
        """All turns of the answer."""
        return (*self.earlier_turns, self.message)

    @model_serializer(mode="wrap")
    def _as_before_turns(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write an answer of one turn as ever: stored hashes of it must stay what they are."""
        values: dict[str, Any] = handler(self)
        if not self.earlier_turns:
            values.pop("earlier_turns", None)
        return values


class Comparison(Record):
    """Two completions, by id, in the order shown to the judge.

    Both answer the prompt `prompt_id`, unless `second_prompt_id` names another one for the second.
    """

    prompt_id: str
    first: str
    second: str
    second_prompt_id: str | None = None

    def swapped(self) -> "Comparison":
        """Return the two completions in the other order."""
        other = self.second_prompt_id
        return Comparison(
            prompt_id=self.prompt_id if other is None else other,
            first=self.second,
            second=self.first,
            second_prompt_id=None if other is None else self.prompt_id,
        )

    @model_serializer(mode="wrap")
    def _as_before_two_prompts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write a comparison within a prompt as ever: stored hashes of it must stay the same."""
        values: dict[str, Any] = handler(self)
        if self.second_prompt_id is None:
            values.pop("second_prompt_id", None)
        return values


class Judgment(Record):
    """A judge's answer to one comparison: P(first is better), .5 for a tie, None for no verdict."""

    comparison: Comparison
    judge: str
    sample_index: int = 0
    p_first: Annotated[float, Field(ge=0, le=1)] | None = None
    raw_text: str | None = None
    error: str | None = None
    usage: Usage = Usage()

    @model_validator(mode="after")
    def _failure_has_a_reason(self) -> Self:
        if (self.p_first is None) != (self.error is not None):
            raise ValueError(
                "a judgment has either p_first or the reason (error) why there is none"
            )
        return self


class Score(Record):
    """A scorer's answer to one completion: a value in the scorer's unit, higher is better."""

    completion_id: str
    judge: str
    value: Finite | None = None
    raw_text: str | None = None
    error: str | None = None
    usage: Usage = Usage()

    @model_validator(mode="after")
    def _failure_has_a_reason(self) -> Self:
        if (self.value is None) != (self.error is not None):
            raise ValueError("a score has either a value or the reason (error) why there is none")
        return self


class DuelRecord(Record):
    """One answered duel inside a ranking, completions by id in the order shown."""

    first: str
    second: str
    p_first: float | None


class Ranking(Record):
    """The result of a strategy for one prompt; fields that it does not guarantee are None.

    `completions` are the ranked ids (identical texts merged); `order` is best first; `scores` and
    `standard_errors` are in the order of `completions`. `score_unit` is "log_odds" if the sigmoid
    of a score difference is P(better), as in Bradley-Terry, and None if it is no probability.
    `rated` are the completions whose rating was answered; None in rankings that do not say it.
    """

    prompt_id: str
    strategy: str
    completions: tuple[str, ...]
    champion: str | None = None
    worst: str | None = None
    last_loser: str | None = None
    order: tuple[str, ...] | None = None
    scores: tuple[float, ...] | None = None
    standard_errors: tuple[float, ...] | None = None
    score_unit: Literal["log_odds"] | None = None
    duels: tuple[DuelRecord, ...] = ()
    rated: tuple[str, ...] | None = None
    calls: int = 0
    failed_calls: int = 0
    cyclic_triads: int | None = None


class PreferencePair(Record):
    """One preference: `chosen` is better than `rejected`. A tie cannot be stored.

    Of a bridged pair, whose chosen answer is the rejected one rewritten, `bridged_from` is what was
    chosen before.
    """

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    rejected_prompt: Prompt | None = None
    p_chosen: Annotated[float, Field(gt=0.5, le=1)] | None = None
    score_gap: Finite | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    bridged_from: Completion | None = None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the texts and what is known of the preference."""
        yield "prompt", _short(self.prompt.text)
        yield "chosen", _short(self.chosen.text)
        yield "rejected", _short(self.rejected.text)
        known = {"p_chosen", "score_gap", "weight"}
        yield from ((name, value) for name, value in super().__repr_args__() if name in known)

    @model_validator(mode="after")
    def _sides_differ(self) -> Self:
        if self.chosen.messages == self.rejected.messages and self.rejected_prompt is None:
            raise ValueError("chosen and rejected are the same text")
        return self

    @model_serializer(mode="wrap")
    def _as_before_bridges(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write a pair that is not bridged as ever: stored hashes of it must stay what they are."""
        values: dict[str, Any] = handler(self)
        if self.bridged_from is None:
            values.pop("bridged_from", None)
        return values

    @property
    def id(self) -> str:
        """A hash of the compared completions and their prompt."""
        return content_hash(self.prompt.id, self.chosen.id, self.rejected.id)


class PreferenceList(Record):
    """Several answers to one prompt, best first, with their scores or ranks (1 is the best)."""

    prompt: Prompt
    completions: Annotated[tuple[Completion, ...], Field(min_length=2)]
    scores: tuple[Finite, ...] | None = None
    ranks: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the texts, best first."""
        yield "prompt", _short(self.prompt.text)
        yield "completions", [_short(completion.text) for completion in self.completions]
        known = {"scores", "ranks", "weight"}
        yield from ((name, value) for name, value in super().__repr_args__() if name in known)

    @model_validator(mode="after")
    def _is_a_preference(self) -> Self:
        if (self.scores is None) == (self.ranks is None):
            raise ValueError("a list has either scores or ranks")
        badness = self.ranks or [-score for score in self.scores or ()]
        if len(badness) != len(self.completions):
            raise ValueError(
                f"{len(self.completions)} completions, but {len(badness)} scores or ranks"
            )
        if list(badness) != sorted(badness) or badness[0] == badness[-1]:
            raise ValueError(
                "the completions are not ordered best first, or all of them are equally good"
            )
        answers = {
            canonical_json([[m.role, m.content, m.tool_calls] for m in c.messages])
            for c in self.completions
        }
        if len(answers) < len(self.completions):
            raise ValueError("two completions are the same answer")
        return self

    @property
    def id(self) -> str:
        """A hash of the compared completions and their prompt."""
        return content_hash("list", self.prompt.id, [c.id for c in self.completions])


class LabelledCompletion(Record):
    """One answer that is known to be good (`desirable`) or bad, whatever other answers are."""

    prompt: Prompt
    completion: Completion
    desirable: bool
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @property
    def id(self) -> str:
        """A hash of the completion and its prompt."""
        return content_hash("label", self.prompt.id, self.completion.id)


class AnswerTokens(Record):
    """Tokens of a held-out answer, with their log-probabilities [nats] before and after training.

    `tokens` are pieces of the answer's text; of a character that takes several tokens, the last one
    has it and the others are empty. `initial_logps` are those of the policy at step 0 of this
    training, `logps` those of the trained one. `item_id` is the pair, list or label that the answer
    is in, `role` its name there: "chosen", "rejected", "completion 1", "completion".
    """

    prompt_id: str
    completion_id: str
    item_id: str
    role: str
    tokens: tuple[str, ...]
    logps: tuple[Finite, ...]
    initial_logps: tuple[Finite, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if not len(self.tokens) == len(self.logps) == len(self.initial_logps):
            raise ValueError(
                f"{len(self.tokens)} tokens, {len(self.logps)} and {len(self.initial_logps)} "
                "log-probabilities"
            )
        return self


class MetricValue(Record):
    """A number with its uncertainty and its unit: "%", "nats", "tokens", … or "".

    `interval` is the 95 % interval.
    """

    name: str
    value: float
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    n: int = Field(ge=0)
    unit: str = ""

    @model_validator(mode="after")
    def _is_a_number(self) -> Self:
        if not math.isfinite(self.value):
            raise ValueError(
                f"metric {self.name} is {self.value}; a metric that does not exist is not reported"
            )
        return self


class Counts(Record):
    """Items that a stage took and produced, and those that failed or were dropped, by reason."""

    taken: int = 0
    produced: int = 0
    failed: dict[str, int] = {}
    dropped: dict[str, int] = {}


class Manifest(Record):
    """The record of one stage of a run.

    `usage` is the cost of its answers in all runs, failed attempts included; `replayed` counts the
    answers that the last run took from the journal, `repeated_after_interruption` the calls that
    were in flight when a run ended. `parent_run` is the folder, seen from this run's, that holds
    the rounds of which it is one, and `round` its number; None for a run that stands alone.
    `began_at` is the UTC time at which the stage was begun, `command` the command line that worked
    on it last, without keys, `commit` that of prefine's checkout, `judge_prompt` the judge's
    question without its texts; None where it is not known, as in runs of earlier versions.
    `stopped_by` is the message with which the stage stopped before its end; None once it goes on.
    """

    schema_version: int = SCHEMA_VERSION
    stage: str
    complete: bool = False
    config: dict[str, JsonValue]
    input_hashes: dict[str, str] = {}
    output_hashes: dict[str, str] = {}
    code_version: str
    versions: dict[str, str] = {}
    seed: int | None = None
    counts: Counts = Counts()
    replayed: int = 0
    repeated_after_interruption: int = 0
    wall_time_s: float = 0.0
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()
    parent_run: str | None = None
    round: int | None = None
    began_at: str | None = None
    command: tuple[str, ...] | None = None
    commit: str | None = None
    judge_prompt: str | None = None
    stopped_by: str | None = None
