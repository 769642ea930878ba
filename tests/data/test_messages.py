"""Messages and metadata in the forms that chat services and tables give them."""

from typing import Any

import pytest

from prefine.data import entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import shaped
from prefine.errors import DataError


def rows(*values: dict[str, Any]) -> list[SourceRow]:
    return [SourceRow(f"f.jsonl, line {number}", value) for number, value in enumerate(values, 1)]


def test_fields_that_only_other_tools_have_change_no_id() -> None:
    def ids(tools: Any, arguments: Any, call: Any) -> tuple[str, str]:
        answer = {"role": "assistant", "content": None, "tool_calls": [call]}
        row = {
            "prompt": "q",
            "tools": tools,
            "chat_template_kwargs": arguments,
            "completions": [{"message": answer}],
        }
        ((prompt, (found,)),) = entries.completions(rows(row))
        return prompt.id, found.id

    plain = ids(
        [{"function": {"name": "f", "parameters": {"x": 1}}}],
        {"a": 1},
        {"function": {"arguments": {"x": 1}}},
    )
    table = ids(
        [{"function": {"name": "f", "parameters": {"x": 1, "y": None}}, "type": None}],
        {"a": 1, "b": None},
        {"function": {"arguments": {"x": 1, "y": None}}, "id": None},
    )
    assert table == plain


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_messages_in_the_words_of_chat_services(name: str) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    answer = {
        "role": "assistant",
        "content": parts,
        name: "hm",
        "tool_calls": [],
        "refusal": None,
        "id": "x",
    }
    prompt = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts[:1]}]
    report = ImportReport()
    ((asked, (found,)),) = entries.completions(
        rows({"prompt": prompt, "completions": [{"message": answer}]}), report
    )
    assert [(m.role, m.content) for m in asked.messages] == [("system", "be brief"), ("user", "a")]
    assert found.message.chat() == {"role": "assistant", "content": "ab", "reasoning": "hm"}
    assert report.notes() == (
        "kept: 1 × without the message field 'id' (f.jsonl, line 1, completion 0)",
    )
    assert report.dropped == {}


def test_metadata_that_no_file_can_hold_is_left_out_and_counted() -> None:
    odd = {"image": b"\xff\xd8", "loss": float("inf"), "topic": "tea"}
    report = ImportReport()
    (prompt,) = entries.prompts(rows({"prompt": "q"} | odd), report)
    assert prompt.metadata == {"topic": "tea"}
    assert report.remarked.total() == 2
    assert report.notes()[0].startswith(
        "kept: 1 × without the column 'image' (bytes, which JSON cannot hold)"
    )
    answers = {"prompt": "q", "completions": [{"text": "a", "image": b"\xff", "grade": 3}]}
    ((_, (answer,)),) = entries.completions(shaped(rows(answers)), report := ImportReport())
    assert answer.metadata == {"grade": 3}
    with pytest.raises(DataError, match=r"line 1: the column 'image' holds bytes"):
        list(entries.prompts(rows({"prompt": "q"} | odd), ImportReport(strict=True)))
