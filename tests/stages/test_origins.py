"""Manifests say where a stage's results come from, and no key is among it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command import prefine
from prefine.judging.pairwise import PairwiseJudge
from prefine.models.scripted import ScriptedModel
from prefine.records import Completion, Message, PreferenceList, PreferencePair, Prompt
from prefine.run.item_rows import list_row, pair_row
from prefine.run.tables import write_part
from prefine.secrets import redacted_command
from prefine.stages import origins
from prefine.stages.pair_examples import list_examples, pair_examples
from run_place import OK, Place


def stages() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("run/manifest.json").read_text())["stages"]
    return found


def test_a_run_stores_command_time_and_python_and_an_older_manifest_is_read(place: Place) -> None:
    assert prefine("sample", "run.yaml", "--run-dir", "run").code == OK
    sample = stages()["sample"]
    assert sample["command"] == ["prefine", "sample", "run.yaml", "--run-dir", "run"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", sample["began_at"])
    assert sample["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert sample["commit"] == origins.commit()
    # As an earlier version wrote it; the stage is finished and stays as it is.
    value = json.loads(Path("run/manifest.json").read_text())
    for name in ("began_at", "command", "commit", "judge_prompt"):
        del value["stages"]["sample"][name]
    Path("run/manifest.json").write_text(json.dumps(value))
    assert prefine("sample", "run.yaml", "--run-dir", "run").code == OK
    assert prefine("report", "run").code == OK
    assert "Commandprefine" not in Path("run/report.html").read_text()


def test_a_checkouts_commit_is_git_s_own_word() -> None:
    head = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
    )
    if head.returncode:
        assert origins.commit() is None
    else:
        assert (origins.commit() or "").removesuffix("-dirty") == head.stdout.strip()


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (["run", "a.yaml", "--set", "train.seed=1"], ["run", "a.yaml", "--set", "train.seed=1"]),
        (["--api-key", "abc", "x"], ["--api-key", "[key]", "x"]),
        (["--token=abc"], ["--token=[key]"]),
        (["--set", "rank.judge.model.api_key=abc"], ["--set", "rank.judge.model.api_key=[key]"]),
        (["x=sk-0123456789abcdefghij"], ["x=[key]"]),
        (["https://me:word@host/v1?key=1&a=2"], ["https://[key]@host/v1?key=[key]&a=2"]),
        (["--token", "--other", "x"], ["--token", "--other", "x"]),
    ],
)
def test_a_command_is_stored_without_keys(given: list[str], stored: list[str]) -> None:
    assert redacted_command(given) == tuple(stored)


def test_a_command_of_any_bytes_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/prefine/__main__.py", "run", "caf\udce9.yaml"])
    assert origins.command() == ("prefine", "run", "caf\\udce9.yaml")


def test_a_judges_question_is_its_template_with_names_for_the_texts() -> None:
    judge = PairwiseJudge(
        model=lambda: ScriptedModel(replies=["A"]), prompt="rubric", rubric="Be brief."
    )
    assert "Be brief." in judge.prompt
    places = [judge.prompt.index(f"[{name}]") for name in ("conversation", "first", "second")]
    assert places == sorted(places) and judge.prompt.endswith("[answer]")


def pair(n: int, gap: float | None, p: float | None = None) -> PreferencePair:
    prompt = Prompt.from_text(f"question {n}")
    chosen, rejected = (
        Completion(
            id=f"{word} {n}",
            prompt_id=prompt.id,
            sample_index=0,
            message=Message(role="assistant", content=f"{word} {n}"),
        )
        for word in ("good", "bad")
    )
    return PreferencePair(
        prompt=prompt, chosen=chosen, rejected=rejected, score_gap=gap, p_chosen=p
    )


def shown(folder: Path, pairs: list[PreferencePair], count: int) -> list[tuple[str, str]]:
    folder.mkdir()
    for number in range(2):
        rows = [pair_row(one) for one in pairs[number::2]]
        write_part(folder / f"part-{number:05d}.parquet", "pairs", rows, key="k")
    return [(one.why, one.prompt) for one in pair_examples(folder, count)]


def test_the_pairs_shown_are_by_gap_and_then_by_hash(tmp_path: Path) -> None:
    gaps = [0.5, 3.0, 1.0, 2.0, 0.1]
    found = shown(tmp_path / "a", [pair(n, gap) for n, gap in enumerate(gaps)], 3)
    assert found[:2] == [("largest gap", "question 1"), ("smallest gap", "question 4")]
    assert found[2][0] == "random" and found[2][1] in {"question 0", "question 2", "question 3"}
    by_p = shown(tmp_path / "b", [pair(n, None, p) for n, p in enumerate([0.6, 0.9, 0.7])], 2)
    assert by_p == [("largest gap", "question 1"), ("smallest gap", "question 0")]


def test_pairs_without_gaps_are_shown_by_hash_whatever_their_order(tmp_path: Path) -> None:
    pairs = [pair(n, None) for n in range(8)]
    found = shown(tmp_path / "a", pairs, 3)
    assert [why for why, _ in found] == ["random"] * 3
    assert shown(tmp_path / "b", pairs[::-1], 3) == found
    assert len(shown(tmp_path / "c", pairs, 20)) == 8
    assert shown(tmp_path / "d", pairs, 0) == []


def listed(n: int, scores: tuple[float, ...] | None) -> PreferenceList:
    prompt = Prompt.from_text(f"question {n}")
    size = len(scores or range(3))
    return PreferenceList(
        prompt=prompt,
        completions=tuple(
            Completion(
                id=f"{n} {at}",
                prompt_id=prompt.id,
                sample_index=at,
                message=Message(role="assistant", content=f"answer {at}"),
            )
            for at in range(size)
        ),
        scores=scores,
        ranks=None if scores else tuple(range(1, size + 1)),
    )


def test_the_lists_shown_are_by_gap_with_their_ends(tmp_path: Path) -> None:
    lists = [listed(0, (2.0, 1.0, 0.5)), listed(1, (9.0, 5.0, 4.0, 3.0, 2.0, 1.0))]
    lists.append(listed(2, (1.0, 0.75)))
    write_part(
        tmp_path / "a" / "part-00000.parquet", "lists", [list_row(one) for one in lists], key="k"
    )
    widest, narrowest, other = list_examples(tmp_path / "a", 3)
    assert (widest.why, widest.prompt, widest.gap, widest.size) == (
        "largest gap",
        "question 1",
        8.0,
        6,
    )
    assert [(one.place, one.text, one.score) for one in widest.answers] == [
        (0, "answer 0", 9.0),
        (1, "answer 1", 5.0),
        (4, "answer 4", 2.0),
        (5, "answer 5", 1.0),
    ]
    assert (narrowest.why, narrowest.prompt) == ("smallest gap", "question 2")
    assert [one.place for one in narrowest.answers] == [0, 1]
    assert (other.why, other.prompt) == ("random", "question 0")


def test_lists_of_ranks_are_shown_at_random(tmp_path: Path) -> None:
    write_part(tmp_path / "a" / "part-00000.parquet", "lists", [list_row(listed(0, None))], key="k")
    (only,) = list_examples(tmp_path / "a", 3)
    assert (only.why, only.gap) == ("random", None)
    assert [(one.rank, one.score) for one in only.answers] == [(1, None), (2, None), (3, None)]
