"""Records: everything that crosses a file or a process, joined by id and never by position.

A record is frozen and refuses unknown fields. `SCHEMA_VERSION` is written into every file; a reader
that meets another version names it instead of guessing.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

SCHEMA_VERSION = 1

FinishReason = Literal["stop", "length", "content_filter", "unknown"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN; equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def content_hash(*parts: Any) -> str:
    """The first 16 hex digits of SHA-256 over the canonical JSON of `parts`: ids and fingerprints."""
    return hashlib.sha256(canonical_json(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Record(BaseModel):
    """Base of all records: frozen, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    reasoning: str | None = None
    tool_calls: tuple[dict[str, JsonValue], ...] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def chat(self) -> dict[str, Any]:
        """The message as chat templates expect it, without the fields that are not set."""
        return self.model_dump(exclude_none=True)


class Prompt(Record):
    """What a model is asked. `id` is a hash of the content, so equal prompts have equal ids everywhere."""

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
        """Build a prompt and compute its id from messages, tools and template arguments (not from its origin)."""
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
        """A prompt of one user turn."""
        return cls.make((Message(role="user", content=text),), source=source, metadata=metadata)

    @property
    def text(self) -> str:
        """The last user turn, which is what people mean by "the prompt"."""
        return next(
            (m.content for m in reversed(self.messages) if m.role == "user"),
            self.messages[-1].content,
        )


class Usage(Record):
    """What calls cost. Tokens are as counted by whoever answered."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Finite = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost=self.cost + other.cost,
        )


class Completion(Record):
    """One answer to a prompt, sampled here or imported.

    `usage` is what the request cost that it came with; of several completions from one request the
    first bears it all. It is in the journal, not in tables.
    """

    id: str
    prompt_id: str
    sample_index: int = Field(ge=0)
    message: Message
    token_ids: tuple[int, ...] | None = None
    tokenizer_hash: str | None = None
    sampled_logp: float | None = None
    model: str = ""
    sampling: dict[str, JsonValue] = {}
    seed: int | None = None
    finish_reason: FinishReason = "unknown"
    usage: Usage | None = None
    metadata: dict[str, JsonValue] = {}

    @property
    def text(self) -> str:
        """The answer's text, without reasoning."""
        return self.message.content


class Comparison(Record):
    """Two completions of one prompt, by id, in the order shown to the judge."""

    prompt_id: str
    first: str
    second: str

    def swapped(self) -> "Comparison":
        """The same two completions in the other order."""
        return Comparison(prompt_id=self.prompt_id, first=self.second, second=self.first)


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
    """A scorer's answer on one completion: its value [the scorer's own unit], higher is better."""

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
    """What a strategy found for one prompt. Fields that the strategy does not guarantee are None.

    `completions` are the ids that took part (identical texts merged); `order` is best first;
    `scores` and `standard_errors` go with `completions`. `score_unit` says what a gap of the scores
    means: "log_odds" if the sigmoid of it is P(better), as Bradley-Terry fits it; None if it is no
    probability.
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
    calls: int = 0
    failed_calls: int = 0
    cyclic_triads: int | None = None


class PreferencePair(Record):
    """One preference: `chosen` is better than `rejected`. There is no label, so a tie cannot be stored."""

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    rejected_prompt: Prompt | None = None
    p_chosen: Annotated[float, Field(gt=0.5, le=1)] | None = None
    score_gap: Finite | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _sides_differ(self) -> Self:
        if self.chosen.message == self.rejected.message and self.rejected_prompt is None:
            raise ValueError("chosen and rejected are the same text")
        return self

    @property
    def id(self) -> str:
        """A hash of what is compared."""
        return content_hash(self.prompt.id, self.chosen.id, self.rejected.id)


class PreferenceList(Record):
    """Several answers to one prompt, best first, with the scores or the ranks (1 is the best) that say so."""

    prompt: Prompt
    completions: Annotated[tuple[Completion, ...], Field(min_length=2)]
    scores: tuple[Finite, ...] | None = None
    ranks: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

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
            canonical_json([answer.text, answer.message.tool_calls]) for answer in self.completions
        }
        if len(answers) < len(self.completions):
            raise ValueError("two completions are the same answer")
        return self

    @property
    def id(self) -> str:
        """A hash of what is compared."""
        return content_hash(
            "list", self.prompt.id, [completion.id for completion in self.completions]
        )


class MetricValue(Record):
    """A number with its uncertainty. `interval` is the 95 % interval; `unit` is "%", "nats", "tokens", … or ""."""

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
    """What went in and came out of a stage; `failed` and `dropped` by reason."""

    taken: int = 0
    produced: int = 0
    failed: dict[str, int] = {}
    dropped: dict[str, int] = {}


class Manifest(Record):
    """How one stage of a run was made.

    `usage` is what its answers cost, whenever they were asked for, failed attempts included;
    `replayed` is how many of them the last run took from the journal, `repeated_after_interruption`
    how many were in flight when a run ended.
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
