"""The playground's bridger: literal rewritings, and what it never does."""

import ast
import inspect
import random

import pytest

from prefine.bridging import playground
from prefine.bridging.playground import PlaygroundBridger, mended
from prefine.errors import DataError
from prefine.playground.world import demonstrate, draw_task, gold, parse, render
from prefine.records import Completion, Message, Prompt


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "result"),
    [
        # The forbidden word goes, a sentence of the chosen answer comes.
        (
            "write 2 sentences about tea . avoid the word cup .",
            "the pot is new . the leaf is old .",
            "the cup is small . the steam is soft .",
            "the steam is soft . the pot is new .",
        ),
        # The end that was asked for; the unfinished sentence goes.
        (
            "write 2 sentences about tea . end with the word lemon .",
            "the pot is new . the leaf meets the lemon .",
            "the cup is small . the leaf follows",
            "the cup is small . the leaf meets the lemon .",
        ),
        # A required word, in place of the last sentence that nothing asks for.
        (
            "write 2 sentences about tea . use the word kettle .",
            "the kettle meets the cup . the pot is new .",
            "the cup is small . the steam is soft .",
            "the cup is small . the kettle meets the cup .",
        ),
        # Too many sentences, one of them twice; the order of two words.
        (
            "write 2 sentences about tea . mention pot before leaf .",
            "the spoon is new .",
            "the leaf is old . the cup is old . the cup is old . the pot is new .",
            "the pot is new . the leaf is old .",
        ),
        # Nothing to mend.
        (
            "write 2 sentences about tea .",
            "the pot is new . the leaf is old .",
            "the cup is small . the steam is soft .",
            "the cup is small . the steam is soft .",
        ),
    ],
)
def test_literal_rewritings(prompt: str, chosen: str, rejected: str, result: str) -> None:
    assert mended(parse(prompt), chosen, rejected) == result


def test_it_reads_the_two_answers_and_the_prompt_only() -> None:
    imported = {
        alias.name
        for node in ast.walk(ast.parse(inspect.getsource(playground)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prefine.playground")
        for alias in node.names
    }
    assert imported == {"Task", "parse"}


def test_every_sentence_is_one_of_the_two_answers_and_most_get_better() -> None:
    rng = random.Random(0)
    before, after = [], []
    for _ in range(200):
        task = draw_task(rng)
        chosen, rejected = (demonstrate(task, rng) for _ in range(2))
        found = mended(task, chosen, rejected)
        theirs = {s.strip() for text in (chosen, rejected) for s in text.lower().split(".")}
        assert {s.strip() for s in found.split(".")} <= theirs | {""}
        before.append(gold(render(task), rejected))
        after.append(gold(render(task), found))
    assert sum(after) / 200 > sum(before) / 200 + 0.05
    assert sum(a < b for a, b in zip(after, before, strict=True)) < 20


def test_nothing_to_change_is_none_and_other_prompts_are_refused() -> None:
    bridger = PlaygroundBridger()
    prompt = Prompt.from_text("write 2 sentences about tea .")
    fine = Completion(
        id="a",
        prompt_id=prompt.id,
        sample_index=0,
        message=Message(role="assistant", content="the cup is small . the steam is soft ."),
    )
    assert bridger.revise(prompt, fine, fine) is None
    with pytest.raises(DataError, match=r"playground bridger knows no other prompts.*bridge.model"):
        bridger.check(Prompt.from_text("boil an egg"))
