"""Messages to token ids, given a tokenizer: what the model reads (the prompt) and what is scored (the completion).

A prompt and a completion are tokenised apart and concatenated, never merged again, so that the prompt is shared
whole and no text of it is scored.
"""

import hashlib
import json
from typing import Any, Protocol

from jinja2 import TemplateError

from prefine.errors import ConfigError, DataError
from prefine.records import Completion, Prompt

_PROBE_USER = "Question?"
_PROBE_ANSWER = "Answer"


class Tokenizer(Protocol):
    """What is used of a `transformers` tokenizer."""

    chat_template: Any
    eos_token_id: Any
    all_special_ids: Any

    def __call__(self, text: str, **options: Any) -> Any:
        """Encode a text."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render messages, as text or token ids."""


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Token ids of the prompt up to where the assistant starts to write.

    A last message of the assistant is a prefill: the model continues it instead of opening a turn.

    Raises:
        ConfigError: The tokenizer has no chat template.
        DataError: The template refuses these messages.
    """
    _require_template(tokenizer)
    prefilled = prompt.messages[-1].role == "assistant"
    try:
        ids = tokenizer.apply_chat_template(
            [message.chat() for message in prompt.messages],
            tools=list(prompt.tools) if prompt.tools is not None else None,
            add_generation_prompt=not prefilled,
            continue_final_message=prefilled,
            tokenize=True,
            return_dict=False,
            **prompt.chat_template_kwargs,
        )
    except TemplateError as error:
        raise DataError(f"prompt {prompt.id}: the chat template refuses its messages: {error}") from error
    return list(ids)


def is_scorable(completion: Completion, *, tokenizer_hash: str) -> bool:
    """Whether `completion_ids` gives what was sampled: reasoning and tool calls exist only as stored token ids."""
    return _has_ids(completion, tokenizer_hash) or not (completion.message.reasoning or completion.message.tool_calls)


def completion_ids(
    tokenizer: Tokenizer, completion: Completion, *, tokenizer_hash: str, stop_token_id: int
) -> list[int]:
    """Token ids of the completion as sampled, with the stop token unless a length limit cut it.

    Args:
        tokenizer: The policy's tokenizer.
        completion: Its stored token ids are used when they came from this tokenizer, else its text.
        tokenizer_hash: Hash of `tokenizer`, computed once by the caller.
        stop_token_id: What generation stops on, see `stop_token_id`.
    """
    if _has_ids(completion, tokenizer_hash):
        ids = list(completion.token_ids or ())
    else:
        # A model that writes "<|im_end|>" as text did not stop there, so text never becomes a special token.
        encoded = tokenizer(completion.text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        ids = list(encoded["input_ids"])
    if completion.finish_reason != "length" and ids[-1:] != [stop_token_id]:
        ids.append(stop_token_id)
    return ids


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of how text becomes ids: vocabulary, merges, normalizer, added tokens; not the chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        content = json.loads(backend.to_str())
        # Left behind by the last call, no property of the tokenizer.
        for state in ("padding", "truncation"):
            content.pop(state, None)
    else:
        content = [type(tokenizer).__name__, tokenizer.get_vocab(), sorted(tokenizer.all_special_ids)]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def stop_token_id(tokenizer: Tokenizer, generation_config: Any = None) -> int:
    """The token that ends an assistant's turn and on which generation stops.

    The generation config says what stops generation. Where it names several tokens (Llama 3: end of text, end of
    message, end of turn) the one that the chat template writes after an assistant's turn is meant.

    Raises:
        ConfigError: Neither generation config, chat template nor tokenizer names such a token.
    """
    named = getattr(generation_config, "eos_token_id", None)
    stops = [named] if isinstance(named, int) else list(named or ())
    after_answer = _ids_after_answer(tokenizer)
    allowed = set(stops or tokenizer.all_special_ids)
    end_of_turn = next((token for token in after_answer if token in allowed), None)
    if end_of_turn is not None:
        return end_of_turn
    if tokenizer.eos_token_id is not None and (not stops or tokenizer.eos_token_id in stops):
        return int(tokenizer.eos_token_id)
    if stops:
        return int(stops[0])
    raise ConfigError("the tokenizer names no end-of-sequence token and the model has no generation config with one")


def _require_template(tokenizer: Tokenizer) -> None:
    if not tokenizer.chat_template:
        raise ConfigError(
            "the policy's tokenizer has no chat template, so messages cannot be rendered; "
            "use an instruction-tuned model or add chat_template.jinja to the model folder"
        )


def _has_ids(completion: Completion, tokenizer_hash: str) -> bool:
    return completion.token_ids is not None and completion.tokenizer_hash == tokenizer_hash


def _ids_after_answer(tokenizer: Tokenizer) -> list[int]:
    """What the template writes after the answer that ends a conversation."""
    if not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": _PROBE_USER}, {"role": "assistant", "content": _PROBE_ANSWER}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError as error:
        raise ConfigError(f"the chat template cannot render a user and an assistant turn: {error}") from error
    _, _, tail = text.rpartition(_PROBE_ANSWER)
    return list(tokenizer(tail, add_special_tokens=False)["input_ids"])
