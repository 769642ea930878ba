"""Marks of templates and of reasoning in users' texts: taken off, or counted."""

from typing import Any

import pytest

from prefine.data import entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import shaped
from prefine.errors import DataError
from prefine.records import PreferencePair

CHAT = "already in a chat template"
TURN_END = "answer ends with the end of a turn"


def pair_of(**changes: Any) -> tuple[PreferencePair, dict[str, int]]:
    row = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."} | changes
    report = ImportReport()
    (pair,) = entries.pairs(shaped([SourceRow("r.jsonl, line 1", row)]), report)
    return pair, dict(report.remarked)


@pytest.mark.parametrize(
    "prompt",
    [
        "<|im_start|>user<|im_sep|>hi<|im_end|><|im_start|>assistant<|im_sep|>",  # Phi 4
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\nhi<|eot|>",  # Llama 4
        "<s>[SYSTEM_PROMPT]x[/SYSTEM_PROMPT][INST]hi[/INST]",  # Mistral
        "<|start|>user<|message|>hi<|end|><|start|>assistant",  # gpt-oss
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>hi<|END_OF_TURN_TOKEN|>",  # Command R
        "<|start_of_role|>user<|end_of_role|>hi<|end_of_text|>",  # Granite
        "<|endoftext|><|user|>\nhi\n<|assistant|>\n",  # OLMo
        "[gMASK]<sop><|user|>\nhi<|assistant|>",  # GLM
        "Below is an instruction.\n\n### Instruction:\nName it\n\n### Response:",  # Alpaca
        "A chat. USER: hi ASSISTANT:",  # Vicuna
        "### Human: hi### Assistant:",  # Guanaco
    ],
)
def test_prompts_in_templates_of_other_families_are_counted(prompt: str) -> None:
    pair, remarks = pair_of(prompt=prompt)
    assert (pair.prompt.text, remarks) == (prompt, {CHAT: 1})


@pytest.mark.parametrize(
    "prompt",
    [
        "What does <|im_start|> mean?",
        "Explain the line '### Response:' of a template to me.",
        "Write a note to my assistant",
    ],
)
def test_prompts_that_speak_of_templates_are_not(prompt: str) -> None:
    assert pair_of(prompt=prompt) == (pair_of(prompt=prompt)[0], {})


@pytest.mark.parametrize(
    "mark",
    [
        "</s>",
        "<|im_end|>",
        "<|eot_id|>",
        "<end_of_turn>",
        "<|endoftext|>\n",
        "<｜end▁of▁sentence｜>",
    ],
)
def test_answers_that_end_with_a_mark_are_counted(mark: str) -> None:
    pair, remarks = pair_of(chosen=f"Blue.{mark}")
    assert (pair.chosen.text, remarks) == (f"Blue.{mark}", {TURN_END: 1})
    with pytest.raises(DataError, match=r"line 1, chosen: the answer ends with .*cut it off"):
        report = ImportReport(strict=True)
        row = {"prompt": "q", "chosen": f"Blue.{mark}", "rejected": "b"}
        list(entries.pairs(shaped([SourceRow("r.jsonl, line 1", row)]), report))


def test_an_answer_that_speaks_of_a_mark_is_not_counted() -> None:
    assert pair_of(chosen="The mark </s> ends a text.")[1] == {}


@pytest.mark.parametrize("text", ["so it is blue</think>Blue.", "Sure. <think>hm</think>Blue."])
def test_reasoning_that_cannot_be_split_off_is_counted(text: str) -> None:
    pair, remarks = pair_of(chosen=text)
    assert (pair.chosen.text, remarks) == (text, {"</think> inside an answer": 1})


@pytest.mark.parametrize(("text", "count"), [("nan", 1), (" NaN\n", 1), ("None", 0), ("nan.", 0)])
def test_answers_that_stand_for_a_missing_text_are_counted(text: str, count: int) -> None:
    remarks = pair_of(chosen=text)[1]
    assert remarks.get("an answer that is the word for a missing value", 0) == count


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_marked_answers_that_repeat_the_marked_prompt(line: str) -> None:
    asked = f"{line}{line}Human: a b{line}{line}Assistant:"
    pair, remarks = pair_of(prompt=asked, chosen=f"{asked} c", rejected=f"{asked} d")
    assert (pair.prompt.text, pair.chosen.text, pair.rejected.text) == ("a b", "c", "d")
    assert remarks == {}


def test_marks_with_the_line_ends_of_windows() -> None:
    sides = {side: f"\r\n\r\nHuman: a\r\n\r\nAssistant: {side}" for side in ("chosen", "rejected")}
    (pair,) = entries.pairs(shaped([SourceRow("r", dict(sides))]))
    assert (pair.prompt.text, pair.chosen.text, pair.rejected.text) == ("a", "chosen", "rejected")


def test_a_context_belongs_to_an_instruction() -> None:
    rows = [
        {"instruction": "Sum up", "context": text, "response": text[:1], "category": "c"}
        for text in ("one text", "another text")
    ]
    report = ImportReport()
    source = shaped([SourceRow(f"r, row {n}", row) for n, row in enumerate(rows)])
    found = list(entries.completions(source, report))
    assert [(prompt.text, [one.text for one in answers]) for prompt, answers in found] == [
        ("Sum up\n\none text", ["o"]),
        ("Sum up\n\nanother text", ["a"]),
    ]
    assert not report.remarked


def test_a_context_that_the_model_does_not_read_is_counted() -> None:
    reason = "a context that is no part of the prompt"
    assert pair_of(context="A passage.")[1] == {reason: 1}
    assert pair_of(context="A passage.", prompt="A passage.\n\nName a colour.")[1] == {}


PICTURE = "a mark of a picture, video or sound that is not there"


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("<image>\nWhat is this?", "<image>"),  # LLaVA
        ("What is this? <image>", "<image>"),
        ("Compare these.\n <image>\nBe brief.", "<image>"),
        ("Which of <image 1> and <image 2> is larger?", "<image 1>"),  # MMMU
        ("Look at <|image_1|> first.", "<|image_1|>"),  # Phi
        ("<|image|>Describe it.", "<|image|>"),  # Llama
        ("<|vision_start|><|image_pad|><|vision_end|>Describe it.", "<|vision_start|>"),  # Qwen
        ("<start_of_image> Describe it.", "<start_of_image>"),  # Gemma
        ("<video>\nWhat happens?", "<video>"),
    ],
)
def test_marks_of_pictures_are_counted(prompt: str, mark: str) -> None:
    assert pair_of(prompt=prompt)[1] == {PICTURE: 1}
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": prompt}]
    row = {"prompt": messages, "chosen": "Blue.", "rejected": "Seven."}
    report = ImportReport(strict=True)
    with pytest.raises(DataError) as refused:
        list(entries.pairs(shaped([SourceRow("r.jsonl, line 1", row)]), report))
    assert str(refused.value).startswith(f"r.jsonl, line 1: the prompt has {mark!r}, which stands")
    assert "cut the mark off if the text does not need it" in str(refused.value)


@pytest.mark.parametrize(
    "prompt",
    [
        "What does the tag <image> do in SVG?",
        "Mend this page:\n<video>\n  <source src=a>\n</video>",
        "Why does <img src=a> not load?",
        "An image of a cat, [image]",
    ],
)
def test_prompts_that_speak_of_tags_have_no_mark_of_a_picture(prompt: str) -> None:
    assert pair_of(prompt=prompt)[1] == {}


def test_the_place_of_a_mark_of_a_picture_is_told() -> None:
    report = ImportReport()
    rows = [{"prompt": text} for text in ("Name a colour.", "<image>\nWhat is this?")]
    source = [SourceRow(f"r.jsonl, line {n}", row) for n, row in enumerate(rows, 1)]
    assert len(list(entries.prompts(shaped(source), report))) == 2
    assert report.notes() == (f"kept: 1 × {PICTURE} (r.jsonl, line 2)",)
