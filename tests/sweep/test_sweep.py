"""`prefine sweep`: one run for each setting and seed, nothing judged twice, one table."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from command import prefine, start
from prefine.config.sections import RunConfig
from prefine.sweep.run import _input_settings, check_all
from prefine.sweep.trials import read_trials
from run_place import BACKEND, CONFIG, LIMIT, OK, Place, jsonl

JUDGE = """
from pathlib import Path

def longest(prompt, completion) -> float:
    with open("asked.txt", "a") as file:
        file.write(prompt.text + "\\n")
    return float(len(completion.text))

def letters(prompt, text) -> dict[str, float]:
    return {"letters": float(len(set(text)))}
"""
SWEEP = {
    "grid": {"train.regularizer_weight": [0.0, 0.5], "train.loss.beta": [0.1, 0.4]},
    "seeds": [0, 1],
    "baseline": {"train.regularizer_weight": 0.0},
}
NAMES = [
    f"trial-beta={beta}-regularizer_weight={weight}-seed{seed}"
    for beta in (0.1, 0.4)
    for weight in (0.0, 0.5)
    for seed in (0, 1)
]


@pytest.fixture
def sweep(place: Place) -> Place:
    """Prompts with three answers each, a judge that writes down what it is asked, and eight trials
    of two steps.
    """
    place.put("sweep_judge.py", JUDGE)
    place.put("unseen.jsonl", jsonl([{"prompt": f"unseen {n}"} for n in range(5)]))
    rows = [
        {"prompt": f"question {n}", "completions": [{"text": "a" * (m + 1)} for m in range(3)]}
        for n in range(8)
    ]
    place.put("answers.jsonl", jsonl(rows))
    place.change(
        {
            "rank.judge": {"name": "sweep_judge:longest"},
            "rank.strategy": {"name": "pointwise"},
            "pair.held_out_prompts": 2,
            "train.max_steps": 2,
            "train.regularizer": {"name": "budget", "delta": 0.0},
            "evaluate": {
                "prompts": {"name": "file", "path": "unseen.jsonl"},
                "gold": {"name": "sweep_judge:letters"},
                "decoding": {"max_new_tokens": 4},
            },
            "sweep": SWEEP,
        }
    )
    return place


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def test_all_trials_run_and_nothing_is_asked_twice(sweep: Place) -> None:
    found = prefine("sweep", "run.yaml", "--json")
    assert found.code == OK, found.err
    assert sorted(path.name for path in Path("run").glob("trial-*")) == sorted(NAMES)
    # Eight trials over the same 24 answers; those to unseen prompts are the trained models' own.
    asked = Path("asked.txt").read_text().splitlines()
    assert len([one for one in asked if one.startswith("question")]) == 24
    result = json.loads(found.out)
    assert result == json.loads(Path("run/sweep.json").read_text())
    assert result["scored_by"] == "gold"
    assert result["prompts"] == 5
    assert result["baseline"] == "beta=0.1-regularizer_weight=0.0"
    rates = {one["name"]: one["win_rate"]["value"] for one in result["settings"]}
    assert [one["seeds"] for one in result["settings"]] == [[0, 1]] * 4
    for one in result["settings"]:
        mine = [
            [json.loads(line) for line in (path / "evaluation/outcomes.jsonl").open()]
            for path in sorted(Path("run").glob(f"trial-{one['name']}-seed*"))
        ]
        wins = [_win(outcome) for seed in mine for outcome in seed]
        assert one["win_rate"]["value"] == pytest.approx(100 * sum(wins) / len(wins))
        # Of each beta, both weights are compared with the weight 0.
        beta = one["values"]["train.loss.beta"]
        assert one["baseline"] == f"beta={beta}-regularizer_weight=0.0"
        if one["name"] == one["baseline"]:
            assert one["difference"] is None
        else:
            gap = one["win_rate"]["value"] - rates[one["baseline"]]
            assert one["difference"]["value"] == pytest.approx(gap)
        falls = [
            json.loads((path / "train_final.json").read_text())["final"]["fall"]
            for path in sorted(Path("run").glob(f"trial-{one['name']}-seed*"))
        ]
        assert one["fall"]["value"] == pytest.approx(sum(falls) / 2)
        assert one["held_out_fall"]["n"] == 2
    page = Path("run/sweep.html").read_text()
    assert "<script" not in page
    for beta in (0.1, 0.4):
        for weight in (0.0, 0.5):
            assert f'<th scope="row">beta: {beta}, regularizer_weight: {weight}</th>' in page

    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    again = prefine("sweep", "run.yaml")
    assert again.code == OK, again.err
    assert len(Path("asked.txt").read_text().splitlines()) == len(asked)
    after = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {
        path for path in after if path.name in (".lease", "manifest.json", "report.html")
    }
    assert "best of 4" in again.out
    assert "each difference is to the setting with regularizer_weight: 0.0 and the same beta" in (
        again.out
    )


def _win(outcome: dict[str, Any]) -> float:
    gap = outcome["gold_after"]["letters"] - outcome["gold_before"]["letters"]
    return 0.5 if gap == 0 else float(gap > 0)


def test_a_trial_is_the_run_that_its_settings_make(sweep: Place) -> None:
    place = sweep
    place.change({"sweep": {"grid": {"train.loss.beta": [0.1, 0.4]}}})
    assert prefine("sweep", "run.yaml").code == OK
    del place.config["sweep"]
    place.change({"train.loss.beta": 0.4})
    assert prefine("run", "run.yaml", "--run-dir", "alone").code == OK
    trial = Path("run/trial-beta=0.4")
    assert weights(trial) == weights(Path("alone"))
    for name in ("metrics.json", "train_log.jsonl", "evaluation/outcomes.jsonl"):
        assert (trial / name).read_bytes() == (Path("alone") / name).read_bytes()


def test_a_sweep_that_is_killed_goes_on(sweep: Place) -> None:
    whole = prefine("sweep", "run.yaml", "--run-dir", "whole", "--json")
    asked = len(Path("asked.txt").read_text().splitlines())
    Path("asked.txt").unlink()
    for count in (1, 3):
        process = start("sweep", "run.yaml")
        end = time.monotonic() + 120
        while len(list(Path("run").glob("trial-*/model/model.safetensors"))) < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "no trial was trained"
            time.sleep(0.01)
        process.kill()
        process.wait()
    found = prefine("sweep", "run.yaml", "--json")
    assert found.code == OK, found.err
    assert json.loads(found.out) == json.loads(whole.out)
    assert len(Path("asked.txt").read_text().splitlines()) == asked
    for name in NAMES:
        assert weights(Path("run") / name) == weights(Path("whole") / name)


def test_trials_side_by_side_come_to_the_same(sweep: Place) -> None:
    sweep.change({"sweep": {"grid": {"train.loss.beta": [0.1, 0.2, 0.4]}}})
    one = prefine("sweep", "run.yaml", "--run-dir", "one", "--json")
    Path("asked.txt").unlink()
    two = prefine("sweep", "run.yaml", "--run-dir", "two", "--jobs", "2", "--json")
    assert (one.code, two.code) == (OK, OK), two.err
    assert json.loads(one.out) == json.loads(two.out)
    asked = Path("asked.txt").read_text().splitlines()
    assert len([line for line in asked if line.startswith("question")]) == 24
    for trial in Path("one").glob("trial-*"):
        assert weights(trial) == weights(Path("two") / trial.name)


def test_a_trial_that_fails_beside_others_says_where_its_output_is(sweep: Place) -> None:
    sweep.change({"sweep": {"grid": {"train.learning_rate": [1e-3, 1e38]}}})
    found = prefine("sweep", "run.yaml", "--jobs", "2")
    assert found.code == BACKEND, found.err
    log = Path("run/trial-learning_rate=1e+38.log")
    assert f"exit code {LIMIT}; see {log}" in found.err
    assert "not finite" in log.read_text()


def test_a_hill_over_a_number_and_the_dry_run(sweep: Place) -> None:
    sweep.change(
        {"sweep": {"grid": {"train.regularizer_weight": [0.01, 0.1, 1.0, 10.0]}, "seeds": [0, 1]}}
    )
    dry = prefine("sweep", "run.yaml", "--dry-run")
    assert dry.code == OK, dry.err
    assert "8 trials" in dry.out
    assert not Path("run").exists()
    found = prefine("sweep", "run.yaml")
    assert found.code == OK, found.err
    (hill,) = json.loads(Path("run/sweep.json").read_text())["hills"]
    assert (hill["path"], hill["log"]) == ("train.regularizer_weight", True)
    assert "train.regularizer_weight: the" in found.out


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (None, ["no section sweep", "grid:"]),
        ({}, ["sweep", "name what to vary"]),
        ({"grid": {"train.loss.beta": []}}, ["sweep.grid.train.loss.beta"]),
        ({"grid": {"beta": [1, 2]}}, ["sweep.grid.beta"]),
        ({"grid": {"train.loss.betta": [0.1]}}, ["trial-betta=0.1", "betta"]),
        ({"grid": {"train.lr": [0.1]}}, ["trial-lr=0.1", "train.lr"]),
        ({"grid": {"train.loss.beta": [0.1, 0.1]}}, ["there twice"]),
        ({"grid": {"train.loss.beta": [0.1]}, "seeds": [1, 1]}, ["seed is there twice"]),
        ({"grid": {"train.loss.beta": [0.1]}, "seeds": [-1]}, ["sweep.seeds"]),
        (
            {"grid": {"train.loss.beta": [0.1]}, "baseline": {"train.loss.beta": 0.3}},
            ["baseline", "no setting has"],
        ),
        ({"grid": {"train.loss.beta": [-0.1]}}, ["trial-beta=-0.1", "greater than 0"]),
        ({"gird": {"train.loss.beta": [0.1]}}, ["gird", "grid"]),
    ],
)
def test_what_cannot_be_swept_is_said_before_anything_is_made(
    sweep: Place, section: Any, words: list[str]
) -> None:
    sweep.change({"sweep": section})
    if section is None:
        del sweep.config["sweep"]
        sweep.write_config()
    found = prefine("sweep", "run.yaml")
    assert found.code == CONFIG, found
    assert all(word in found.err for word in words), found.err
    assert not Path("run").exists()


def test_run_says_that_a_configuration_is_a_sweep(sweep: Place) -> None:
    found = prefine("run", "run.yaml")
    assert found.code == CONFIG
    assert "prefine sweep run.yaml" in found.err


def test_every_committed_sweep_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).parents[2] / "configs" / "sweeps"
    monkeypatch.syspath_prepend(str(folder))
    files = sorted(folder.glob("*.yaml"))
    assert files
    for path in files:
        check_all(read_trials(path, (), None))


def test_inputs_are_the_same_for_seeds_of_sections_and_not_for_those_of_sources() -> None:
    values = {
        "run_dir": "run",
        "policy": {"name": "playground"},
        "prompts": {"name": "playground", "count": 4, "seed": 0},
        "sample": {"seed": 0},
        "rank": {"judge": {"name": "playground"}},
    }

    def inputs(**changes: Any) -> str:
        return _input_settings(RunConfig.model_validate({**values, **changes}))

    assert inputs(sample={"seed": 1}, train={"seed": 1, "learning_rate": 1e-3}) == inputs()
    assert inputs(prompts={"name": "playground", "count": 4, "seed": 1}) != inputs()


def test_shares_of_the_data_show_their_growth(sweep: Place) -> None:
    rows = [
        {
            "prompt": f"question {n}",
            "source": "ab"[n % 2],
            "completions": [{"text": "a" * (m + 1)} for m in range(3)],
        }
        for n in range(22)
    ]
    sweep.put("answers.jsonl", jsonl(rows))
    sweep.change(
        {
            "sweep": {
                "grid": {"pair.fraction": [0.2, 0.4, 0.6, 1.0]},
                "seeds": [0, 1],
                "baseline": {"pair.fraction": 1.0},
            },
            "train.epochs": 9,
        }
    )
    found = prefine("sweep", "run.yaml", "--json")
    assert found.code == OK, found.err
    result = json.loads(found.out)
    assert result["settings"][-1]["items"] == 20
    items = [one["items"] for one in result["settings"]]
    assert items == sorted(set(items))
    (growth,) = result["growths"]
    assert growth["others"] == {}
    assert len(growth["interval"]) == 2
    assert not result["hills"]
    # Every trial takes as many steps, and asks what was asked before no more.
    for path in Path("run").glob("trial-*/train_log.jsonl"):
        assert len(path.read_text().splitlines()) == 2
    asked = [one for one in Path("asked.txt").read_text().splitlines() if one[:8] == "question"]
    assert len(asked) == 66
    shown = prefine("sweep", "run.yaml")
    assert "with more data" in shown.out and shown.out.splitlines()[0].endswith("items")
    assert "Items trained on" in Path("run/sweep.html").read_text()
