"""Training items: texts with token ids, whatever relation they stand in, and how texts are read."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from prefine import chat
from prefine.errors import DataError
from prefine.records import Completion, Prompt
from prefine.turns import AnswerIds, Runs, answer_ids

if TYPE_CHECKING:
    from prefine.tokenizer import Tokenizer
    from prefine.training.relations.protocol import ItemKind

Ids = tuple[int, ...]


class Text(NamedTuple):
    """A completion behind the prompt that it answers; it ends with the stop token unless cut.

    `turns` are the places of the assistant's turns in a completion of several: their tokens are
    scored, those in between only read. It is empty where all of the completion is scored.
    """

    prompt: Ids
    completion: Ids
    turns: Runs = ()

    @property
    def runs(self) -> Runs:
        """The places of scored tokens in the completion; the last one ends it."""
        return self.turns or ((0, len(self.completion)),)

    @property
    def scored(self) -> Ids:
        """The tokens that are scored."""
        return tuple(chain.from_iterable(self.completion[slice(*run)] for run in self.runs))

    @property
    def answer(self) -> "Answer":
        """The text without its prompt."""
        return self.completion, self.turns

    @property
    def positions(self) -> int:
        """Input positions; a completion's last token is never an input."""
        return len(self.prompt) + len(self.completion) - 1


Answer = tuple[Ids, Runs]
"""A completion and its `turns`, see `Text`."""


class TokenizedItem(Protocol):
    """A training item as the engine sees it: k completions, each behind its prompt.

    The relation between the completions (a pair, a list, a labelled answer) belongs to its file in
    `relations/`.
    """

    @property
    def word(self) -> str:
        """The name of such an item in messages."""
        ...

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def weight(self) -> float:
        """Its weight in the mean over a step."""
        ...

    @property
    def texts(self) -> tuple[Text, ...]:
        """Its completions in the order of the relation; the order of all values [C]."""
        ...


class OtherTokens:
    """The texts of items in the tokens of a model with another tokenizer.

    Args:
        reader: Reads them with its tokenizer.
        positions: The longest input that the model reads; None is any.
    """

    def __init__(self, reader: "TextReader", positions: int | None = None) -> None:
        self._reader, self._positions = reader, positions
        self._texts: dict[Text, Text] = {}

    def add(self, text: Text, prompt: Prompt, completion: Completion) -> bool:
        """Read the text once more; return False if the model cannot read all of it."""
        found = self._reader.read(prompt, completion)
        if found.text is None or found.long_prompt or found.long_completion:
            return False
        if self._positions is not None and found.text.positions > self._positions:
            return False
        self._texts[text] = found.text
        return True

    def item(self, item: TokenizedItem) -> "PlainItem":
        """An item whose texts were added, as the model reads it."""
        texts = tuple(self._texts[text] for text in item.texts)
        return PlainItem(item.id, texts, item.weight, item.word)


@dataclass(frozen=True)
class PlainItem:
    """Completions in no relation, which are only scored."""

    id: str
    texts: tuple[Text, ...]
    weight: float = 1.0
    word: str = "item"


def longest(item: TokenizedItem) -> int:
    """Input positions of the item's longest text."""
    return max(text.positions for text in item.texts)


NOT_READ_WHOLE = "not_read_whole_by_a_reference_with_other_tokens"
DROPPED = (
    "cut_by_generation_limit",
    "reasoning_or_tool_calls_without_token_ids",
    "turns_that_the_template_rewrites",
    "empty_prompt",
    "empty_side",
    "conversation_that_the_template_refuses",
    "longer_than_the_token_limits",
    NOT_READ_WHOLE,
)
"""Reasons to drop a text; of several texts, the first reason counts."""


class ReadText(NamedTuple):
    """A tokenized text, or the reason to drop it, and which parts are shortened."""

    text: Text | None
    dropped: str = ""
    long_prompt: bool = False
    long_completion: bool = False


class ReadsTexts(Protocol):
    """Tokenizes texts for a kind of training."""

    def read(self, prompt: Prompt, completion: Completion) -> ReadText:
        """Tokenize a completion behind its prompt."""
        ...


class TextReader:
    """Tokenizes texts; keeps the end of a long prompt and the start of a long completion.

    Args:
        tokenizer: The policy's.
        stop_token_id: The token on which generation stops, see `chat.stop_token_id`.
        max_prompt_tokens: Longer prompts lose their beginning.
        max_completion_tokens: Longer completions lose their end, and with it the stop token.
        train_on_truncated: Keep completions that were cut by the generation limit.
        others: Read every text, too; one that is shortened, or that they cannot read whole, is
            dropped.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        *,
        stop_token_id: int,
        max_prompt_tokens: int,
        max_completion_tokens: int,
        train_on_truncated: bool = False,
        others: Sequence[OtherTokens] = (),
    ) -> None:
        self._tokenizer, self._stop = tokenizer, stop_token_id
        self._tokenizer_hash = chat.tokenizer_hash(tokenizer)
        self._max_prompt, self._max_completion = max_prompt_tokens, max_completion_tokens
        self._train_on_truncated, self._others = train_on_truncated, others
        self._prompts: dict[str, list[int]] = {}

    def read(self, prompt: Prompt, completion: Completion) -> ReadText:
        """Tokenize a completion behind its prompt."""
        if not self._train_on_truncated and completion.finish_reason == "length":
            return ReadText(None, "cut_by_generation_limit")
        prompt_ids = self._prompt_ids(prompt)
        answer = answer_ids(
            self._tokenizer,
            prompt,
            completion,
            tokenizer_hash=self._tokenizer_hash,
            stop_token_id=self._stop,
        )
        if answer is None:
            if completion.earlier_turns:
                return ReadText(None, "turns_that_the_template_rewrites")
            return ReadText(None, "reasoning_or_tool_calls_without_token_ids")
        if not prompt_ids:
            return ReadText(None, "empty_prompt")
        if answer.ids in ([], [self._stop]):
            return ReadText(None, "empty_side")
        ids, turns = _shortened(answer, self._max_completion)
        text = Text(tuple(prompt_ids[-self._max_prompt :]), ids, turns)
        found = ReadText(
            text,
            long_prompt=len(prompt_ids) > self._max_prompt,
            long_completion=len(answer.ids) > self._max_completion,
        )
        shortened = found.long_prompt or found.long_completion
        for other in self._others:
            if shortened or not other.add(text, prompt, completion):
                return ReadText(None, NOT_READ_WHOLE)
        return found

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if prompt.id not in self._prompts:
            self._prompts[prompt.id] = chat.prompt_ids(self._tokenizer, prompt)
        return self._prompts[prompt.id]


def _shortened(answer: AnswerIds, most: int) -> Answer:
    """Return the beginning of an answer, up to its last scored token."""
    runs = tuple((start, min(stop, most)) for start, stop in answer.scored if start < most)
    ids = tuple(answer.ids[: runs[-1][1] if runs else most])
    # One turn is all of it, like any answer.
    return ids, runs if len(runs) > 1 else ()


class ReadItem(NamedTuple):
    """One tokenized item, or the reason to drop it, and how many of its texts are shortened.

    `left_out` are the reasons why completions are not in an item that stays.
    """

    item: Any
    dropped: str = ""
    long_prompts: int = 0
    long_completions: int = 0
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenizedItems:
    """The items that can be trained on, and counts, by reason, of what was dropped or shortened."""

    items: list[Any] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    truncated: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


def joined(parts: Iterable[TokenizedItems]) -> TokenizedItems:
    """The items of several kinds, one kind after the other, and their counts together."""
    found = TokenizedItems()
    for part in parts:
        found.items.extend(part.items)
        for name in ("dropped", "truncated", "left_out"):
            counts = getattr(found, name)
            for reason, count in getattr(part, name).items():
                counts[reason] = counts.get(reason, 0) + count
    return found


def make_items(records: Iterable[Any], kind: "ItemKind", reader: ReadsTexts) -> TokenizedItems:
    """Tokenize all records that can be trained on, and count the rest.

    Args:
        records: Those of the kind.
        kind: Reads them.
        reader: Reads their texts.

    Raises:
        DataError: A record is not for this loss, or none is left.
    """
    found = readable_items(records, kind, reader)
    if not found.items:
        reasons = [f"{reason}: {count}" for reason, count in sorted(found.dropped.items())]
        raise DataError(f"no {kind.words} is left ({', '.join(reasons) or 'there was none'})")
    return found


def readable_items(records: Iterable[Any], kind: "ItemKind", reader: ReadsTexts) -> TokenizedItems:
    """Tokenize as `make_items` does; there may be no item.

    Raises:
        DataError: A record is not for this loss.
    """
    items: list[TokenizedItem] = []
    dropped: Counter[str] = Counter()
    truncated: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for record in records:
        reading = kind.read(record, reader)
        truncated.update(prompts=reading.long_prompts, completions=reading.long_completions)
        left_out.update(reading.left_out)
        if reading.item is None:
            dropped[reading.dropped] += 1
        else:
            items.append(reading.item)
    # Unary plus drops zero counts.
    return TokenizedItems(items, dict(dropped), dict(+truncated), dict(left_out))


def first_reason(readings: Sequence[ReadText]) -> str:
    """The reason why an item that needs all of these texts is dropped; "" if it is not."""
    return min((one.dropped for one in readings if one.text is None), key=DROPPED.index, default="")
