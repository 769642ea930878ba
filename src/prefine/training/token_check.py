"""A look at the first rows as the model reads them, before anything is spent on training."""

import unicodedata
from collections.abc import Iterable, Sequence

from prefine import chat
from prefine.errors import ConfigError, DataError
from prefine.records import Completion, PreferencePair, Prompt
from prefine.training.items import TokenizedPair

ROWS = 100


def check_tokens(
    pairs: Iterable[PreferencePair],
    examples: Sequence[TokenizedPair],
    tokenizer: chat.Tokenizer,
    *,
    stop_token_id: int,
) -> list[str]:
    """Check the rows of up to 100 pairs: texts come back, one start token, no end of a turn before the last token.

    Args:
        pairs: In any order; those that were dropped are passed over. No more are read than are
            checked.
        examples: What was made of them.
        tokenizer: What they were made with.
        stop_token_id: What generation stops on.
    Returns: Notes for the manifest: what differs without being wrong.

    Raises:
        ConfigError: The template writes two start tokens.
        DataError: A row's text cannot be got back from its token ids, or a turn ends where it
            should not.
    """
    by_id = {example.id: example for example in examples}
    own = chat.tokenizer_hash(tokenizer)
    checked = together = 0
    notes: list[str] = []
    for pair in pairs:
        example = by_id.get(pair.id)
        if example is None:
            continue
        where = f"{pair.prompt.source}, pair {pair.id}" if pair.prompt.source else f"pair {pair.id}"
        _check_start(tokenizer, example, where)
        differs = False
        for name, prompt, read, side, ids in (
            ("chosen", pair.prompt, example.prompt_ids, pair.chosen, example.chosen_ids),
            (
                "rejected",
                pair.rejected_prompt or pair.prompt,
                example.rejected_prompt_ids or example.prompt_ids,
                pair.rejected,
                example.rejected_ids,
            ),
        ):
            full = chat.completion_ids(
                tokenizer, prompt, side, tokenizer_hash=own, stop_token_id=stop_token_id
            )
            # A part of the row: the start of the completion, the end of the prompt.
            whole = len(full or ()) == len(ids)
            _check_end(ids, side, stop_token_id, f"{where}, {name}", whole=whole)
            stored = chat.has_stored_ids(side, tokenizer_hash=own)
            text = _text(tokenizer, ids, stop_token_id, stored=stored)
            expected = side.text if stored else chat.continued_text(tokenizer, prompt, side)
            _check_text(text, side, expected or "", f"{where}, {name}", whole=whole)
            if not notes and not side.message.reasoning and not side.message.tool_calls:
                notes = [_turn_end(tokenizer, prompt, side, stop_token_id)]
            if whole:
                differs |= _differs_together(tokenizer, prompt, text, read, ids, stop_token_id)
        checked, together = checked + 1, together + differs
        if checked == ROWS:
            break
    if together:
        share = f"{together} of the first {checked} rows ({100 * together / checked:.0f} %)"
        notes.append(
            f"{share} would have other tokens if prompt and answer were tokenised together; they "
            "are joined as sampled"
        )
    return list(filter(None, notes))


def _turn_end(
    tokenizer: chat.Tokenizer, prompt: Prompt, side: Completion, stop_token_id: int
) -> str:
    """A note where the template goes on otherwise than training does: behind the prompt, or behind the answer."""
    stop = str(tokenizer.decode([stop_token_id]))
    after = chat.text_after_answer(tokenizer, prompt, side)
    if after is None:
        return (
            "the chat template does not write an answer right behind the prompt as the model "
            "reads it (it opens "
            "reasoning, or ignores add_generation_prompt); look at the first rows"
        )
    if not after.lstrip().startswith(stop):
        return (
            f"the chat template ends an answer with {after!r}, training with {stop!r}, on "
            "which generation stops"
        )
    return ""


def _check_start(tokenizer: chat.Tokenizer, example: TokenizedPair, where: str) -> None:
    start = getattr(tokenizer, "bos_token_id", None)
    if start is not None and example.prompt_ids[:2] == (start, start):
        raise ConfigError(
            f"{where}: the prompt begins with two start tokens (id {start}); the chat template "
            "writes them, "
            "or one of them is in the text: take it out there"
        )


def _check_end(
    ids: Sequence[int], side: Completion, stop_token_id: int, where: str, *, whole: bool
) -> None:
    inside = ids[:-1] if whole and side.finish_reason != "length" else ids
    if stop_token_id in inside:
        raise DataError(
            f"{where}: the token that ends a turn (id {stop_token_id}) is also inside the "
            "completion, after "
            f"{list(inside).index(stop_token_id)} tokens; these token ids hold more than one "
            "turn: cut them there, "
            "or leave them out so that the text is used"
        )


def _text(
    tokenizer: chat.Tokenizer, ids: Sequence[int], stop_token_id: int, *, stored: bool
) -> str:
    """The text of a completion's tokens; sampled ids were turned into text without special tokens."""
    body = ids[:-1] if ids[-1] == stop_token_id else ids
    options = {"skip_special_tokens": stored, "clean_up_tokenization_spaces": False}
    return str(tokenizer.decode(list(body), **options))


def _check_text(text: str, side: Completion, given: str, where: str, *, whole: bool) -> None:
    if side.message.reasoning or side.message.tool_calls:
        return
    found, expected = _loosely(text), _loosely(given)
    # A cut may fall inside a character, whose bytes then decode to a replacement mark.
    same = (
        found == expected
        if whole and side.finish_reason != "length"
        else expected.startswith(found.rstrip("�"))
    )
    if not same:
        raise DataError(
            f"{where}: the text does not come back from its token ids: {given[:80]!r} became "
            f"{text[:80]!r}; "
            "the tokenizer does not know these characters, or the stored token ids belong to "
            "another text"
        )


def _loosely(text: str) -> str:
    """The text without what tokenizers normalise: composition of characters, spaces."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def _differs_together(
    tokenizer: chat.Tokenizer,
    prompt: Prompt,
    text: str,
    prompt_ids: tuple[int, ...],
    ids: tuple[int, ...],
    stop_token_id: int,
) -> bool:
    body = ids[:-1] if ids[-1] == stop_token_id else ids
    together = tuple(chat.joint_ids(tokenizer, prompt, text))
    # Of a prompt that lost its beginning there is only the end to compare.
    return together[-len(prompt_ids) - len(body) :] != prompt_ids + body
