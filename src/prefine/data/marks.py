"""Marks of chat templates and of reasoning inside texts: rows that have them are counted."""

import re

from prefine.data.import_report import ImportReport
from prefine.reasoning import split_reasoning
from prefine.records import Prompt

_START = (
    r"(?:<s>|<bos>|<BOS_TOKEN>|\[gMASK\]<sop>|<\|(?:begin_of_text|startoftext|endoftext)\|>"
    r"|<[|｜]begin[▁_]of[▁_]sentence[|｜]>)?"
)
_ASKER = r"(?:system|user|developer)"
# How a prompt begins in the templates of ChatML and Phi 4, Llama 3 and 4, Gemma, Llama 2 and
# Mistral, Zephyr and GLM, DeepSeek, gpt-oss, Command R, Granite.
_TEMPLATED = re.compile(
    rf"\s*{_START}\s*(?:<\|im_start\|>\s*{_ASKER}\b|<\|(?:start_header_id|header_start)\|>"
    rf"|<start_of_turn>|\[(?:INST|SYSTEM_PROMPT)\]|<\|{_ASKER}\|>|<[|｜]User[|｜]>"
    rf"|<\|start\|>{_ASKER}\b|<\|START_OF_TURN_TOKEN\|>|<\|start_of_role\|>)"
)
# How a prompt ends in templates of plain words: Alpaca's, Vicuna's, those of Guanaco and HH.
_OPENED = re.compile(
    r"(?:\A|\s)(?P<mark>### ?(?:Response|Assistant):?|(?:ASSISTANT|Assistant):)\s*\Z"
)
# What tables write where a text is missing, once it has become a text.
_MISSING = {"nan", "<na>", "#n/a"}
# How an answer ends if it was cut out of a text in a chat template.
_ENDED = re.compile(
    r"(?:</s>|<eos>|<end_of_turn>|<\|(?:im_end|eot_id|eot|end|return|endoftext|end_of_text)\|>"
    r"|<\|END_(?:OF_TURN_TOKEN|RESPONSE)\|>|<[|｜]end[▁_]of[▁_]sentence[|｜]>)\s*\Z"
)

# Where a picture, a video or a sound stood: the marks of LLaVA and those of chat templates where
# a text or a line begins or ends, numbered ones anywhere.
_NUMBERED = r"<\|?(?:image|video|audio)[ _-]?\d+\|?>"
_BARE = (
    r"(?:<(?:image|video|audio|ImageHere|image_placeholder)>"
    r"|<\|(?:image|video|audio|image_pad|video_pad|vision_start|begin_of_image)\|>"
    r"|<start_of_image>|\[IMG\])"
)
_PLACEHOLDER = re.compile(
    rf"{_NUMBERED}|^[^\S\n]*(?P<first>{_BARE})|(?P<last>{_BARE})[^\S\n]*$",
    re.MULTILINE,
)


def remark_placeholder(prompt: Prompt, where: str, report: ImportReport) -> None:
    """Count a prompt with a mark that stands for a picture, a video or a sound."""
    for message in prompt.messages:
        found = _PLACEHOLDER.search(message.content)
        if found is None:
            continue
        mark = found["first"] or found["last"] or found[0]
        # A tag that is closed is one of HTML or SVG.
        if f"</{mark[1:]}" in message.content:
            continue
        report.remark(
            "a mark of a picture, video or sound that is not there",
            f"{where}: the prompt has {mark!r}, which stands for a picture, a video or a sound; "
            "these cannot be read, and the mark would be plain text: remove the row, or cut the "
            "mark off if the text does not need it",
            where,
        )
        return


def remark_templated(prompt: Prompt, where: str, report: ImportReport) -> None:
    """Count a prompt whose text already has the marks of a chat template."""
    if len(prompt.messages) > 1:
        return
    if begins := _TEMPLATED.match(prompt.text):
        found = f"begins with {begins[0].strip()!r}"
    elif ends := _OPENED.search(prompt.text):
        found = f"ends with {ends['mark']!r}"
    else:
        return
    report.remark(
        "already in a chat template",
        f"{where}: the prompt {found}, a mark of a chat template, and would be one user turn in "
        "the template once more: give it as messages, or for prompts that are whole already, set "
        "chat_template: none beside the policy's path",
        where,
    )


def remark_marks_of_answer(text: str, where: str, report: ImportReport) -> None:
    """Count an answer that is "nan", or ends with a mark, or has the end of reasoning inside."""
    if text.strip().lower() in _MISSING:
        report.remark(
            "an answer that is the word for a missing value",
            f"{where}: the answer is {text.strip()!r}, which a tool writes where a text is "
            "missing: fill it, or remove the row",
            where,
        )
    elif ended := _ENDED.search(text):
        report.remark(
            "answer ends with the end of a turn",
            f"{where}: the answer ends with {ended[0].strip()!r}, which a model would be trained "
            "to spell out before it stops: cut it off",
            where,
        )
    elif "</think>" in text and split_reasoning(text).answer == text:
        report.remark(
            "</think> inside an answer",
            f"{where}: the answer has '</think>' behind text that does not begin with '<think>', "
            "so it is judged and trained on as it stands: put '<think>' before the reasoning to "
            "have it split off, or remove it",
            where,
        )
