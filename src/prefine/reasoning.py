"""Reasoning that a model writes into its text, between tags, and the answer behind it."""

import re
from typing import Literal, NamedTuple

from prefine.records import Completion

ReasoningInText = Literal["split", "keep"]
"""Split off: kept as the message's reasoning, neither judged nor part of the text. Or keep it."""

_TAGS = (
    (
        r"<(?P<tag>(?:\w+[:_])?think\w*|thought\w*|reason\w*|scratchpad)(?:\s[^<>]*)?>",
        r"</(?P=tag)>",
    ),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>(?:<\|START_RESPONSE\|>)?"),
    (
        r"(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>",
        r"<\|end\|><\|start\|>assistant<\|channel\|>final<\|message\|>",
    ),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    ("◁think▷", "◁/think▷"),
)
# Tags count at the beginning only: an answer may well speak of them.
_FLAGS = re.DOTALL | re.IGNORECASE
_CLOSED = [re.compile(rf"\s*{start}(.*?){end}\s*", _FLAGS) for start, end in _TAGS]
_CUT = [re.compile(rf"\s*{start}(.*)", _FLAGS) for start, _ in _TAGS]
# A template may open the reasoning as the end of the prompt, so that the text has its end only. It
# stands on a line of its own there.
_CLOSED_ONLY = re.compile(r"(?P<thought>(?:(?!<think>).)*?\n)</think>\s*?(?:\n\s*|\Z)", re.DOTALL)


class SplitText(NamedTuple):
    """The text of an answer, and the reasoning before it; None if there was none."""

    reasoning: str | None
    answer: str


def split_reasoning(text: str) -> SplitText:
    """Return reasoning and answer of a text that begins with reasoning between tags.

    The tags are those that models write: `<think>`, `<thinking>`, `<thought>`, `<reasoning>`,
    `[THINK]` and the like. Reasoning that was cut before its end leaves an empty answer. An empty
    pair of tags is taken off, too.
    """
    thoughts: list[str] = []
    rest = text
    while found := next(filter(None, (pattern.match(rest) for pattern in _CLOSED)), None):
        thoughts.append(found[found.lastindex or 1].strip())
        rest = rest[found.end() :]
    if rest != text:
        return SplitText("\n\n".join(filter(None, thoughts)) or None, rest)
    if found := _CLOSED_ONLY.match(text):
        return SplitText(found["thought"].strip() or None, text[found.end() :])
    for pattern in _CUT:
        if found := pattern.match(text):
            return SplitText(found[found.lastindex or 1].strip() or None, "")
    return SplitText(None, text)


def without_reasoning(completion: Completion) -> Completion:
    """Return the completion with the reasoning in its text moved to its message's reasoning.

    A completion whose reasoning came apart from its text stays what it is.
    """
    reasoning, answer = split_reasoning(completion.text)
    if completion.message.reasoning or answer == completion.text:
        return completion
    message = completion.message.model_copy(update={"reasoning": reasoning, "content": answer})
    return completion.model_copy(update={"message": message})
