"""Texts as a reward model reads them: whole conversations, with one value at their last token."""

from jinja2 import TemplateError

from prefine import chat
from prefine.records import Completion, Prompt
from prefine.tokenizer import Tokenizer
from prefine.training.items import ReadText, Text

_AFTER = 0
"""The token that is asked for after the last one. Nothing reads it: a reward is the value of the
position that would predict it."""


class ConversationReader:
    """Tokenizes conversations exactly as the judge `reward` does; a longer one is dropped.

    Args:
        tokenizer: The policy's, which the reward model's folder gets.
        max_tokens: The most tokens of a conversation.
        train_on_truncated: Keep completions that were cut by the generation limit.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, max_tokens: int, train_on_truncated: bool = False
    ) -> None:
        self._tokenizer, self._most = tokenizer, max_tokens
        self._train_on_truncated = train_on_truncated

    def read(self, prompt: Prompt, completion: Completion) -> ReadText:
        """Tokenize a completion behind its prompt."""
        if not self._train_on_truncated and completion.finish_reason == "length":
            return ReadText(None, "cut_by_generation_limit")
        try:
            ids = chat.conversation_ids(self._tokenizer, prompt, completion)
        except TemplateError:
            return ReadText(None, "conversation_that_the_template_refuses")
        if len(ids) < 2:
            return ReadText(None, "empty_prompt")
        if len(ids) > self._most:
            return ReadText(None, "longer_than_the_token_limits")
        # All completions of a prompt go on behind it, so that it is computed once.
        shared = 0
        for ours, other in zip(ids[:-1], chat.prompt_ids(self._tokenizer, prompt), strict=False):
            if ours != other:
                break
            shared += 1
        shared = max(1, shared)
        answer = (*ids[shared:], _AFTER)
        last = len(answer) - 1
        return ReadText(Text(tuple(ids[:shared]), answer, ((last, last + 1),)))
