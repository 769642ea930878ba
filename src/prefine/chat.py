"""Messages to token ids, given a tokenizer: what the model reads (the prompt) and what is scored (the completion).

A prompt and a completion are tokenised apart and concatenated, never merged again, so that the
prompt is shared whole and no text of it is scored.
"""

import hashlib
import inspect
import json
import re
from typing import Any, Protocol

from jinja2 import TemplateError

from prefine.errors import ConfigError, DataError
from prefine.records import Completion, Message, Prompt

_PROBE_USER = "Question?"
_PROBE_ANSWER = "Answer"
_OPENED = re.compile(r"<((?:think|reason|thought)\w*)>(\s*)\Z")


class Tokenizer(Protocol):
    """What is used of a `transformers` tokenizer."""

    chat_template: Any
    eos_token_id: Any
    all_special_ids: Any
    added_tokens_decoder: Any

    def decode(self, token_ids: Any, **options: Any) -> Any:
        """Text of token ids."""

    def __call__(self, text: str, **options: Any) -> Any:
        """Encode a text."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render messages, as text or token ids."""


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Token ids of the prompt up to where the assistant starts to write.

    A last message of the assistant is a prefill: the model continues it instead of opening a turn.
    Special tokens that are written in the messages stay text: only the template's own take effect.

    Raises:
        ConfigError: The tokenizer has no chat template, or transformers is too old to keep a
            special token as text.
        DataError: The template refuses these messages, or the tokenizer cannot keep a special token
            as text.
    """
    options = {"tokenize": True, "return_dict": False}
    if _mentions_special(
        tokenizer, prompt.model_dump_json(include={"messages", "tools", "chat_template_kwargs"})
    ):
        # Only then: the library's safeguard also turns words such as a prefilled <think> into text.
        _require_safeguard(tokenizer, prompt)
        options["sanitize_control_tokens"] = True
    try:
        return list(_rendered(tokenizer, prompt, **options))
    except ValueError as error:
        raise DataError(f"{_name(prompt)}: cannot be turned into tokens: {error}") from error


def completion_ids(
    tokenizer: Tokenizer,
    prompt: Prompt,
    completion: Completion,
    *,
    tokenizer_hash: str,
    stop_token_id: int,
) -> list[int] | None:
    """Token ids of the completion as sampled, with the stop token unless a length limit cut it.

    Stored token ids of this tokenizer are taken as they are, else the text. Reasoning and tool
    calls are no text: they are taken as the chat template writes them after the prompt.

    Args:
        tokenizer: The policy's tokenizer.
        prompt: What was asked.
        completion: The answer.
        tokenizer_hash: Hash of `tokenizer`, computed once by the caller.
        stop_token_id: What generation stops on, see `stop_token_id`.
    Returns: None if there are reasoning or tool calls which the template does not write after this
        prompt, or if the prompt ends inside reasoning that the text never leaves.
    """
    message = completion.message
    if has_stored_ids(completion, tokenizer_hash=tokenizer_hash):
        ids = list(completion.token_ids or ())
    elif message.reasoning or message.tool_calls:
        written = _written_by_template(tokenizer, prompt, message, stop_token_id)
        if written is None:
            return None
        # The template's own tokens take effect; there are no others, or it would be None.
        ids = list(tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"])
    else:
        text = continued_text(tokenizer, prompt, completion)
        if text is None:
            return None
        # A model that writes "<|im_end|>" as text did not stop there, so text never becomes a
        # special token.
        encoded = tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        ids = list(encoded["input_ids"])
    if completion.finish_reason != "length" and ids[-1:] != [stop_token_id]:
        ids.append(stop_token_id)
    return ids


def continued_text(tokenizer: Tokenizer, prompt: Prompt, completion: Completion) -> str | None:
    """The text of a completion as it goes on behind the prompt.

    A template may open the reasoning itself, as a last "<think>" of the prompt. An answer that was
    stored with that tag must not open it twice.

    Returns: None if the prompt ends inside reasoning that a finished text never leaves.
    """
    text = completion.text
    # Rendering takes long, and few templates do this; a prefill was written by somebody who knows
    # how it goes on.
    if not re.search(r"<(?:think|reason|thought)", str(tokenizer.chat_template)) or _is_prefilled(
        prompt
    ):
        return text
    opened = _OPENED.search(_rendered(tokenizer, prompt, tokenize=False))
    if opened is None:
        return text
    tag, space = opened.groups()
    if text.lstrip().startswith(f"<{tag}>"):
        text = text.lstrip().removeprefix(f"<{tag}>").removeprefix(space)
    return text if f"</{tag}>" in text or completion.finish_reason == "length" else None


def text_after_answer(tokenizer: Tokenizer, prompt: Prompt, completion: Completion) -> str | None:
    """What the template writes behind this answer: the end of a turn; for comparison, not for training.

    Returns: None if it does not write the answer right behind the prompt.
    """
    if _is_prefilled(prompt):
        return None
    before = _rendered(tokenizer, prompt, tokenize=False)
    try:
        whole = _rendered(tokenizer, prompt, completion.message, tokenize=False)
    except DataError:
        return None
    # Templates may strip an answer, and put a space before it.
    written, answer = whole[len(before) :].lstrip(), completion.text.strip()
    return (
        written[len(answer) :] if whole.startswith(before) and written.startswith(answer) else None
    )


def joint_ids(tokenizer: Tokenizer, prompt: Prompt, text: str) -> list[int]:
    """Token ids of the rendered prompt and a text behind it, tokenised together: for comparison, not for training."""
    rendered = _rendered(tokenizer, prompt, tokenize=False) + text
    return list(tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])


def has_stored_ids(completion: Completion, *, tokenizer_hash: str) -> bool:
    """Whether the completion carries token ids of this tokenizer."""
    return completion.token_ids is not None and completion.tokenizer_hash == tokenizer_hash


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of how text becomes ids: vocabulary, merges, normalizer, added tokens; not the chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        content = json.loads(backend.to_str())
        # Left behind by the last call, no property of the tokenizer.
        for state in ("padding", "truncation"):
            content.pop(state, None)
    else:
        content = [
            type(tokenizer).__name__,
            tokenizer.get_vocab(),
            sorted(tokenizer.all_special_ids),
        ]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def stop_token_id(tokenizer: Tokenizer, generation_config: Any = None) -> int:
    """The token that ends an assistant's turn and on which generation stops.

    The generation config says what stops generation. Where it names several tokens (Llama 3: end of
    text, end of message, end of turn) the one that the chat template writes after an assistant's
    turn is meant.

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
    raise ConfigError(
        "the tokenizer names no end-of-sequence token and the model has no generation config with "
        "one"
    )


def _rendered(tokenizer: Tokenizer, prompt: Prompt, *answer: Message, **options: Any) -> Any:
    """What the template makes of the prompt, and of an answer behind it; text or token ids, as `options` say."""
    if not tokenizer.chat_template:
        raise ConfigError(
            "the policy's tokenizer has no chat template, so messages cannot be rendered; "
            "use an instruction-tuned model or add chat_template.jinja to the model folder"
        )
    prefilled = not answer and _is_prefilled(prompt)
    try:
        return tokenizer.apply_chat_template(
            [_as_templates_read(message) for message in (*prompt.messages, *answer)],
            tools=list(prompt.tools) if prompt.tools is not None else None,
            add_generation_prompt=not answer and not prefilled,
            continue_final_message=prefilled,
            **prompt.chat_template_kwargs,
            **options,
        )
    except Exception as error:  # a template is a program, which may raise anything
        reason = (
            str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        )
        raise DataError(
            f"{_name(prompt)}: the chat template refuses its messages: {reason}"
        ) from error


def _is_prefilled(prompt: Prompt) -> bool:
    return prompt.messages[-1].role == "assistant"


def _as_templates_read(message: Message) -> dict[str, Any]:
    """The message with its reasoning under the name that templates know."""
    fields = message.chat()
    return fields | {"reasoning_content": message.reasoning} if message.reasoning else fields


def _written_by_template(
    tokenizer: Tokenizer, prompt: Prompt, message: Message, stop_token_id: int
) -> str | None:
    """What the template writes between the prompt and the end of the turn, if the prompt stays as it was."""
    if _is_prefilled(prompt) or _mentions_special(tokenizer, message.model_dump_json()):
        return None
    before = _rendered(tokenizer, prompt, tokenize=False)
    try:
        whole = _rendered(tokenizer, prompt, message, tokenize=False)
    except DataError:
        return None
    if not whole.startswith(before):
        return None
    written, end, after = whole[len(before) :].rpartition(tokenizer.decode([stop_token_id]))
    # A template may pass over what it does not know, and the answer would be another one.
    parts = [message.reasoning or "", *(_function_name(call) for call in message.tool_calls or ())]
    complete = all(part.strip() in written for part in parts)
    return written if end and complete and not after.strip() else None


def _function_name(call: Any) -> str:
    function = call.get("function", call)
    return str(function.get("name", "")) if isinstance(function, dict) else ""


def _mentions_special(tokenizer: Tokenizer, text: str) -> bool:
    added = tokenizer.added_tokens_decoder.values()
    return any(token.special and token.content in text for token in added if token.content.strip())


def _require_safeguard(tokenizer: Tokenizer, prompt: Prompt) -> None:
    if "sanitize_control_tokens" not in inspect.signature(tokenizer.apply_chat_template).parameters:
        raise ConfigError(
            f"{_name(prompt)}: it has a special token in its text, which this version of "
            "transformers would obey; "
            "install a newer one (5.23 is known to do), or take the row out"
        )


def _name(prompt: Prompt) -> str:
    return f"{prompt.source}, prompt {prompt.id}" if prompt.source else f"prompt {prompt.id}"


def _ids_after_answer(tokenizer: Tokenizer) -> list[int]:
    """What the template writes after the answer that ends a conversation."""
    if not tokenizer.chat_template:
        return []
    turns = [
        {"role": "user", "content": _PROBE_USER},
        {"role": "assistant", "content": _PROBE_ANSWER},
    ]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception as error:  # as above
        raise ConfigError(
            "the chat template cannot render a user and an assistant turn "
            f"({type(error).__name__}: {error}); "
            "repair chat_template.jinja in the model folder"
        ) from error
    _, _, tail = text.rpartition(_PROBE_ANSWER)
    return list(tokenizer(tail, add_special_tokens=False)["input_ids"])
