"""The tokenizer as it is used here, and the text of each token."""

from collections.abc import Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """The part of a `transformers` tokenizer that is used here."""

    chat_template: Any
    eos_token_id: Any
    all_special_ids: Any
    added_tokens_decoder: Any

    def __hash__(self) -> int:
        """Hash by identity."""

    def decode(self, token_ids: Any, **options: Any) -> Any:
        """Text of token ids."""

    def __call__(self, text: str, **options: Any) -> Any:
        """Encode a text."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render messages, as text or token ids."""


def pieces(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[str]:
    """The text of each token, so that all together are the text of all, special tokens included.

    Of a character that takes several tokens, the last one has it and the others are empty.
    """
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    found: list[str] = []
    # Each text is read behind the one before it, as some tokenizers drop a space at the beginning.
    before = begun = 0
    for end in range(1, len(token_ids) + 1):
        known = str(tokenizer.decode(list(token_ids[before:begun]), **options))
        text = str(tokenizer.decode(list(token_ids[before:end]), **options))
        if text.endswith("\ufffd") and end < len(token_ids):
            found.append("")
            continue
        found.append(text[len(known) :])
        before, begun = begun, end
    return found
