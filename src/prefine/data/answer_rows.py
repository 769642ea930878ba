"""The prompt and the answers of one row in our own columns, or an error that names the row."""

from typing import Any

from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.layouts.protocol import (
    PROMPT_NAMES,
    SourceRow,
    has,
    is_missing,
    is_text,
    rest,
    show,
)
from prefine.data.marks import remark_marks_of_answer, remark_placeholder, remark_templated
from prefine.data.messages import messages_of, reason, storable, structured
from prefine.errors import DataError
from prefine.models import finish_words
from prefine.records import Completion, Prompt, content_hash

TEXT_NAMES = ("text", "content", "completion", "message")
"""The fields of a completion that may hold its text."""

_ANSWERS = ("completions", "chosen", "rejected")
Answers = tuple[Prompt, list[Completion]]
_REPEATS = "all answers begin with the prompt"
# Arguments of `apply_chat_template` itself, or given by us.
_RESERVED = {
    "conversation",
    "messages",
    "tools",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "tokenizer_kwargs",
    "return_assistant_tokens_mask",
    "sanitize_control_tokens",
}


def prompt_of_row(row: SourceRow, report: ImportReport, *, used: tuple[str, ...] = ()) -> Prompt:
    """Return the prompt of a row; columns that are no part of it and not `used` are its metadata.

    Raises:
        UselessRow: It is empty.
        DataError: It is missing, or no prompt.
    """
    present = [name for name in PROMPT_NAMES if name in row.values]
    if not present:
        raise DataError(
            f"{row.where}: no column 'prompt' (nor 'instruction' or 'messages'); "
            f"{has(row.values)}; map it with columns: {{prompt: YOUR_COLUMN}}"
        )
    if len(present) > 1:
        raise DataError(
            f"{row.where}: both {' and '.join(map(repr, present))} could be the prompt; map one "
            f"with columns, such as {{prompt: {present[0]}}}, and the other becomes metadata"
        )
    (name,) = present
    messages = messages_of(row.values[name], f"{row.where}, {name}", role="user", report=report)
    if messages[-1].role == "assistant" and row.values.get("prefill") not in (True, "true", "True"):
        raise DataError(
            f"{row.where}, {name}: the last message is the assistant's, so there is nothing to "
            "answer; end the prompt with a user turn, or add a column prefill: true if the answer "
            "goes on from there"
        )
    arguments = structured(row.values.get("chat_template_kwargs"))
    if isinstance(arguments, dict) and (reserved := sorted(_RESERVED & arguments.keys())):
        raise DataError(
            f"{row.where}: chat_template_kwargs has {', '.join(reserved)}, which prefine sets "
            "itself; only arguments of the template itself belong there, such as enable_thinking: "
            "remove it"
        )
    metadata = rest(row.values, name, "tools", "chat_template_kwargs", *_ANSWERS, *used)
    try:
        prompt = Prompt.make(
            messages,
            tools=structured(row.values.get("tools")),
            chat_template_kwargs=arguments,
            source=row.where,
            metadata=storable(metadata, row.where, report),
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"{row.where}: {reason(error)}") from error
    remark_templated(prompt, row.where, report)
    remark_placeholder(prompt, row.where, report)
    _remark_context(prompt, row.where, report)
    return prompt


def _remark_context(prompt: Prompt, where: str, report: ImportReport) -> None:
    """Count a row with a `context` that is in none of the messages."""
    context = prompt.metadata.get("context")
    if not is_text(context):
        return
    if not any(context.strip() in message.content for message in prompt.messages):
        report.remark(
            "a context that is no part of the prompt",
            f"{where}: context holds {show(context)}, which is kept as metadata and not read by "
            "the model: write it into the prompt, or rename the column with columns: "
            "{unused_context: context}",
            where,
        )


def answers_of_row(row: SourceRow, report: ImportReport, *, several_turns: bool = False) -> Answers:
    """Return the prompt of a row with its completions; empty ones are counted.

    Args:
        row: In our own columns.
        report: Counts what is left out.
        several_turns: Whether answers may have several, which no judge can be asked about.

    Raises:
        UselessRow: The prompt is empty, or no completion is left.
        DataError: The row has no completions, or one that cannot be read.
    """
    if "completions" not in row.values:
        raise DataError(
            f"{row.where}: no column 'completions'; {has(row.values)}; map it with columns"
        )
    prompt = prompt_of_row(row, report)
    items = row.values["completions"]
    if not isinstance(items, list):
        raise DataError(f"{row.where}: completions must be a list, got {show(items)}")
    # Numbered without the empty ones: an id must not depend on what was dropped before it.
    found: list[Completion] = []
    for place, item in enumerate(items):
        where = row.places[place] if row.places else f"{row.where}, completion {place}"
        try:
            answer = completion_of_item(prompt, len(found), _null_as_empty(item), where, report)
            if answer.earlier_turns and not several_turns:
                raise UselessRow(
                    "answer of several turns",
                    f"{where}: an answer of {len(answer.messages)} turns cannot be judged; pairs, "
                    "lists and labels may have them: read the rows as these, or move earlier turns "
                    "into the prompt",
                )
            found.append(answer)
        except UselessRow as useless:
            report.drop(useless, where)
    if not found:
        raise UselessRow(
            "no answer left",
            f"{row.where}: completions has no text at all ({show(items)}); remove the row",
        )
    remark_repeated_prompt(prompt, found, row.where, report)
    return prompt, found


def remark_repeated_prompt(
    prompt: Prompt, answers: list[Completion], where: str, report: ImportReport
) -> None:
    """Count a row whose answers all begin with the text of the prompt.

    One answer may well quote its question, and any number may begin with one word.
    """
    asked = prompt.text.strip()
    if len(answers) < 2 or len(asked.split()) < 2:
        return
    if all(answer.text.lstrip().startswith(asked) for answer in answers):
        report.remark(
            "both answers begin with the prompt" if len(answers) == 2 else _REPEATS,
            f"{where}: the answers begin with the prompt's text {show(asked)}, which would be "
            "trained on as if the model had written it: cut it off",
            where,
        )


def _null_as_empty(item: Any) -> Any:
    """Return an answer with an empty text for the null that a generator writes of a failed call."""
    if is_missing(item):
        return ""
    if not isinstance(item, dict):
        return item
    name = next((name for name in TEXT_NAMES if name in item), None)
    return item if name is None or not is_missing(item[name]) else item | {name: ""}


def _finish_reason(value: Any, where: str) -> Any:
    """Return how an answer ended, in our words where it is one of those of servers.

    Raises:
        UselessRow: It is the beginning of an answer that failed.
    """
    word = value.strip().lower() if isinstance(value, str) else value
    if not word or word == "unknown":
        return "unknown"
    if not isinstance(word, str):
        return word
    if finish_words.is_filtered(word):
        return "content_filter"
    if finish_words.is_broken(word):
        raise UselessRow(
            "answer broke off",
            f"{where}: finish_reason is {show(value)}, so the text is the beginning of an answer "
            "that failed; remove it",
        )
    ours = finish_words.finish_reason(word)
    return value if ours == "unknown" else ours


def completion_of_item(
    prompt: Prompt, index: int, item: Any, where: str, report: ImportReport
) -> Completion:
    """Return the completion that a text or an object with a text is.

    Args:
        prompt: What it answers.
        index: Its number among the answers to the prompt.
        item: The text, or an object whose other fields are metadata.
        where: The place of the item.
        report: Counts the fields that cannot be kept.

    Raises:
        UselessRow: It is empty.
        DataError: It is none of these.
    """
    values = {"text": item} if isinstance(item, str) else item
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a text or an object with a text, got {show(item)}")
    name = next((name for name in TEXT_NAMES if name in values), None)
    if name is None:
        raise DataError(
            f"{where}: no field 'text' (nor {', '.join(TEXT_NAMES[1:])}); {has(values)}"
        )
    *earlier, message = messages_of(values[name], where, role="assistant", report=report)
    if (earlier or [message])[0].role != "assistant" or message.role != "assistant":
        raise DataError(
            f"{where}: an answer must be one assistant turn, or turns that begin and end with one, "
            f"got roles {[turn.role for turn in (*earlier, message)]}; move earlier turns into the "
            "prompt, or name a layout whose answers repeat the prompt"
        )
    ended = _finish_reason(values.get("finish_reason"), where)
    remark_marks_of_answer(message.content, where, report)
    turns = [turn.chat() for turn in (*earlier, message)]
    model = values.get("model") or ""
    metadata = rest(values, name, "model", "finish_reason")
    try:
        return Completion.model_validate(
            {
                "id": content_hash(prompt.id, index, str(model), turns if earlier else turns[0]),
                "prompt_id": prompt.id,
                "sample_index": index,
                "message": message,
                "earlier_turns": earlier,
                "model": model,
                "finish_reason": ended,
                "metadata": storable(metadata, where, report),
            }
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {reason(error)}") from error
