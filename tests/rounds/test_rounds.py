"""`rounds`: runs that go on from one another, in one command that resumes anywhere."""

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from command import prefine, start
from prefine.config.sections import RunConfig
from prefine.records import Completion, Message, PreferencePair, Prompt
from prefine.rounds.configs import RoundsPlan
from prefine.run.item_rows import pair_row
from prefine.run.tables import part_path, write_part
from prefine.run.view import RunView
from run_place import CONFIG, DATA, GONE, OK, Place, jsonl

JUDGE = """
def longest(prompt, completion) -> float:
    return float(len(completion.text))

def letters(prompt, text) -> dict[str, float]:
    return {"letters": len(set(text)) / 100}
"""
SETTINGS = {
    "completions": GONE,
    "prompts": {"name": "file", "path": "prompts.jsonl"},
    "sample": {"completions_per_prompt": 3, "temperature": 1.0, "max_new_tokens": 6},
    "rank": {"judge": {"name": "rounds_judge:longest"}, "strategy": {"name": "pointwise"}},
    "pair.held_out_prompts": 0,
    "train.max_steps": 3,
    "train.train_on_truncated": True,
    "train.checkpoint_every": 1,
    "train.learning_rate": 1e-2,
    "evaluate": {
        "prompts": {"name": "file", "path": "unseen.jsonl"},
        "gold": {"name": "rounds_judge:letters"},
        "bootstrap_samples": 50,
    },
    "rounds": {"count": 2, "replay": 0.4, "optimizer": "keep"},
}
FIRST = {"name": "hf", "path": "first"}
OTHER = {"name": "hf", "path": "other", "weight": 0.3}
KEPT = (
    "completions/*",
    "rankings/*",
    "judgments/*",
    "pairs/*",
    "train_log.jsonl",
    "train_final.json",
    "model/*",
    "evaluation/outcomes.jsonl",
    "metrics.json",
)


def prepare(place: Place) -> Place:
    place.put("rounds_judge.py", JUDGE)
    place.put("prompts.jsonl", jsonl([{"prompt": f"question {n}"} for n in range(12)]))
    place.put("unseen.jsonl", jsonl([{"prompt": f"unseen {n}"} for n in range(6)]))
    place.change(SETTINGS)
    return place


@pytest.fixture
def rounds(place: Place) -> Place:
    """Twelve prompts in two rounds of three steps each."""
    return prepare(place)


def walk(*arguments: str) -> dict[str, Any]:
    found = prefine("run", *arguments, "--json")
    assert found.code == OK, found.err
    return json.loads(found.out)  # type: ignore[no-any-return]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes that must not depend on how often the walk was interrupted."""
    kept = (f"round-*/{glob}" for glob in KEPT)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for glob in (*kept, "figures/*")
        for path in sorted(folder.glob(glob))
    }


def manifests(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    return dict(json.loads(path.read_text())["stages"]) if path.exists() else {}


def ids(folder: Path) -> set[str]:
    return {prompt.id for prompt in RunView(folder).prompts()}


def test_rounds_are_ordinary_runs_that_go_on_from_one_another(rounds: Place) -> None:
    result = walk("run.yaml")
    first, second = Path("run/round-01"), Path("run/round-02")
    assert len(ids(first)) + len(ids(second)) == 12
    assert not ids(first) & ids(second)
    for number, folder in enumerate((first, second), start=1):
        for manifest in manifests(folder).values():
            assert (manifest["round"], manifest["parent_run"]) == (number, "..")
        assert manifests(Path("run"))[folder.name]["round"] == number
        assert manifests(Path("run"))[folder.name]["complete"]
    trained = manifests(first)["train"]["output_hashes"]["model"]
    assert manifests(second)["train"]["input_hashes"]["policy"] == trained
    initial = manifests(first)["train"]["input_hashes"]["policy"]
    assert manifests(second)["train"]["input_hashes"]["reference"] == initial
    assert manifests(second)["evaluate"]["input_hashes"]["baseline"] == initial
    # The optimizer has taken the two steps of the first round's four pairs, and three more.
    steps = load_file(second / "checkpoints/step-00003/optimizer.safetensors")["0.step"]
    assert float(steps) == 5
    # Two of five pairs are of the first round; there are no more than it has.
    own = [pair.prompt.id in ids(second) for pair in RunView(second).pairs()]
    had = len(list(RunView(first).pairs()))
    assert own.count(False) == min(round(own.count(True) * 2 / 3), had) > 0

    # The figures of the second round against the first, from the gold scores of both.
    gold = [
        {one["prompt_id"]: one["gold_after"]["letters"] for one in RunView(folder).outcomes()}
        for folder in (first, second)
    ]
    gaps = [gold[1][id_] - gold[0][id_] for id_ in gold[0]]
    wins = [0.5 if abs(gap) < 1e-9 else float(gap > 0) for gap in gaps]
    figures = result["rounds"][1]["figures"]
    by_gold = next(one for one in figures["over_previous"] if one["role"] == "gold")
    assert by_gold["win_rate"]["value"] == pytest.approx(100 * sum(wins) / 6)
    texts = [
        {one["prompt_id"]: one["after"] for one in RunView(folder).outcomes()}
        for folder in (first, second)
    ]
    longer = [len(texts[1][id_]) - len(texts[0][id_]) for id_ in texts[0]]
    judged = next(one for one in figures["over_previous"] if one["role"] == "judge")
    assert (judged["wins"], judged["losses"]) == (
        sum(gap > 0 for gap in longer),
        sum(gap < 0 for gap in longer),
    )
    means = [sum(one.values()) / 6 for one in gold]
    before = [one["gold_before"]["letters"] for one in RunView(first).outcomes()]
    best = int(means[0] > sum(before) / 6 + 1e-12)
    assert figures["best_before"] == best
    page = Path("run/report.html").read_text()
    assert "<script" not in page
    assert "Win rate over the round before" in page

    # Its configuration alone makes the same run.
    values = json.loads((second / "config.json").read_text())["config"]
    Path("alone.yaml").write_text(yaml.safe_dump({**values, "run_dir": "run/alone"}))
    assert prefine("run", "alone.yaml").code == OK
    weights = "model/model.safetensors"
    assert (Path("run/alone") / weights).read_bytes() == (second / weights).read_bytes()
    assert prefine("report", str(second)).code == OK

    # Again: nothing happens. Extended, in a folder that was moved: the third round has the first
    # part again, and the others stay.
    whole = contents(Path("run"))
    assert walk("run.yaml")["rounds"] == result["rounds"]
    Path("run").rename("moved")
    longer_walk = walk("moved", "--set", "rounds.count=3")
    assert longer_walk["rounds"][:2] == result["rounds"]
    third = Path("moved/round-03")
    assert ids(third) == ids(Path("moved/round-01"))
    now = contents(Path("moved"))
    assert {name: now[name] for name in whole} == whole


def test_a_budget_of_all_rounds_counts_from_the_first_policy(rounds: Place) -> None:
    rounds.change(
        {
            "evaluate": {},
            "rounds": {"count": 2, "prompts": "same", "reference": "previous"},
            "train.regularizer": {"name": "budget", "delta": 0.5},
            "pair.held_out_prompts": 4,
        }
    )
    walk("run.yaml")
    walk("run.yaml", "--run-dir", "since", "--set", "rounds.budget_since=initial")
    for name in ("model/model.safetensors", "train_log.jsonl"):
        of_round, of_all = (Path(run, "round-01", name) for run in ("run", "since"))
        assert of_round.read_bytes() == of_all.read_bytes(), "the first one begins with it"
    initial = manifests(Path("since/round-01"))["train"]["input_hashes"]["policy"]
    inputs = [
        manifests(Path(run, f"round-0{number}"))["train"]["input_hashes"].get("first_policy")
        for run in ("run", "since")
        for number in (1, 2)
    ]
    assert inputs == [None, None, None, initial]
    starts = [
        json.loads(Path(run, "round-02/eval_log.jsonl").read_text().splitlines()[0])
        for run in ("run", "since")
    ]
    assert [one["margin"] for one in starts] == pytest.approx([0, 0], abs=1e-3)
    assert starts[0]["fall"] == pytest.approx(0, abs=1e-4)
    assert abs(starts[1]["fall"]) > 1e-3
    steps = [
        json.loads(Path(run, "round-02/train_log.jsonl").read_text().splitlines()[0])
        for run in ("run", "since")
    ]
    assert steps[0]["chosen_change"] == pytest.approx(0, abs=1e-4) != steps[1]["chosen_change"]


def journaled(folder: Path) -> int:
    path = folder / "journal" / "part-00000.sqlite"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as connection:
        try:
            return int(connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # the process is just making the file


def kill_when(moment: Callable[[], bool], *arguments: str, or_ended: bool = False) -> None:
    process = start(*arguments)
    end = time.monotonic() + 300
    while process.poll() is None and not moment():
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.002)
    assert or_ended or process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.wait()


def resume_and_compare(run: Path, whole: Path, figures: list[Any]) -> None:
    """The same command again gives the bytes of an uninterrupted walk, and asks only what was
    not answered.
    """
    names = [Path(), *(Path(f"round-{number:02d}") for number in (1, 2, 3))]
    folders = [run / name for name in names]
    answered = sum(map(journaled, folders))
    done = {
        (folder, name)
        for folder in folders
        for name, manifest in manifests(folder).items()
        if manifest["complete"]
    }
    result = walk("run.yaml", "--run-dir", str(run))
    asked = sum(
        manifest["usage"]["calls"] - manifest["replayed"]
        for folder in folders
        for name, manifest in manifests(folder).items()
        if (folder, name) not in done
    )
    assert asked == sum(map(journaled, folders)) - answered, "a journaled answer was asked again"
    assert contents(run) == contents(whole)
    assert [one["figures"] for one in result["rounds"]] == figures


def whole_walk(rounds: Place) -> list[Any]:
    """The figures of three rounds that nothing interrupts, in the folder `whole`."""
    rounds.change({"rounds.count": 3, "rounds.keep_models": "last"})
    return [one["figures"] for one in walk("run.yaml", "--run-dir", "whole")["rounds"]]


def test_kills_over_three_rounds_leave_the_same_bytes(rounds: Place) -> None:
    figures, run = whole_walk(rounds), Path("run")
    log = run / "round-01" / "train_log.jsonl"
    for moment in (
        lambda: log.exists() and log.read_bytes().count(b"\n") >= 1,
        lambda: journaled(run / "round-02") >= 1,
        lambda: journaled(run) >= 1 and (run / "round-03" / "report.html").exists(),
    ):
        kill_when(moment, "run", "run.yaml")
    resume_and_compare(run, Path("whole"), figures)
    assert [path.parent.name for path in run.glob("round-*/model")] == ["round-03"]


@pytest.mark.torture
def test_ten_kills_at_random_moments_over_three_rounds(rounds: Place) -> None:
    began = time.monotonic()
    figures = whole_walk(rounds)
    seconds = time.monotonic() - began
    rng = random.Random(int(os.environ.get("PREFINE_TORTURE_SEED", "0")))
    for number in range(10):
        run, end = Path(f"run-{number}"), time.monotonic() + rng.uniform(0, seconds)
        arguments = ("run", "run.yaml", "--run-dir", str(run))
        kill_when(lambda end=end: time.monotonic() >= end, *arguments, or_ended=True)  # type: ignore[misc]
        reached = [path.name for path in sorted(run.glob("round-*"))]
        resume_and_compare(run, Path("whole"), figures)
        print(f"kill {number + 1:2d}: rounds begun {reached}, bytes equal")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"sample.model": {"name": "openai", "model": "m", "base_url": "http://x/v1"}},
            "a policy behind a URL cannot be replaced between rounds",
        ),
        ({"policy": {"name": "scripted", "replies": ["a"]}}, "policy.name: 'scripted' has no path"),
        ({"rounds.prompts": {"path": "more.jsonl"}}, "rounds.prompts.path: has no {round}"),
        (
            {"rounds.prompts": {"path": "more-{round}.jsonl"}},
            "rounds.prompts: prompts.path: more-2.jsonl: no such file",
        ),
        ({"rounds.count": 0}, "rounds.count"),
        ({"evaluate.prompts": GONE, "rounds.stop": {"no_gain": 1}}, "rounds.stop: needs the win"),
        ({"rounds.parts": 2, "rounds.prompts": "same"}, "parts: is for prompts: split"),
        ({"rounds.count": 50}, "none of 12 prompts"),
        (
            {
                "train.adapter": {"name": "lora", "save": "adapter"},
                "rounds.optimizer": "reset",
            },
            "use save: merged",
        ),
        (
            {"rounds.reference": "previous", "train.reference": {"name": "hf", "path": "model"}},
            "rounds.reference: previous",
        ),
        (
            {
                "rounds.reference": "previous",
                "train.loss": {"name": "mrpo"},
                "train.reference": ["initial", {"name": "hf", "path": "model"}],
            },
            "train.reference: names the policy of the first round beside initial",
        ),
        (
            {"train": {"reward": {}}, "evaluate": GONE, "rounds": {"count": 2}},
            "train.reward: trains a reward model, which writes no answers",
        ),
        ({"evaluate.baseline": {"name": "hf", "path": "model"}}, "leave evaluate.model"),
        (
            {"train.adapter": {"name": "lora"}, "rounds.optimizer": "keep"},
            "rounds.optimizer: keep, and train.adapter",
        ),
        ({"pair.replay": {"share": 0.5}}, "write rounds.replay"),
        ({"rounds": GONE, "pair.replay": {"share": 0.5}}, "pair.replay: is for a run of several"),
        ({"rounds.replay": 1.5}, "rounds.replay.share"),
        ({"rounds.sample_from": "both"}, "rounds.sample_from"),
        (
            {"rounds.sample_from": [{"policy": "initial", "weight": 1}] * 2},
            "sample_from: names initial and initial; name each policy once, with its weight",
        ),
        (
            {"rounds.sample_from": [{"policy": "older", "weight": 1}] * 2},
            "rounds.sample_from.0.policy",
        ),
        ({"sample.part": {"number": 3, "of": 2}}, "there are 2 parts"),
        ({"prompts": GONE, "pairs": {"name": "file", "path": "pairs.jsonl"}}, "rounds: every"),
    ],
)
def test_what_cannot_be_walked_is_refused(
    rounds: Place, changes: dict[str, Any], said: str
) -> None:
    rounds.change(changes)
    found = prefine("run", "run.yaml")
    assert (found.code, said in found.err) == (CONFIG, True), found.err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("initial", [FIRST, OTHER]), ("previous", ["initial", OTHER])],
)
def test_initial_among_several_references_is_what_the_rounds_say(
    reference: str, expected: list[Any]
) -> None:
    config = RunConfig.model_validate(
        {
            "run_dir": "run",
            "policy": FIRST,
            "prompts": {"name": "file", "path": "prompts.jsonl"},
            "sample": {},
            "rank": {"judge": {"name": "playground"}},
            "train": {"loss": {"name": "mrpo"}, "reference": ["initial", OTHER]},
            "rounds": {"count": 2, "reference": reference},
        }
    )
    second = RoundsPlan(config).config_of(2).train
    assert second.model_dump(mode="json")["reference"] == expected
    found = [(one.model and one.model.options["path"], one.weight) for one in second.references]
    first = None if reference == "previous" else "first"
    assert found == [(first, pytest.approx(0.7)), ("other", pytest.approx(0.3))]


def test_an_evaluation_prompt_of_any_round_is_refused(rounds: Place) -> None:
    rounds.put("unseen.jsonl", jsonl([{"prompt": "unseen 0"}, {"prompt": "question 3"}]))
    found = prefine("run", "run.yaml", "--dry-run")
    assert found.code == DATA
    assert "1 of its prompts are among those of the rounds" in found.err


def test_stages_and_sweeps_leave_rounds_to_run(rounds: Place) -> None:
    found = prefine("sample", "run.yaml")
    assert (found.code, "prefine report run/round-01" in found.err) == (CONFIG, True)
    rounds.change({"sweep": {"grid": {"train.loss.beta": [0.1, 0.2]}}})
    found = prefine("sweep", "run.yaml")
    assert (found.code, "a sweep does not walk rounds yet" in found.err) == (CONFIG, True)


def test_a_round_that_has_ended_keeps_its_settings(rounds: Place) -> None:
    assert prefine("run", "run.yaml", "--set", "rounds.count=1").code == OK
    found = prefine("run", "run.yaml", "--set", "train.learning_rate=0.5")
    assert found.code == CONFIG
    assert "round 1 has ended" in found.err
    assert "train.learning_rate: 0.01 → 0.5" in found.err
    found = prefine("run", "run.yaml", "--set", "evaluate.judge=rounds_judge:longest")
    assert found.code == CONFIG
    assert "evaluate.judge: null → " in found.err
    assert json.loads(Path("run/config.json").read_text())["config"]["rounds"]["count"] == 1


def test_begun_rounds_are_not_taken_back_and_their_held_out_prompts_stay_held_out(
    rounds: Place,
) -> None:
    # A prompt whose answers are all equal gives no pair, so the held-out ones of a round alone
    # would be others in the next one.
    rounds.change({"rounds": {"count": 3, "prompts": "same"}, "pair.held_out_prompts": 4})
    rounds.change({"evaluate": {}})
    walk("run.yaml", "--set", "rounds.count=2")
    folders = [Path("run/round-01"), Path("run/round-02")]
    held_out = [
        {pair.prompt.id for pair in RunView(folder).pairs("heldout_pairs")} for folder in folders
    ]
    trained = [{pair.prompt.id for pair in RunView(folder).pairs()} for folder in folders]
    assert len(held_out[0]) == 4
    assert len(held_out[1]) == 4 and not held_out[0] & trained[1]
    assert held_out[0] & {pair.prompt.id for pair in RunView(folders[1]).pairs("heldout_pairs")}

    found = prefine("run", "run.yaml", "--set", "rounds.count=1")
    assert found.code == CONFIG
    assert "rounds.count: 1 is fewer than the 2 rounds that have begun" in found.err
    assert "rounds.count: 2 or more" in found.err.replace("\n", " ")
    assert json.loads(Path("run/config.json").read_text())["config"]["rounds"]["count"] == 2


def test_held_out_prompts_of_earlier_rounds_are_kept(tmp_path: Path) -> None:
    """By the tables alone: those of round 1 stay, those that it trained on are never taken."""
    from prefine.stages.pair import held_out

    def table(name: str, ids: list[str]) -> None:
        rows = [
            pair_row(
                PreferencePair(
                    prompt=Prompt(id=id_, messages=(Message(role="user", content=id_),)),
                    chosen=_answer(id_, "good"),
                    rejected=_answer(id_, "bad"),
                )
            )
            for id_ in ids
        ]
        write_part(part_path(tmp_path / "round-01" / name, 0), "pairs", rows, key="k")

    def found(lineage: int | None, *ids: str) -> set[str]:
        values: dict[str, Any] = {
            "run_dir": str(tmp_path / "round-02"),
            "policy": FIRST,
            "pairs": {"name": "file", "path": "p.jsonl"},
            "pair": {"held_out_prompts": 3},
        }
        if lineage is not None:
            values["lineage"] = {"round": lineage, "initial": FIRST}
        return set(held_out(ids, RunConfig.model_validate(values)))

    ids = [f"p{n}" for n in range(12)]
    plain = found(None, *ids)
    table("pairs", sorted(plain)[:2])
    table("heldout_pairs", [sorted(set(ids) - plain)[0]])
    assert found(1, *ids) == found(None, *ids) == plain
    second = found(2, *ids)
    assert len(second) == 3
    assert sorted(set(ids) - plain)[0] in second
    assert not second & set(sorted(plain)[:2])
    nearly_all = ids[:-1]
    table("pairs", nearly_all)
    table("heldout_pairs", [])
    last = found(2, *ids)
    assert len(last) == 3 and ids[-1] in last, "those that were trained on come last"


def _answer(prompt: str, text: str) -> Completion:
    message = Message(role="assistant", content=text)
    return Completion(id=f"{prompt} {text}", prompt_id=prompt, sample_index=0, message=message)


def test_a_mixture_keeps_answers_of_the_initial_policy_and_adapters_are_merged(
    rounds: Place,
) -> None:
    shares = [{"policy": "current", "weight": 2}, {"policy": "initial", "weight": 1}]
    settings = {"count": 2, "sample_from": shares, "reference": "previous"}
    rounds.change({"rounds": settings, "train.adapter": "lora"})
    walk("run.yaml")
    assert not list(Path("run").glob("round-*/model/adapter_config.json"))
    assert "reference" not in manifests(Path("run/round-02"))["train"]["input_hashes"]
    # Paths of models in a folder that was moved are followed, wherever they stand.
    Path("run").rename("moved")
    assert len(walk("moved")["rounds"]) == 2
    Path("moved").rename("run")
    for _, completions in RunView(Path("run/round-02")).completions():
        assert [one.model for one in completions] == ["round-01", "model", "round-01"]
    models = {
        one.model for _, found in RunView(Path("run/round-01")).completions() for one in found
    }
    assert models == {"model"}


def test_a_dry_run_plans_every_round(rounds: Place) -> None:
    found = prefine("run", "run.yaml", "--dry-run", "--json", "--set", "rounds.prompts=same")
    assert found.code == OK, found.err
    planned = json.loads(found.out)["rounds"]
    assert [one["completions to sample"] for one in planned.values()] == [36, 36]
    assert not Path("run").exists()
    shown = prefine("run", "run.yaml", "--dry-run")
    assert "in 2 rounds" in shown.out
