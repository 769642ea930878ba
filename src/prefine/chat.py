"""Messages → token ids: the prompt, which the model reads, and the completion, which is scored.

A prompt and a completion are tokenised apart and concatenated, never merged again, so that the
prompt is shared whole and no text of it is scored.
"""

import hashlib
import inspect
import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from prefine.errors import ConfigError, DataError
from prefine.reasoning import split_reasoning
from prefine.records import Completion, Message, Prompt

if TYPE_CHECKING:
    from prefine.tokenizer import Tokenizer

_PROBE_ANSWER = "Answer"
_OPENED = re.compile(r"<((?:think|reason|thought)\w*)>(\s*)\Z")


PLAIN_TEMPLATE = (
    "{%- if messages[0].role != 'user' or messages | length > 2 or tools %}"
    "{{- raise_exception('with chat_template: none a prompt is one text: write a system prompt, "
    "earlier turns and tools into it, or use a template') }}{%- endif %}"
    "{{- messages[0].content }}"
    "{%- if messages | length == 2 %}{{- messages[1].content + eos_token }}{%- endif %}"
)
"""The template of models that continue plain texts: the prompt is its text, special tokens too."""

START_OF_TEXT = (
    "{%- if not messages[0].content.startswith(bos_token) %}{{- bos_token }}{%- endif %}"
)
"""Before `PLAIN_TEMPLATE`, for tokenizers that put a start token before a text."""


class TemplateRefusal(DataError):
    """A chat template that takes no system turn, or no turns in this order, refused a prompt."""


def prompt_ids(tokenizer: "Tokenizer", prompt: Prompt) -> list[int]:
    """Return the token ids of the prompt up to where the assistant starts to write.

    A last message of the assistant is a prefill: the model continues it instead of opening a turn.
    Special tokens that are written in the messages stay text: only the template's own take effect.
    Without a template (`PLAIN_TEMPLATE`) a prompt is what the model reads, special tokens included.

    Raises:
        ConfigError: The tokenizer has no chat template, or transformers is too old to keep a
            special token as text.
        DataError: The template refuses these messages, or the tokenizer cannot keep a special token
            as text.
    """
    options = {"tokenize": True, "return_dict": False}
    written = prompt.model_dump_json(include={"messages", "tools", "chat_template_kwargs"})
    is_plain = str(tokenizer.chat_template).endswith(PLAIN_TEMPLATE)
    if _mentions_special(tokenizer, written) and not is_plain:
        # A user who writes "<|im_end|>" must not end the turn. The library's safeguard keeps it as
        # text. It is used only then, because it also turns a prefilled <think> into text.
        _require_safeguard(tokenizer, prompt)
        options["sanitize_control_tokens"] = True
    try:
        return list(_rendered(tokenizer, prompt, **options))
    except ValueError as error:
        raise DataError(f"{_name(prompt)}: cannot be turned into tokens: {error}") from error


def prompt_text(tokenizer: "Tokenizer", prompt: Prompt) -> str | None:
    """Return a text that the tokenizer itself turns into the ids of the prompt.

    For servers that take texts and put the tokenizer's start token before them.

    Returns: None if there is none, such as for a prompt with a special token that stays text.
    """
    ids = prompt_ids(tokenizer, prompt)
    text = str(_rendered(tokenizer, prompt, tokenize=False))
    start = str(getattr(tokenizer, "bos_token", None) or "")
    for candidate in (text, text.removeprefix(start)):
        if list(tokenizer(candidate, verbose=False)["input_ids"]) == ids:
            return candidate
    return None


def completion_ids(
    tokenizer: "Tokenizer",
    prompt: Prompt,
    completion: Completion,
    *,
    tokenizer_hash: str,
    stop_token_id: int,
) -> list[int] | None:
    """Return the token ids of the completion as sampled, with the stop token unless it was cut.

    Stored token ids of this tokenizer are returned unchanged; otherwise the text is tokenised.
    Reasoning and tool calls are tokenised as the chat template writes them after the prompt.
    Answers of several turns are `turns.answer_ids`.

    Args:
        tokenizer: The policy's tokenizer.
        prompt: The prompt.
        completion: Its completion.
        tokenizer_hash: Hash of `tokenizer`, computed once by the caller.
        stop_token_id: The token that generation stops on, see `stop_token_id`.
    Returns: None if there are reasoning or tool calls which the template does not write after this
        prompt, or if the prompt ends inside reasoning that the text never leaves.
    """
    message = completion.message
    # First choice are the sampled ids: text may tokenise to others, and the policy's
    # log-probabilities are those of what it wrote. Second is the template, which alone knows how
    # reasoning and calls are written. The rest is plain text behind the prompt.
    if has_stored_ids(completion, tokenizer_hash=tokenizer_hash):
        ids = list(completion.token_ids or ())
    else:
        by_template = bool(message.reasoning or message.tool_calls)
        text = (
            _written_by_template(tokenizer, prompt, message, stop_token_id)
            if by_template
            else continued_text(tokenizer, prompt, completion)
        )
        if text is None and by_template:
            text = _behind_opened_reasoning(tokenizer, prompt, message)
        if text is None:
            return None
        # A model that writes "<|im_end|>" as text did not stop there, so text never becomes a
        # special token. Text of the template does: it has no special tokens but its own.
        if by_template or _only_tags_are_special(tokenizer, text):
            ids = _ids_behind(tokenizer, prompt, text) or _ids_of(tokenizer, text)
        else:
            ids = _spelled_ids(tokenizer, prompt, text)
    # A completion that was cut by a length limit did not stop: a stop token would be invented.
    if completion.finish_reason != "length" and ids[-1:] != [stop_token_id]:
        ids.append(stop_token_id)
    return ids


def conversation_ids(tokenizer: "Tokenizer", prompt: Prompt, completion: Completion) -> list[int]:
    """Return the ids of a whole conversation as a reward model reads it, all by its template.

    Raises:
        TemplateError: The template refuses it.
    """
    return list(
        tokenizer.apply_chat_template(
            [message.chat() for message in (*prompt.messages, *completion.messages)],
            tools=None if prompt.tools is None else list(prompt.tools),
            tokenize=True,
            return_dict=False,
        )
    )


def may_be_refused(prompt: Prompt) -> bool:
    """Return False for a single user turn: templates refuse roles and tools, not what is said."""
    one_turn = len(prompt.messages) == 1 and prompt.messages[0].role == "user"
    return not one_turn or prompt.tools is not None


def check_prompt(tokenizer: "Tokenizer", prompt: Prompt) -> None:
    """Raise TemplateRefusal if the chat template does not take the prompt's messages."""
    _rendered(tokenizer, prompt, tokenize=False)


def check_template(tokenizer: "Tokenizer") -> None:
    """Raise ConfigError unless the template opens the assistant's turn where one is to be written.

    A template that ignores add_generation_prompt leaves out what stands before every answer, so a
    model would read and write a form that it has never seen.
    """
    probe = Prompt.from_text("Question?")
    try:
        asked = _rendered(tokenizer, probe, tokenize=False)
        answer = Message(role="assistant", content=_PROBE_ANSWER)
        whole = _rendered(tokenizer, probe, answer, tokenize=False)
    except TemplateRefusal:
        return  # `stop_token_id` says what is wrong with it
    # What the template writes behind an opened turn, such as Qwen 3's empty reasoning, is the
    # beginning of its own answers.
    question = [message.chat() for message in probe.messages]
    if (
        tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=False)
        != asked
    ):
        return
    header, found, _ = whole.removeprefix(asked).partition(_PROBE_ANSWER)
    if whole.startswith(asked) and found and header.strip():
        raise ConfigError(
            f"the chat template ignores add_generation_prompt: it writes {header!r} before an "
            "answer, and leaves it out where one is to be written; add to the template: "
            f"{{% if add_generation_prompt %}}{{{{ {header!r} }}}}{{% endif %}}; chat_template: "
            "FILE beside the model's path takes a template from a file"
        )


def _ids_behind(tokenizer: "Tokenizer", prompt: Prompt, text: str) -> list[int] | None:
    """Return the ids that a text has behind the rendered prompt, where they differ from its own.

    SentencePiece families put a blank in front of a text, which no answer behind a prompt has.

    Returns: None where the tokenizer treats the beginning of a text like any other place, or where
        prompt and text merge: then the prompt would not be the one that the model has read.
    """
    if not _marks_beginnings(tokenizer):
        return None
    before = prompt_ids(tokenizer, prompt)
    together = joint_ids(tokenizer, prompt, text)
    return together[len(before) :] if together[: len(before)] == before else None


def _spelled_ids(tokenizer: "Tokenizer", prompt: Prompt, text: str) -> list[int]:
    """Return the ids that a text has behind the prompt, its special tokens letter by letter.

    The prompt itself cannot be tokenised so. Where answers do not begin like texts, this one stands
    behind the end of a line.
    """
    alone = _ids_of(tokenizer, text, split_special_tokens=True)
    probe = _ids_behind(tokenizer, prompt, "Grass")
    if probe is None or probe == _ids_of(tokenizer, "Grass"):
        return alone
    line = _ids_of(tokenizer, "a\n")
    whole = _ids_of(tokenizer, f"a\n{text}", split_special_tokens=True)
    return whole[len(line) :] if whole[: len(line)] == line else alone


def _marks_beginnings(tokenizer: "Tokenizer") -> bool:
    """Return True if a text has other tokens at its beginning than behind the end of a line."""
    line = _ids_of(tokenizer, "a\n")
    return _ids_of(tokenizer, "a\nGrass")[len(line) :] != _ids_of(tokenizer, "Grass")


def _ids_of(tokenizer: "Tokenizer", text: str, **options: Any) -> list[int]:
    """Return the ids of a text by itself, without start and end tokens."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False, **options)["input_ids"])


def _only_tags_are_special(tokenizer: "Tokenizer", text: str) -> bool:
    """Return True if a text has no special token, or only those of its own reasoning.

    A tokenizer may know `<think>` as a special token, and then a model writes that token.
    """
    reasoning, answer = split_reasoning(text)
    return not _mentions_special(tokenizer, f"{reasoning or ''}{answer}")


def continued_text(tokenizer: "Tokenizer", prompt: Prompt, completion: Completion) -> str | None:
    """Return the text of a completion as it continues the rendered prompt.

    A template may write a space before every answer (Llama 2, Mistral), which the texts of answers
    do not have. It may open the reasoning itself, as a last "<think>" of the prompt; a completion
    that was stored with that tag must not open it twice.

    Returns: None if the prompt ends inside reasoning that a finished text never leaves.
    """
    text = completion.text
    opened = _opened_reasoning(tokenizer, prompt)
    if opened is None:
        space = (
            ""
            if _is_prefilled(prompt)
            else _space_before_answers(tokenizer, str(tokenizer.chat_template))
        )
        return text if text.startswith(space) else f"{space}{text}"
    tag, space = opened.groups()
    if text.lstrip().startswith(f"<{tag}>"):
        text = text.lstrip().removeprefix(f"<{tag}>").removeprefix(space)
    return text if f"</{tag}>" in text or completion.finish_reason == "length" else None


@lru_cache(maxsize=8)
def _space_before_answers(tokenizer: "Tokenizer", template: str) -> str:
    """Return the white space that its template writes between a prompt and its answer."""
    answer = Message(role="assistant", content=_PROBE_ANSWER)
    try:
        written = _after_prompt(tokenizer, Prompt.from_text("Question?"), answer) or ""
    except TemplateRefusal:
        return ""
    space, found, _ = written.partition(_PROBE_ANSWER)
    return space if found and space.isspace() else ""


def _opened_reasoning(tokenizer: "Tokenizer", prompt: Prompt) -> re.Match[str] | None:
    """Return the tag, and the space behind it, that the template opens at the end of the prompt."""
    # Rendering takes long, and few templates do this. A prefill is continued as it is.
    opens = re.search(r"<(?:think|reason|thought)", str(tokenizer.chat_template))
    if not opens or _is_prefilled(prompt):
        return None
    return _OPENED.search(_rendered(tokenizer, prompt, tokenize=False))


def _behind_opened_reasoning(
    tokenizer: "Tokenizer", prompt: Prompt, message: Message
) -> str | None:
    """Return reasoning and answer as they go on behind a tag that the template has opened."""
    opened = _opened_reasoning(tokenizer, prompt)
    hostile = _mentions_special(tokenizer, message.model_dump_json())
    if opened is None or hostile or message.tool_calls or not message.reasoning:
        return None
    return f"{message.reasoning}\n</{opened[1]}>\n\n{message.content}"


def text_after_answer(tokenizer: "Tokenizer", prompt: Prompt, completion: Completion) -> str | None:
    """Return the end of a turn as the template writes it; for comparison, not for training.

    Returns: None if it does not write the answer right behind the prompt.
    """
    written = _after_prompt(tokenizer, prompt, completion.message)
    # Templates may strip an answer, and put a space before it.
    answer = completion.text.strip()
    if written is None or not written.lstrip().startswith(answer):
        return None
    return written.lstrip()[len(answer) :]


def joint_ids(tokenizer: "Tokenizer", prompt: Prompt, text: str) -> list[int]:
    """Return the ids of prompt and text tokenised together; for comparison, not for training."""
    return _ids_of(tokenizer, _rendered(tokenizer, prompt, tokenize=False) + text)


def has_stored_ids(completion: Completion, *, tokenizer_hash: str) -> bool:
    """Return True if the completion has token ids of this tokenizer."""
    return completion.token_ids is not None and completion.tokenizer_hash == tokenizer_hash


def tokenizer_hash(tokenizer: Any) -> str:
    """Return a hash of vocabulary, merges, normalizer and added tokens; not of the template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        content = json.loads(backend.to_str())
        # Settings of the last call, not of the tokenizer.
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


def stop_token_id(tokenizer: "Tokenizer", generation_config: Any = None) -> int:
    """Return the token that ends an assistant's turn and on which generation stops.

    Where the generation config names several tokens (Llama 3: end of text, end of message, end of
    turn), it is the one that the chat template writes after an assistant's turn.

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


def _rendered(tokenizer: "Tokenizer", prompt: Prompt, *answer: Message, **options: Any) -> Any:
    """Render the prompt, and an answer after it, as text or token ids, depending on `options`."""
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
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        raise TemplateRefusal(
            f"{_name(prompt)}: the chat template refuses its messages: {kind}{error}; remove the "
            "row, or where it refuses the system turn, set system: merge beside the model's path: "
            "it becomes the beginning of the first user turn"
        ) from error


def _is_prefilled(prompt: Prompt) -> bool:
    return prompt.messages[-1].role == "assistant"


def _as_templates_read(message: Message) -> dict[str, Any]:
    """Return the message with its reasoning under the name that templates know."""
    fields = message.chat()
    return fields | {"reasoning_content": message.reasoning} if message.reasoning else fields


def _written_by_template(
    tokenizer: "Tokenizer", prompt: Prompt, message: Message, stop_token_id: int
) -> str | None:
    """Return the template's text between the prompt and the end of the turn, if it is complete."""
    if _mentions_special(tokenizer, message.model_dump_json()):
        return None
    written = _after_prompt(tokenizer, prompt, message)
    if written is None:
        return None
    text, end, after = written.rpartition(tokenizer.decode([stop_token_id]))
    # A template may skip what it does not know, and the answer would be another one.
    parts = [message.reasoning or "", *(_function_name(call) for call in message.tool_calls or ())]
    complete = all(part.strip() in text for part in parts)
    return text if end and complete and not after.strip() else None


def _after_prompt(tokenizer: "Tokenizer", prompt: Prompt, message: Message) -> str | None:
    """Return what the template writes after the prompt for an answer.

    Returns: None if the template refuses the answer, or renders the prompt differently before it:
        the model has read the prompt as it is rendered alone.
    """
    if _is_prefilled(prompt):
        return None
    before = _rendered(tokenizer, prompt, tokenize=False)
    try:
        whole = _rendered(tokenizer, prompt, message, tokenize=False)
    except DataError:
        return None
    return str(whole[len(before) :]) if whole.startswith(before) else None


def _function_name(call: Any) -> str:
    function = call.get("function", call)
    return str(function.get("name", "")) if isinstance(function, dict) else ""


def _mentions_special(tokenizer: "Tokenizer", text: str) -> bool:
    added = tokenizer.added_tokens_decoder.values()
    return any(token.special and token.content in text for token in added if token.content.strip())


def _require_safeguard(tokenizer: "Tokenizer", prompt: Prompt) -> None:
    if "sanitize_control_tokens" not in inspect.signature(tokenizer.apply_chat_template).parameters:
        raise ConfigError(
            f"{_name(prompt)}: it has a special token in its text, which this version of "
            "transformers would obey; install a newer one (5.23 is known to do), or take the row "
            "out"
        )


def _name(prompt: Prompt) -> str:
    return f"{prompt.source}, prompt {prompt.id}" if prompt.source else f"prompt {prompt.id}"


def _ids_after_answer(tokenizer: "Tokenizer") -> list[int]:
    """Return the ids of what the template writes after the last answer of a conversation."""
    if not tokenizer.chat_template:
        return []
    turns = [
        {"role": "user", "content": "Question?"},
        {"role": "assistant", "content": _PROBE_ANSWER},
    ]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception as error:  # as above
        raise ConfigError(
            "the chat template cannot render a user and an assistant turn "
            f"({type(error).__name__}: {error}); repair chat_template.jinja in the model folder"
        ) from error
    _, _, tail = text.rpartition(_PROBE_ANSWER)
    return list(tokenizer(tail, add_special_tokens=False)["input_ids"])
