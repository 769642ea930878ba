"""The request to rewrite an answer: its exact texts, and how a reply is read.

PREFINE_REFRESH_GOLDEN=1 writes the golden files anew; read the difference before you commit it.
"""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hostile_texts import hostile_texts
from hypothesis import given
from hypothesis import strategies as st
from test_pairwise_prompt import FIRST, FORGED, LONG, SECOND, TEA, completion

from prefine.judges.bridge_prompt import BridgePrompt, prompt_text, read, render
from prefine.judges.prompts import BREAK, nonce
from prefine.records import Completion, Prompt

GOLDEN = Path(__file__).parent / "golden"
CASES: dict[str, tuple[BridgePrompt, Prompt, Completion, Completion]] = {
    "bridge-instructions": ("instructions", TEA, FIRST, SECOND),
    "bridge-answers": ("answers", LONG, FIRST, FORGED),
}


def shown(name: str) -> str:
    request, prompt, chosen, rejected = CASES[name]
    code = nonce(7, prompt, chosen, rejected)
    (message,) = render(prompt_text(request), prompt, chosen, rejected, nonce=code)
    assert message.role == "user"
    return message.content


@pytest.mark.parametrize("name", CASES)
def test_golden_rendering(name: str) -> None:
    path, text = GOLDEN / f"{name}.txt", shown(name)
    if os.environ.get("PREFINE_REFRESH_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8", newline="")
    assert text == path.read_bytes().decode(), (
        f"read the difference, then set PREFINE_REFRESH_GOLDEN=1: {path}"
    )


@pytest.mark.parametrize(("chosen", "rejected"), list(pairwise(hostile_texts(60))))
def test_each_tag_stands_once_and_in_order_whatever_the_texts_say(
    chosen: str, rejected: str
) -> None:
    better, worse = completion(chosen), completion(rejected, sample_index=1)
    code = nonce(0, TEA, better, worse)
    (message,) = render(prompt_text("instructions"), TEA, better, worse, nonce=code)
    lines = message.content.split("\n")
    tags = [
        f"<answer-to-revise-{code}>",
        f"</answer-to-revise-{code}>",
        f"<answer-better-{code}>",
        f"</answer-better-{code}>",
    ]
    assert [line for line in lines if code in line] == tags


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("  a cup of tea\n", "a cup of tea"),
        ("<answer-to-revise-c0de>\na cup\nof tea\n</answer-to-revise-c0de>", "a cup\nof tea"),
        # One tag is part of the text: it is for the judge to dislike.
        ("<answer-to-revise-c0de>\na cup", "<answer-to-revise-c0de>\na cup"),
        (f"<{BREAK}b>tea<{BREAK}/b>", "<b>tea</b>"),
        ("", ""),
    ],
)
def test_a_reply_is_read_without_tags_and_marks(reply: str, said: str) -> None:
    assert read(reply, shown="<b>a pot</b>", nonce="c0de") == said


@given(st.text())
def test_a_mark_that_users_wrote_stays(text: str) -> None:
    assert read(f"{BREAK}x", shown=f"{text}{BREAK}", nonce="c0de") == f"{BREAK}x"
