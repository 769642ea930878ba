"""Scorers as judges: functions of the user's and reward models; each completion is scored once."""

import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from prefine.calls.engine import CallEngine
from prefine.calls.memory import MemoryLog
from prefine.calls.protocol import JournalGroup
from prefine.config.base import Component
from prefine.errors import BackendError, ConfigError
from prefine.judging.choose import as_judge, make_judge
from prefine.judging.protocol import Judge, Matchup, Rater
from prefine.models.protocol import Answered
from prefine.records import Completion, Judgment, Message, Prompt
from tiny_reward import save_reward_model

PROMPT = Prompt.from_text("Tell me a story.")


def completion(number: int, text: str) -> Completion:
    message = Message(role="assistant", content=text)
    return Completion(id=f"c{number}", prompt_id=PROMPT.id, sample_index=number, message=message)


ANSWERS = [completion(n, "word " * (n + 1)) for n in range(4)]
ALL = [Matchup(PROMPT, a, b) for a in ANSWERS for b in ANSWERS if a.id != b.id]


def judge_of(**component: Any) -> Judge:
    return make_judge(Component.model_validate(component), where="rank.judge")


def ask(judge: Judge, matchups: list[Matchup], engine: CallEngine | None = None) -> list[Judgment]:
    engine = engine or CallEngine(MemoryLog())
    return engine.run(judge.judge(engine, matchups))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_scores.py").write_text(
        "calls = []\n"
        "def words(prompt, completion, *, weight: float = 1.0):\n"
        "    calls.append(completion.id)\n"
        "    return weight * len(completion.text.split())\n"
        "def fragile(prompt, completion):\n"
        "    if completion.sample_index == 0: return None\n"
        "    if completion.sample_index == 1: raise ValueError('cannot read it')\n"
        "    if completion.sample_index == 2: return float('nan')\n"
        "    return 1.0\n"
        "class Judge:\n"
        "    fingerprint, first_slot_bias = 'mine', 0.0\n"
        "    def check(self, prompt, completions): pass\n"
        "    def compare(self, prompt, first, second):\n"
        "        from prefine.judges.protocol import Verdict\n"
        "        return Verdict(float(len(first.text) > len(second.text)))\n"
        "class NoJudge: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_scores"


@pytest.fixture(autouse=True)
def forget_my_scores() -> Any:
    yield
    import sys

    sys.modules.pop("my_scores", None)


def test_a_function_of_ones_own_is_a_judge(module: str) -> None:
    judge = judge_of(name=f"{module}:words", temperature=2.0, weight=3.0)
    engine = CallEngine(MemoryLog())
    judgments = ask(judge, ALL, engine)
    gaps = [3.0 * (m.first.sample_index - m.second.sample_index) for m in ALL]
    assert [j.p_first for j in judgments] == pytest.approx(
        [1 / (1 + math.exp(-gap / 2)) for gap in gaps]
    )
    import my_scores

    assert sorted(my_scores.calls) == ["c0", "c1", "c2", "c3"], "each completion is scored once"
    assert engine.asked == 4
    ask(judge, ALL, engine)
    assert engine.asked == 4


def test_a_changed_function_does_not_find_its_old_scores(module: str, tmp_path: Path) -> None:
    before = judge_of(name=f"{module}:words").fingerprint
    assert before == judge_of(name=f"{module}:words").fingerprint
    assert before != judge_of(name=f"{module}:words", weight=2.0).fingerprint
    assert before != judge_of(name=f"{module}:words", temperature=2.0).fingerprint
    file = tmp_path / "my_scores.py"
    file.write_text(file.read_text() + "\n# another version\n")
    assert before != judge_of(name=f"{module}:words").fingerprint


def test_what_a_function_cannot_score_is_missing_and_says_why(module: str) -> None:
    engine = CallEngine(MemoryLog())
    judgments = {
        j.comparison.first + j.comparison.second: j
        for j in ask(judge_of(name=f"{module}:fragile"), ALL, engine)
    }
    assert judgments["c3c0"].error == "the scorer gave no score"
    assert judgments["c1c3"].error == "the scorer raised ValueError: cannot read it"
    assert judgments["c2c3"].error == (
        "the score is nan, not a finite number; a function that cannot say returns None"
    )
    assert sum(engine.failures.values()) == 3


def test_a_class_of_ones_own_compares(module: str) -> None:
    judgments = ask(judge_of(name=f"{module}:Judge"), ALL[:3])
    assert [judgment.p_first for judgment in judgments] == [0.0, 0.0, 0.0]


def test_who_can_rate(module: str) -> None:
    """A function and a computed judge that scores; what only compares cannot."""
    assert isinstance(judge_of(name=f"{module}:words"), Rater)
    assert not isinstance(judge_of(name=f"{module}:Judge"), Rater)
    pairwise = judge_of(name="pairwise", model={"name": "scripted", "replies": ["A"]})
    assert not isinstance(pairwise, Rater)


def test_a_class_that_scores_rates_and_still_compares(module: str, tmp_path: Path) -> None:
    (tmp_path / "my_scores.py").write_text(
        (tmp_path / "my_scores.py")
        .read_text()
        .replace("class NoJudge", SCORING_CLASS + "class NoJudge")
    )
    judge = judge_of(name=f"{module}:Both")
    assert isinstance(judge, Rater) and isinstance(judge, Judge)
    engine = CallEngine(MemoryLog())
    scores = engine.run(judge.rate(engine, [Answered(PROMPT, one) for one in ANSWERS]))
    assert [score.completion_id for score in scores] == ["c0", "c1", "c2", "c3"]
    assert [score.value for score in scores] == [None, 1.0, 2.0, 3.0]
    assert scores[0].error == "the scorer gave no score"
    assert engine.asked == 4
    assert [judgment.p_first for judgment in ask(judge, ALL[:3], engine)] == [0.0, 0.0, 0.0]
    engine.run(judge.rate(engine, [Answered(PROMPT, one) for one in ANSWERS[1:]]))
    assert engine.asked == 4 + 3, "scores are journaled"


SCORING_CLASS = (
    "class Both(Judge):\n"
    "    def score(self, prompt, completion):\n"
    "        return float(completion.sample_index) or None\n"
)


@pytest.mark.parametrize(
    ("component", "says"),
    [
        ({"name": "my_scores:NoJudge"}, "is no judge"),
        ({"name": "my_scores:missing"}, "has no 'missing'"),
        ({"name": "my_scores:words", "temperature": 0}, "rank.judge.temperature"),
        ({"name": "my_scores:words", "temperature": True}, "rank.judge.temperature"),
        ({"name": "my_scores:words", "wieght": 1.0}, "did you mean 'weight'"),
        ({"name": "reward", "path": "x/y", "temperature": -1.0}, "rank.judge.temperature"),
    ],
)
def test_judges_that_cannot_work_are_refused(
    module: str, component: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        judge_of(**component)


def test_a_reward_that_is_not_finite_is_named_with_its_remedy(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_reward_model(tmp_path / "reward")
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"].fill_(math.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (judgment, *_) = ask(judge_of(name="reward", path=str(folder)), ALL[:1])
    assert judgment.error == (
        "the reward is nan, not a finite number: the reward model's weights are damaged, or "
        "overflow in their dtype; restore its folder, or give the judge dtype: float32"
    )


def test_a_reward_model_in_batches_scores_as_one_by_one(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = save_reward_model(tmp_path / "reward")
    judgments = ask(judge_of(name="reward", path=str(folder), temperature=0.5, batch_rows=3), ALL)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rewards = []
    for answer in ANSWERS:
        chat = [
            {"role": "user", "content": PROMPT.text},
            {"role": "assistant", "content": answer.text},
        ]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            rewards.append(model(ids).logits.item())
    assert len({round(reward, 3) for reward in rewards}) == 4
    gaps = [rewards[m.first.sample_index] - rewards[m.second.sample_index] for m in ALL]
    expected = [1 / (1 + math.exp(-gap / 0.5)) for gap in gaps]
    assert [judgment.p_first for judgment in judgments] == pytest.approx(expected, abs=1e-5)


def test_a_conversation_that_is_too_long_is_a_failure(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "reward")
    long = Matchup(PROMPT, completion(9, "x" * 200), ANSWERS[0])
    judgments = ask(judge_of(name="reward", path=str(folder)), [long, ALL[0]])
    assert judgments[0].error is not None and "128 tokens" in judgments[0].error
    assert judgments[1].p_first is not None


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    from tiny_judge import save_tiny_judge

    causal = save_tiny_judge(tmp_path / "causal")
    with pytest.raises(BackendError, match="this is no reward model"):
        ask(judge_of(name="reward", path=str(causal)), ALL)
    classes = save_reward_model(tmp_path / "classes", labels=3)
    with pytest.raises(ConfigError, match="this has 3 labels"):
        ask(judge_of(name="reward", path=str(classes)), ALL)


def test_a_function_runs_in_as_many_threads_as_it_says() -> None:
    together = threading.Barrier(2, timeout=20)

    def waits(prompt: Prompt, answer: Completion) -> float:
        together.wait()
        return float(answer.sample_index)

    waits.concurrency = 2  # type: ignore[attr-defined]
    judge = as_judge(waits, what="waits")
    assert isinstance(judge, Rater)
    engine = CallEngine(MemoryLog())
    scores = engine.run(judge.rate(engine, [Answered(PROMPT, one) for one in ANSWERS[:2]]))
    assert [score.value for score in scores] == [0.0, 1.0]


@pytest.mark.parametrize(("seconds", "batches"), [(0.03, 40), (0.0, 3)])
def test_answers_of_a_slow_function_are_journaled_one_by_one(seconds: float, batches: int) -> None:
    """And those of a fast one together."""

    class Counted(MemoryLog):
        commits = 0

        def write(self, group: JournalGroup) -> int:
            self.commits += bool(group.answers)
            return super().write(group)

    def score(prompt: Prompt, answer: Completion) -> float:
        time.sleep(seconds)
        return float(answer.sample_index)

    log = Counted()
    judge = as_judge(score, what="score")
    assert isinstance(judge, Rater)
    engine = CallEngine(log)
    answers = [Answered(PROMPT, completion(n, f"answer {n}")) for n in range(40)]
    scores = engine.run(judge.rate(engine, answers))
    assert [one.value for one in scores] == list(range(40))
    assert log.commits == 40 if batches == 40 else log.commits <= batches
