"""Verdicts of people as a judge: either order, several annotators, what is missing or refused."""

from pathlib import Path

import pytest

from prefine.config.base import Component
from prefine.errors import ConfigError, DataError
from prefine.judges.human import HumanJudge, HumanVerdict, answer_key
from prefine.judges.protocol import ComputedJudge, ComputedScorer
from prefine.judging.choose import make_judge
from prefine.judging.recorded import recorded
from prefine.records import Completion, Message, Prompt

PROMPT = Prompt.from_text("Say something.")


def completion(text: str, id_: str = "") -> Completion:
    message = Message(role="assistant", content=text)
    return Completion(id=id_ or text, prompt_id=PROMPT.id, sample_index=0, message=message)


def said(first: str, second: str, p: float | None, name: str = "anna") -> HumanVerdict:
    return HumanVerdict(
        judge=f"human:{name}",
        scope="rank",
        prompt_id=PROMPT.id,
        first=first,
        second=second,
        first_answer=answer_key(completion(first)),
        second_answer=answer_key(completion(second)),
        p_first=p,
        error="skipped" if p is None else None,
        queue="random",
        at="2026-01-01T00:00:00+00:00",
    )


def p_first(judge: HumanJudge, first: str, second: str) -> float | None:
    # In another run the same answers have other ids.
    return judge.compare(PROMPT, completion(first, "x"), completion(second, "y")).p_first


def test_verdicts_are_found_in_either_order_and_averaged_over_annotators() -> None:
    rows = [said("a", "b", 1.0), said("b", "a", 0.5, "ben"), said("c", "a", 0.0)]
    judge = HumanJudge(rows)
    assert isinstance(judge, ComputedJudge)
    assert not isinstance(judge, ComputedScorer)
    assert (p_first(judge, "a", "b"), p_first(judge, "b", "a")) == (0.75, 0.25)
    assert p_first(judge, "a", "c") == 1
    assert HumanJudge(rows[::-1]).fingerprint == judge.fingerprint
    assert HumanJudge(rows[:2]).fingerprint != judge.fingerprint


def test_what_nobody_has_judged_is_missing_and_the_last_verdict_counts() -> None:
    judge = HumanJudge([said("a", "b", 1.0), said("b", "a", 1.0), said("a", "c", None)])
    assert p_first(judge, "a", "b") == 0
    missing = judge.compare(PROMPT, completion("a"), completion("c"))
    assert missing == (None, "no person has judged these two answers")
    judge = HumanJudge([said("a", "b", 1.0), said("a", "b", None)])
    assert p_first(judge, "a", "b") is None
    other = Prompt.from_text("Say something else.")
    judge = HumanJudge([said("a", "b", 1.0)])
    assert judge.compare(other, completion("a"), completion("b")).p_first is None


def test_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "annotations"
    folder.mkdir(parents=True)
    for name, p in (("anna", 1.0), ("ben", 0.0)):
        (folder / f"{name}.jsonl").write_text(said("a", "b", p, name).model_dump_json() + "\n")
    one = recorded(path=str(folder / "anna.jsonl"))
    both = recorded(path=str(folder))
    assert isinstance(one, HumanJudge)
    assert isinstance(both, HumanJudge)
    assert (p_first(one, "a", "b"), p_first(both, "a", "b")) == (1, 0.5)


def test_what_is_refused(tmp_path: Path) -> None:
    def refused(error: type[Exception], said: str, **options: object) -> None:
        component = Component(name="recorded", **options)
        with pytest.raises(error, match=said):
            make_judge(component, where="rank.judge")

    path = tmp_path / "anna.jsonl"
    refused(ConfigError, r"rank.judge.path: .*anna.jsonl: no verdicts here", path=str(path))
    path.write_text(said("a", "b", None).model_dump_json() + "\n")
    refused(DataError, r"rank.judge.path: .* holds no verdict", path=str(path))
    path.write_text('{"prompt": 1}\n')
    refused(DataError, r"anna.jsonl:1: no verdict of a person", path=str(path))
    refused(ConfigError, "no grades; take field and temperature out", path="x", field="grade")
    (tmp_path / "annotations").mkdir()
    path.rename(tmp_path / "annotations" / "anna.jsonl")
    refused(ConfigError, "is a run; name .*annotations for its", path=str(tmp_path))
