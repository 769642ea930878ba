"""What a ranking asks for, and what it takes from the journal: edited records, equal answers,
who is asked and paid.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

import prefine
from prefine.config.yaml import validate
from prefine.errors import ConfigError, LimitError
from prefine.records import Completion, Message, Prompt, Ranking
from prefine.run.folder import RunFolder
from prefine.run.rows import completion_of, ranking_of
from prefine.run.tables import parts, read_part
from prefine.stages.check import check
from prefine.stages.pipeline import run_stage
from prefine.stages.plan import plan
from prefine.stages.stage_run import Silent
from run_place import jsonl

SCRIPTED = {"name": "scripted", "replies": ["10", "20", "30", "40"]}
PAID = {
    "name": "openai",
    "model": "m",
    "api_key_env": "NO_SUCH_JUDGE_KEY",
    "prices": {"prompt": 1e6, "completion": 0},
}


def wanted(prompt: Prompt, completion: Completion) -> float:
    """A scorer that reads the prompt's metadata."""
    return -abs(float(completion.text) - float(str(prompt.metadata["answer"])))


def long(prompt: Prompt, completion: Completion) -> float:
    """A scorer that reads the text."""
    return float(len(completion.text))


def nothing(prompt: Prompt, completion: Completion) -> float | None:
    """A scorer that never knows."""
    return None


def values_of(folder: Path, **sections: Any) -> dict[str, Any]:
    return {"run_dir": str(folder / "run"), "policy": SCRIPTED} | sections


def champions(folder: Path, **sections: Any) -> dict[str, str]:
    """The best answer to each prompt, after sampling or importing and ranking."""
    config = validate(values_of(folder, **sections), where="test")
    with RunFolder(config.run_dir) as run:
        run.adopt_config(config.resolved())
        for stage in ("sample", "rank"):
            run_stage(stage, config, run, Silent())
    texts = {}
    for path in parts(folder / "run" / "completions"):
        for prompt, completion in map(completion_of, read_part(path)):
            texts[completion.id] = prompt.text, completion.text
    rankings: list[Ranking] = [
        ranking_of(row) for path in parts(folder / "run" / "rankings") for row in read_part(path)
    ]
    return dict(texts[ranking.champion] for ranking in rankings if ranking.champion)


def with_its_journal(folder: Path, other: Path) -> Path:
    """Another place whose run has the answers of the first one."""
    shutil.copytree(folder / "run" / "journal", other / "run" / "journal")
    return other


@pytest.mark.parametrize("strategy", ["iterative", "pointwise", "score_then_duel"])
def test_an_edited_grade_is_judged_anew(strategy: str, tmp_path: Path) -> None:
    file = tmp_path / "graded.jsonl"

    def best(folder: Path, *grades: int) -> str:
        answers = [{"text": f"answer {n}", "grade": grade} for n, grade in enumerate(grades)]
        file.write_bytes(jsonl([{"prompt": "q", "completions": answers}]))
        rank = {"strategy": {"name": strategy}, "judge": {"name": "recorded"}}
        return champions(folder, completions={"name": "file", "path": str(file)}, rank=rank)["q"]

    assert best(tmp_path, 1, 2, 3) == "answer 2"
    assert best(tmp_path, 9, 2, 3) == "answer 0"
    assert best(with_its_journal(tmp_path, tmp_path / "other"), 1, 5, 3) == "answer 1"


@pytest.mark.parametrize("strategy", ["iterative", "pointwise"])
def test_an_edited_prompt_column_is_judged_anew(strategy: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"

    def best(folder: Path, answer: int) -> set[str]:
        file.write_bytes(jsonl([{"prompt": f"question {n}", "answer": answer} for n in range(12)]))
        rank = {"strategy": {"name": strategy}, "judge": {"name": f"{__name__}:wanted"}}
        sections = {
            "prompts": {"name": "file", "path": str(file)},
            "sample": {"completions_per_prompt": 6},
        }
        return set(champions(folder, **sections, rank=rank).values())

    assert "10" in best(tmp_path, 10)
    assert "40" in best(tmp_path, 40)
    other = with_its_journal(tmp_path, tmp_path / "other")
    assert best(other, 10) == best(tmp_path, 10)
    assert best(other, 40) == best(tmp_path, 40) != best(tmp_path, 10)


def test_answers_that_differ_in_their_reasoning_only_are_one() -> None:
    prompt = Prompt.from_text("q")
    call = {"function": {"name": "look", "arguments": "{}"}}
    messages = [
        Message(role="assistant", content="yes", reasoning="so"),
        Message(role="assistant", content="yes", reasoning="or so"),
        Message(role="assistant", content="yes"),
        Message(role="assistant", content="yes", tool_calls=(call,)),
        Message(role="assistant", content="no", reasoning="so"),
    ]
    answers = [
        Completion(id=f"c{n}", prompt_id=prompt.id, sample_index=n, message=message)
        for n, message in enumerate(messages)
    ]
    (ranking,) = prefine.rank([prompt], answers, judge=long)
    assert set(ranking.completions) == {"c0", "c3", "c4"}
    with pytest.warns(UserWarning, match="1 prompts have no ranking: all completions identical"):
        assert prefine.rank([prompt], answers[:3], judge=long) == []


def planned(tmp_path: Path, model: Path, **rank: Any) -> dict[str, str]:
    answers = [{"text": "x" * 100 * n, "grade": n} for n in range(1, 6)]
    (tmp_path / "graded.jsonl").write_bytes(
        jsonl([{"prompt": f"q{n}", "completions": answers} for n in range(3)])
    )
    values = values_of(
        tmp_path,
        policy={"name": "hf", "path": str(model)},
        completions={"name": "file", "path": str(tmp_path / "graded.jsonl")},
        rank=rank,
    )
    return dict(plan(validate(values, where="test"), offline=True).lines)


def test_a_plan_tells_duels_from_ratings(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_SUCH_JUDGE_KEY", "x")
    judge, scorer = {"name": "pairwise", "model": PAID}, {"name": f"{__name__}:long"}

    def lines(strategy: dict[str, Any], **rank: Any) -> dict[str, str]:
        return planned(tmp_path, tiny_model_folder, strategy=strategy, **({"judge": judge} | rank))

    costs = "cost of judging in one token, about, at most"
    both = lines({"name": "score_then_duel", "k": 2}, scorer=scorer)
    assert (both["judge calls, at most"], both["ratings, at most"]) == ("6", "15")
    duels = lines({"name": "round_robin"})
    assert duels["judge calls, at most"] == "30" and "ratings, at most" not in duels
    assert float(both[costs].replace(",", "")) == pytest.approx(
        float(duels[costs].replace(",", "")) * 6 / 30
    )
    for only in (
        lines({"name": "pointwise"}, scorer=scorer),
        lines({"name": "pointwise"}, judge={"name": "recorded"}),
    ):
        assert only["ratings, at most"] == "15"
        assert "judge calls, at most" not in only and costs not in only


def test_a_judge_that_is_never_asked_needs_no_key(tmp_path: Path, tiny_model_folder: Path) -> None:
    judge, scorer = {"name": "pairwise", "model": PAID}, {"name": f"{__name__}:long"}
    strategy = {"name": "pointwise"}
    assert planned(tmp_path, tiny_model_folder, strategy=strategy, judge=judge, scorer=scorer)
    with pytest.raises(ConfigError, match="NO_SUCH_JUDGE_KEY"):
        planned(
            tmp_path,
            tiny_model_folder,
            strategy={"name": "score_then_duel"},
            judge=judge,
            scorer=scorer,
        )
    sections = {
        "completions": {"name": "file", "path": str(tmp_path / "graded.jsonl")},
        "rank": {"strategy": strategy, "judge": judge, "scorer": scorer},
    }
    assert set(champions(tmp_path, **sections).values()) == {"x" * 500}
    # The judge that the ranking leaves idle is the one of the evaluation.
    (tmp_path / "held.jsonl").write_bytes(jsonl([{"prompt": "another"}]))
    held_out = {"name": "file", "path": str(tmp_path / "held.jsonl")}
    evaluated = {"prompts": held_out, "decoding": {"max_new_tokens": 8}}
    policy = {"name": "hf", "path": str(tiny_model_folder)}
    config = validate(
        values_of(tmp_path, **sections, policy=policy, evaluate=evaluated), where="test"
    )
    with pytest.raises(ConfigError, match="NO_SUCH_JUDGE_KEY"):
        check(config)
    check(config, through="train")


def test_a_judge_that_is_never_asked_need_not_know_the_rows(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    rank = {"judge": {"name": "playground"}, "scorer": {"name": f"{__name__}:long"}}
    assert planned(tmp_path, tiny_model_folder, strategy={"name": "pointwise"}, **rank)


def test_failed_ratings_are_no_judgments(tmp_path: Path) -> None:
    rank = {"strategy": {"name": "pointwise"}, "judge": {"name": f"{__name__}:nothing"}}
    sections = {
        "prompts": {"name": "playground", "count": 4},
        "sample": {"completions_per_prompt": 4},
    }
    with pytest.raises(LimitError, match=r"of \d+ ratings failed"):
        champions(tmp_path, **sections, rank=rank)
