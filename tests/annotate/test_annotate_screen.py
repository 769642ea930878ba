"""The screen of `annotate`: any size, wide characters, hostile texts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from annotator import completion_of
from prefine.annotate.session import AskedQuestion
from prefine.cli.annotate_screen import body, content_rows, frame, wrapped
from prefine.cli.terminal import Size
from prefine.records import Message, Prompt

HOSTILE = "\x1b[2J\x1b]0;taken\x07\r\x9b31m\u202eevil\u2066\x00 \x7f"


def asked(first: str, second: str, *turns: str) -> AskedQuestion:
    roles = ("system", "user", "assistant", "user")
    prompt = Prompt.make(
        tuple(Message(role=role, content=turn) for role, turn in zip(roles, turns, strict=False))  # type: ignore[arg-type]
        or (Message(role="user", content="Why?"),)
    )
    return AskedQuestion(
        prompt, completion_of(prompt, first, "x"), completion_of(prompt, second, "y")
    )


def plain(lines: tuple[str, ...]) -> list[str]:
    found = []
    for line in lines:
        text = re.sub(r"\x1b\[[01]m", "", line)
        if beside := re.fullmatch(r"(.*)\x1b\[(\d+)G(.*)", text):
            text = beside[1] + " " * (int(beside[2]) - 1 - cell_len(beside[1])) + beside[3]
        found.append(text)
    return found


def test_a_question_below_each_other() -> None:
    lines = plain(body(asked("one", "two\n  indented"), 20).lines)
    assert lines == [
        "── Prompt ──────────",
        "Why?",
        "",
        "── First (1) ───────",
        "one",
        "",
        "── Second (2) ──────",
        "two",
        "  indented",
    ]


def test_beside_each_other_where_there_is_room() -> None:
    lines = plain(body(asked("one", "two\nmore"), 120).lines)
    assert lines[3].count("─ ") >= 1
    assert [" ".join(line.split()) for line in lines[4:]] == ["one │ two", "│ more"]
    assert {line.index("│") for line in lines[3:]} == {59}


def test_a_conversation_has_its_roles() -> None:
    lines = plain(body(asked("a", "b", "be short", "hello", "hi", "and?"), 30).lines)
    said = [line for line in lines if line in ("system", "user", "assistant")]
    assert said == ["system", "user", "assistant", "user"]


def test_equal_answers_are_said_to_be_and_tool_calls_are_shown() -> None:
    assert "Both answers are the same." in plain(body(asked("one", "one"), 60).lines)
    prompt = Prompt.from_text("Why?")
    calls = completion_of(prompt, "", "x").model_copy(
        update={
            "message": Message(role="assistant", content="", tool_calls=({"name": "look"},)),
        }
    )
    shown = plain(body(AskedQuestion(prompt, calls, completion_of(prompt, "", "y")), 60).lines)
    assert '[{"name":"look"}]' in shown
    assert "(an empty answer)" in shown


@pytest.mark.parametrize("columns", [20, 80, 120])
def test_hostile_texts_cannot_drive_the_terminal(columns: int) -> None:
    content = body(asked(HOSTILE, HOSTILE * 40, HOSTILE, HOSTILE), columns)
    text = "\n".join(plain(content.lines))
    assert not {c for c in text if c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0)}
    assert not set("\u202e\u2066") & set(text)
    assert "taken" in text
    assert max(map(cell_len, plain(content.lines))) <= columns


@given(
    text=st.text(st.sampled_from("ab 日本語é\u0301🙂\t\n\x1b"), max_size=200),
    columns=st.integers(2, 40),
)
def test_wrapping_loses_nothing_and_fits(text: str, columns: int) -> None:
    lines = wrapped(text, columns)
    assert all(cell_len(line) <= columns for line in lines)
    kept = text.replace("\x1b", "�").split()
    assert "".join("".join(lines).split()) == "".join(kept)


def test_wrapping_breaks_at_spaces_and_keeps_indentation() -> None:
    assert wrapped("    if a: return the value", 14) == ["    if a:", "return the", "value"]
    assert wrapped("日本語日本語", 5) == ["日本", "語日", "本語"]
    assert wrapped("\r\na\r\n", 5) == ["", "a", ""]


@given(columns=st.integers(2, 130), rows=st.integers(1, 40), top=st.integers(0, 30))
def test_a_screen_fits_at_any_size(columns: int, rows: int, top: int) -> None:
    size = Size(columns, rows)
    content = body(asked("one " * 90, "日本 " * 90), columns).lines
    lines = frame("12 judged · random", content, "1 ← first  2 → second", size, top)
    assert len(lines) <= rows
    assert len(lines) == rows or rows == 2
    shown = plain(tuple(line.replace("\x1b[7m", "") for line in lines))
    assert all(cell_len(line) <= columns for line in shown)
    if rows > 2:
        room = content_rows(size)
        seen = plain(content)[top : top + room]
        assert shown[1:-1] == seen + [""] * (room - len(seen))
