"""Check the first rows as the model reads them, before anything is spent on training."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from prefine import chat
from prefine.errors import ConfigError, DataError
from prefine.records import Completion, Prompt
from prefine.training.items import Text, TokenizedItem
from prefine.training.relations.protocol import ItemKind, NamedAnswer
from prefine.turns import answer_ids, assistant_turns

if TYPE_CHECKING:
    from prefine.tokenizer import Tokenizer

ROWS = 100


def check_tokens(
    records: Iterable[Any],
    examples: Sequence[TokenizedItem],
    tokenizer: "Tokenizer",
    *,
    kind: ItemKind,
    stop_token_id: int,
) -> list[str]:
    """Check the token ids of up to 100 items; return notes on what differs without being wrong.

    Args:
        records: In any order; dropped ones are skipped. No more are read than are checked.
        examples: The same records, tokenized.
        tokenizer: The policy's.
        kind: What the records are.
        stop_token_id: The token on which generation stops.

    Raises:
        ConfigError: The template writes two start tokens.
        DataError: The token ids decode to another text, or a turn ends before the last token.
    """
    by_id = {example.id: example for example in examples}
    start = getattr(tokenizer, "bos_token_id", None)
    sides_of = partial(
        _sides, tokenizer, chat.tokenizer_hash(tokenizer), stop_token_id=stop_token_id
    )
    checked = merged = 0
    template_note: str | None = None
    for record in records:
        example = by_id.get(record.id)
        if example is None:
            continue
        where = f"{example.word} {example.id}"
        if record.prompt.source:
            where = f"{record.prompt.source}, {where}"
        if start is not None and example.texts[0].prompt[:2] == (start, start):
            raise ConfigError(
                f"{where}: the prompt begins with two start tokens (id {start}); the chat template "
                "writes them, or one of them is in the text: take it out there"
            )
        merges = False
        answers = kind.answers(record, example)
        for answer, text in zip(answers, example.texts, strict=True):
            for side in sides_of(f"{where}, {answer.name}", answer, text):
                side.check_end()
                message = side.completion.message
                plain = not message.reasoning and not message.tool_calls
                if plain:
                    side.check_text()
                if plain and template_note is None:
                    template_note = side.template_note()
                merges |= side.merges_with_prompt()
        checked, merged = checked + 1, merged + merges
        if checked == ROWS:
            break
    notes = [template_note] if template_note else []
    if merged:
        notes.append(
            f"{merged} of the first {checked} rows ({100 * merged / checked:.0f} %) would have "
            "other tokens if prompt and answer were tokenised together; they are joined as sampled"
        )
    return notes


def _sides(
    tokenizer: "Tokenizer",
    tokenizer_hash: str,
    where: str,
    answer: NamedAnswer,
    text: Text,
    *,
    stop_token_id: int,
) -> Iterator["_Side"]:
    """The assistant's turns of an answer that are read, each behind all that stands before it."""
    full = answer_ids(
        tokenizer,
        answer.prompt,
        answer.completion,
        tokenizer_hash=tokenizer_hash,
        stop_token_id=stop_token_id,
    )
    ends = (full.scored or ((0, len(full.ids)),)) if full else ()
    turns = assistant_turns(answer.prompt, answer.completion)
    for turn, (start, end), (_, whole_end) in zip(turns, text.runs, ends, strict=False):
        yield _Side(
            where,
            tokenizer,
            stop_token_id,
            turn.prompt,
            text.prompt + text.completion[:start],
            turn.completion,
            text.completion[start:end],
            stored=chat.has_stored_ids(turn.completion, tokenizer_hash=tokenizer_hash),
            whole=end == whole_end,
        )


@dataclass(frozen=True)
class _Side:
    """A turn of an item's completion with its prompt, as texts and as token ids.

    Args:
        where: Its place, for messages.
        tokenizer: The policy's.
        stop: The token on which generation stops.
        prompt: The prompt.
        prompt_ids: Its end, as far as it is read.
        completion: The completion.
        ids: Its beginning, as far as it is read.
        stored: Whether the completion came with these ids.
        whole: Whether all of it is read.
    """

    where: str
    tokenizer: "Tokenizer"
    stop: int
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    completion: Completion
    ids: tuple[int, ...]
    stored: bool
    whole: bool

    @property
    def ends(self) -> bool:
        """Return True if the last id is the end of the model's turn."""
        return self.whole and self.completion.finish_reason != "length"

    @property
    def body(self) -> tuple[int, ...]:
        """The ids without the stop token."""
        return self.ids[:-1] if self.ids[-1] == self.stop else self.ids

    @property
    def text(self) -> str:
        """The text of the body; sampled ids became text without special tokens."""
        options = {"skip_special_tokens": self.stored, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(list(self.body), **options))

    def check_end(self) -> None:
        """Raise DataError if the turn ends before the last token."""
        inside = self.ids[:-1] if self.ends else self.ids
        if self.stop in inside:
            raise DataError(
                f"{self.where}: the token that ends a turn (id {self.stop}) is also inside the "
                f"completion, after {inside.index(self.stop)} tokens; these token ids hold more "
                "than one turn: cut them there, or leave them out so that the text is used"
            )

    def check_text(self) -> None:
        """Raise DataError if the ids decode to another text."""
        given = self.completion.text
        if not self.stored:
            given = chat.continued_text(self.tokenizer, self.prompt, self.completion) or ""
        found, expected = _normalised(self.text), _normalised(given)
        # A cut may fall inside a character, whose bytes then decode to a replacement mark.
        if found != expected if self.ends else not expected.startswith(found.rstrip("�")):
            raise DataError(
                f"{self.where}: the text does not come back from its token ids: {given[:80]!r} "
                f"became {self.text[:80]!r}; the tokenizer does not know these characters, or the "
                "stored token ids belong to another text"
            )

    def template_note(self) -> str:
        """A note if the template continues the prompt or the answer unlike training, else ""."""
        stop = str(self.tokenizer.decode([self.stop]))
        after = chat.text_after_answer(self.tokenizer, self.prompt, self.completion)
        if after is None:
            return (
                "the chat template does not write an answer right behind the prompt as the model "
                "reads it (it opens reasoning, or ignores add_generation_prompt); look at the "
                "first rows"
            )
        if not after.lstrip().startswith(stop):
            return (
                f"the chat template ends an answer with {after!r}, training with {stop!r}, on "
                "which generation stops"
            )
        return ""

    def merges_with_prompt(self) -> bool:
        """Return True if prompt and text tokenised together have other ids."""
        if not self.whole:
            return False
        ids = self.prompt_ids + self.body
        text = self.text
        if not self.completion.message.reasoning and not self.completion.message.tool_calls:
            text = chat.continued_text(self.tokenizer, self.prompt, self.completion) or text
        # Of a prompt that lost its beginning only the end can be compared.
        return tuple(chat.joint_ids(self.tokenizer, self.prompt, text))[-len(ids) :] != ids


def _normalised(text: str) -> str:
    """The text without what tokenizers normalise: composition of characters, spaces."""
    return "".join(unicodedata.normalize("NFKC", text).split())
