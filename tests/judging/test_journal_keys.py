"""A journaled answer outlives a change of metadata only where the judge never saw it."""

import math
from pathlib import Path
from typing import Any

from openai_server import OpenAIServer, label_judge
from prefine.calls.engine import CallEngine
from prefine.calls.memory import MemoryLog
from prefine.config.base import Component
from prefine.judges.protocol import Verdict
from prefine.judging.choose import as_judge, make_judge
from prefine.judging.protocol import Judge, Matchup, Rater, judgment_key
from prefine.models.protocol import Answered
from prefine.records import Completion, Message, Prompt
from tiny_reward import save_reward_model


def matchup(*, asked: Any = None, grade: Any = None, finish_reason: Any = "stop") -> Matchup:
    prompt = Prompt.from_text("Tell me a story.", metadata={"asked": asked})
    first, second = (
        Completion(
            id=f"c{n}",
            prompt_id=prompt.id,
            sample_index=n,
            message=Message(role="assistant", content=f"story {n}"),
            finish_reason=finish_reason,
            metadata={"grade": grade if n == 0 else 1},
        )
        for n in range(2)
    )
    return Matchup(prompt, first, second)


EDITED = [
    matchup(asked=1),
    matchup(grade=2),
    matchup(grade=math.nan),
    matchup(finish_reason="length"),
]


def asked_for_edits(judge: Any) -> list[int]:
    """Count the questions that each edit asks again."""
    engine = CallEngine(MemoryLog())
    counts = []
    for one in (matchup(), *EDITED, matchup()):
        before = engine.asked
        engine.run(judge.judge(engine, [one]))
        if isinstance(judge, Rater):
            answered = [Answered(one.prompt, one.first), Answered(one.prompt, one.second)]
            engine.run(judge.rate(engine, answered))
        counts.append(engine.asked - before)
    return counts[1:]


def length(prompt: Prompt, completion: Completion) -> float:
    """A scorer."""
    return float(len(completion.text))


class Comparing:
    """A judge that compares."""

    fingerprint, first_slot_bias = "mine", 0.0

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Accept everything."""

    def compare(self, prompt: Prompt, first: Completion, second: Completion) -> Verdict:
        """A tie."""
        return Verdict(0.5)


def test_judges_that_compute_are_asked_again() -> None:
    assert asked_for_edits(as_judge(length, what="judge")) == [2, 1, 1, 2, 0]
    assert asked_for_edits(as_judge(Comparing(), what="judge")) == [1, 1, 1, 1, 0]


def test_judges_that_ask_a_model_are_not(tmp_path: Path) -> None:
    def judge(**component: Any) -> Judge:
        return make_judge(Component.model_validate(component), where="rank.judge")

    with OpenAIServer(label_judge(0.8)) as at:
        model = {"name": "openai", "model": "m", "base_url": at.url}
        assert asked_for_edits(judge(name="pairwise", model=model)) == [0, 0, 0, 0, 0]
        assert len(at.requests) == 1
    assert asked_for_edits(
        judge(name="reward", path=str(save_reward_model(tmp_path / "reward")))
    ) == [0, 0, 0, 0, 0]
    # What was paid for is under this key, in every journal there is.
    assert judgment_key("judge", matchup()) == "00dc40643c20845b"
