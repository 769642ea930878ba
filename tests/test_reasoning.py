"""Reasoning inside texts: split off by default, kept by option, neither judged nor a surprise."""

import json
from pathlib import Path
from typing import Any

import pytest

import openai_server as server
from command import prefine
from openai_server import OpenAIServer
from prefine.calls.engine import CallEngine
from prefine.calls.memory import MemoryLog
from prefine.config.sections import Decoding, EvaluateConfig
from prefine.data import entries
from prefine.data.convert import write_entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import file, shaped
from prefine.models.scripted import ScriptedModel
from prefine.reasoning import SplitText, split_reasoning
from prefine.records import Prompt
from prefine.run.rows import completion_of
from prefine.run.tables import parts, read_part
from prefine.stages.head_to_head import answer_both
from prefine.stages.stage_run import Silent
from run_place import OK, SAMPLED, Place


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>hm</think>yes", "hm", "yes"),
        ("<think>\nhm\n\nso\n</think>\n\nyes\n", "hm\n\nso", "yes\n"),
        ("\n<thinking>hm</thinking> yes", "hm", "yes"),
        ("<Think>hm</Think>yes", "hm", "yes"),
        ("<reasoning>hm</reasoning>yes", "hm", "yes"),
        ("<thought>hm</thought>\nyes", "hm", "yes"),
        ("[THINK]hm[/THINK]yes", "hm", "yes"),
        ("<|begin_of_thought|>\nhm\n<|end_of_thought|>\n\nyes", "hm", "yes"),
        ("◁think▷hm◁/think▷yes", "hm", "yes"),
        ('<think time="3s">hm</think>yes', "hm", "yes"),
        ("<seed:think>hm</seed:think>yes", "hm", "yes"),
        ("<scratchpad>hm</scratchpad>yes", "hm", "yes"),
        ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>yes", "hm", "yes"),
        (
            "<|channel|>analysis<|message|>hm<|end|>"
            "<|start|>assistant<|channel|>final<|message|>yes",
            "hm",
            "yes",
        ),
        ("<think>hm</think>\n<think>so</think>yes", "hm\n\nso", "yes"),
        ("<think>\n\n</think>\n\nyes", None, "yes"),
        ("<think>a</think>b<think>c</think>d", "a", "b<think>c</think>d"),
        # The prompt has opened the reasoning.
        ("hm\nso\n</think>\n\nyes", "hm\nso", "yes"),
        # It was cut before its end.
        ("<think>hm, that is", "hm, that is", ""),
        ("<think>a</thinking>", "a</thinking>", ""),
        # An answer that speaks of tags.
        ("Write <think>x</think> first.", None, "Write <think>x</think> first."),
        ("Close it with </think>, then answer.", None, "Close it with </think>, then answer."),
        ("no tags", None, "no tags"),
        ("<b>bold</b>", None, "<b>bold</b>"),
        ("", None, ""),
    ],
)
def test_reasoning_at_the_beginning_is_split_off(
    text: str, reasoning: str | None, answer: str
) -> None:
    assert split_reasoning(text) == SplitText(reasoning, answer)


TEXT = "<think>\nhm\n</think>\n\nyes"
FORMS: list[Any] = [
    TEXT,
    {"role": "assistant", "content": TEXT},
    [{"role": "assistant", "content": TEXT}],
    [{"from": "gpt", "value": TEXT}],
]


@pytest.mark.parametrize("chosen", FORMS)
def test_rows_are_read_without_and_by_option_with_it(chosen: Any) -> None:
    row = SourceRow("f", {"prompt": "q", "chosen": chosen, "rejected": "no"})
    report = ImportReport()
    (pair,) = entries.pairs(shaped([row]), report)
    assert (pair.chosen.text, pair.chosen.message.reasoning) == ("yes", "hm")
    assert "1 × reasoning in the text" in report.recognised()[0]
    (kept,) = entries.pairs(shaped([row], reasoning="keep"), report := ImportReport())
    assert (kept.chosen.text, kept.chosen.message.reasoning) == (TEXT, None)
    assert report.recognised() == ()


@pytest.mark.parametrize("item", [TEXT, {"text": TEXT, "grade": 3}, {"message": FORMS[1]}])
def test_completions_are_read_without_it(item: Any) -> None:
    row = SourceRow("f", {"prompt": "q", "completions": [item, "no"]})
    ((_, (found, other)),) = entries.completions(shaped([row]))
    assert (found.text, found.message.reasoning, other.text) == ("yes", "hm", "no")
    assert found.metadata == ({"grade": 3} if "grade" in item else {})


@pytest.mark.parametrize("reasoning", ["split", "keep"])
def test_what_import_writes_is_read_as_the_same(reasoning: Any, tmp_path: Path) -> None:
    row = SourceRow("f", {"prompt": "q", "chosen": TEXT, "rejected": "no"})
    (before,) = entries.pairs(shaped([row], reasoning=reasoning))
    rows = shaped([row], reasoning=reasoning)
    write_entries(rows, "pairs", tmp_path / "out.jsonl", ImportReport())
    (after,) = entries.pairs(file(path=tmp_path / "out.jsonl"))
    assert (after.id, after.chosen.messages) == (before.id, before.chosen.messages)


def test_reasoning_that_ends_before_the_answer_is_an_empty_answer() -> None:
    rows = [
        {"prompt": p, "chosen": c, "rejected": "no"} for p, c in (("p", "<think>hm"), ("q", "a"))
    ]
    report = ImportReport()
    list(entries.pairs(shaped([SourceRow("f", row) for row in rows]), report))
    assert dict(report.dropped) == {"empty answer": 1}


@pytest.mark.parametrize("reasoning", ["split", "keep"])
def test_a_judge_never_sees_it_unless_it_is_kept(place: Place, reasoning: str) -> None:
    """A policy that thinks in its text, and a judge behind a server: what the judge is shown."""
    replies = [f"<think>\nsecret {n}\n</think>\n\nanswer {n}" for n in range(3)]
    with OpenAIServer(server.label_judge(0.7)) as at:
        model = {"name": "openai", "model": "m", "base_url": at.url, "max_retries": 0}
        place.change(SAMPLED | {"rank.judge": {"name": "pairwise", "model": model}})
        place.change({"policy.replies": replies, "sample.reasoning": reasoning})
        for stage in ("sample", "rank", "pair"):
            done = prefine(stage, "run.yaml")
            assert done.code == OK, done.err
        asked = json.dumps([request.body for request in at.requests])
    assert ("secret" in asked) == (reasoning == "keep")
    assert "answer 0" in asked
    completions = [
        completion_of(row)[1] for part in parts(Path("run/completions")) for row in read_part(part)
    ]
    assert {one.message.reasoning for one in completions} == (
        {f"secret {n}" for n in range(3)} if reasoning == "split" else {None}
    )
    stages = json.loads(Path("run/manifest.json").read_text())["stages"]
    sampled = stages["sample"] if isinstance(stages, dict) else stages[0]
    assert any("reasoning" in note for note in sampled["notes"]) == (reasoning == "split")
    pairs = [row for part in parts(Path("run/pairs")) for row in read_part(part)]
    assert all(
        row[side][0]["content"].startswith("<think>") == (reasoning == "keep")
        for row in pairs
        for side in ("chosen", "rejected")
    )


def test_evaluation_draws_with_all_of_its_settings() -> None:
    replies = ScriptedModel(replies=["<think>hm</think>yes"])
    for kept, text in (("keep", "<think>hm</think>yes"), ("split", "yes")):
        decoding = Decoding(temperature=0.5, top_k=3, seed=7, reasoning=kept)
        (found,) = answer_both(
            [Prompt.from_text("well?")],
            [replies, replies],
            decoding,
            EvaluateConfig(),
            CallEngine(MemoryLog()),
            Silent(),
        )
        assert (found.before.text, found.after.text) == (text, text)
        settings = {"temperature": 0.5, "top_p": 1.0, "top_k": 3, "max_new_tokens": 512}
        assert found.before.sampling == settings | {"seed": 7}
        assert found.after.sampling == settings | {"seed": 8}
