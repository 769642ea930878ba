"""Lists and labelled answers through the command: from rankings and files to a model and a report;
killed without warning; and refused where the loss reads other items.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from command import prefine, start
from prefine.run.view import RunView
from run_place import CONFIG, DATA, GONE, OK, Place, jsonl

QUIET = {"rank": GONE, "completions": GONE, "train.regularizer": GONE}
TRAINED = {"train.max_steps": 4, "train.epochs": 4, "train.evaluate_every": 2}
LISTS = {**QUIET, "lists": {"name": "file", "path": "lists.jsonl"}, "train.loss": "list_mle"}
LABELS = {**QUIET, "labels": {"name": "file", "path": "labels.jsonl"}, "train.loss": "kto"}
LISTS["train.loss"] = {"name": "list_mle"}
LABELS["train.loss"] = {"name": "kto", "z0": 0.1}
ENTRIES: dict[str, dict[str, Any]] = {"lists": LISTS, "labels": LABELS}


def good_lists() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"question {n}",
            "completions": [{"text": f"answer {n} {m}", "score": m / 2} for m in range(2 + n % 3)],
        }
        for n in range(6)
    ]


def good_labels() -> list[dict[str, Any]]:
    """Rows as TRL's KTO trainer reads them."""
    return [
        {"prompt": f"question {n // 2}", "completion": f"answer {n}", "label": n % 3 > 0}
        for n in range(12)
    ]


@pytest.fixture
def items(place: Place) -> Place:
    place.put("lists.jsonl", jsonl(good_lists()))
    place.put("labels.jsonl", jsonl(good_labels()))
    return place


def rows(name: str, run: str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, name).read_text().splitlines()]


def metrics() -> dict[str, float]:
    return {
        one["name"]: one["value"]
        for one in json.loads(Path("run/metrics.json").read_text())["metrics"]
    }


def assert_tokens_are_kept(answers: dict[str, str]) -> set[str]:
    """The kept tokens are the texts of held-out answers, given by id; what they are called."""
    kept = list(RunView(Path("run")).token_logps())
    assert {one.completion_id for one in kept} == answers.keys()
    for one in kept:
        text = "".join(one.tokens)
        assert text.startswith(answers[one.completion_id]) and len(one.logps) > 1
    return {one.role for one in kept}


def test_rankings_become_lists_that_are_trained_on_and_evaluated(items: Place) -> None:
    items.change({"train.regularizer": GONE, **TRAINED, "train.loss": {"name": "list_mle"}})
    items.change({"rank.strategy": {"name": "merge"}, "pair.selector": {"name": "lists"}})
    items.change({"pair.held_out_prompts": 1})
    items.change({"evaluate.metrics": [{"name": "list_ranking_accuracy"}]})
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    assert Path("run/lists").is_dir() and Path("run/heldout_lists").is_dir()
    assert not Path("run/pairs").exists()
    first, *_, last = rows("train_log.jsonl")
    assert first["lists"] == 2 and last["loss"] < first["loss"]
    assert {"ranking_accuracy", "margin", "best_change", "fall", "grad_norm"} <= first.keys()
    assert [row["step"] for row in rows("eval_log.jsonl")] == [0, 2, 4]
    assert 0 <= metrics()["reward_ranking_accuracy"] <= 100
    # One list: ranked as it should be, or not.
    assert metrics()["list_ranking_accuracy"] in (0, 100)
    held_out = RunView(Path("run")).lists("heldout_lists")
    answers = {answer.id: answer.text for one in held_out for answer in one.completions}
    assert assert_tokens_are_kept(answers) == {"completion 1", "completion 2", "completion 3"}
    page = Path("run/report.html").read_text()
    assert "Trained on lists." in page and "Ranking accuracy: comparisons of a list" in page
    card = Path("run/model/README.md").read_text()
    assert "3 lists of answers, 4 optimizer steps" in card and "ranking accuracy" in card


def test_rankings_become_labelled_answers_whose_auc_is_measured(items: Place) -> None:
    """The grades of the answers to a prompt are 0, 1 and 2."""
    items.change({"train.regularizer": GONE, **TRAINED, "pair.held_out_prompts": 2})
    items.change({"rank.strategy": {"name": "pointwise"}})
    items.change({"pair.selector": {"name": "labelled", "above": 0.5}})
    items.change({"train.loss": {"name": "kto", "z0": "mismatched"}})
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    assert not Path("run/pairs").exists()
    counts = json.loads(Path("run/manifest.json").read_text())["stages"]["pair"]["counts"]
    assert (counts["produced"], counts["dropped"]) == (6, {"held out": 6})
    labels = [(one.completion.text[-1], one.desirable) for one in RunView(Path("run")).labels()]
    assert sorted(labels) == [("0", False)] * 2 + [("1", True)] * 2 + [("2", True)] * 2
    first, *_, last = rows("train_log.jsonl")
    assert first["labels"] == 2 and last["loss"] != first["loss"]
    held_out = rows("eval_log.jsonl")
    assert [row["step"] for row in held_out] == [0, 2, 4]
    assert all(0 <= row["auc"] <= 1 for row in held_out)
    assert metrics()["reward_auc"] == pytest.approx(100 * held_out[-1]["auc"], abs=1e-9)
    unseen = RunView(Path("run")).labels("heldout_labels")
    answers = {one.completion.id: one.completion.text for one in unseen}
    assert assert_tokens_are_kept(answers) == {"completion"}
    page = Path("run/report.html").read_text()
    assert "Trained on labels." in page and "AUC" in page
    shown = re.findall(r'<h3>Answer (\d) <span class="tag">(\w+)</span>', page)
    assert shown == [*((str(n), "good") for n in range(1, 5)), ("5", "bad"), ("6", "bad")]


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_run_begins_with_items_of_a_file(items: Place, kind: str) -> None:
    items.change({**ENTRIES[kind], **TRAINED, "pair.held_out_prompts": 2})
    planned = prefine("run", "run.yaml", "--dry-run")
    assert planned.code == OK, planned.err
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    assert [row[kind] for row in rows("train_log.jsonl")] == [2] * 4
    assert json.loads(Path("run/train_final.json").read_text())["final"]["margin"] > 0
    name = "reward_ranking_accuracy" if kind == "lists" else "label_accuracy"
    assert 0 <= metrics()[name] <= 100
    page = Path("run/report.html").read_text()
    assert f"Trained on {kind}." in page and f"Held-out {kind} during training" in page
    before = {path: path.read_bytes() for path in Path("run").rglob("*.safetensors")}
    assert prefine("run", "run.yaml").code == OK
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_loss_of_any_items_reads_those_that_there_are(items: Place, kind: str) -> None:
    items.put("labels.jsonl", jsonl([{**row, "label": True} for row in good_labels()]))
    half = {"name": "mixture", "losses": [{"name": "nll"}], "weights": [0.5]}
    items.change({**ENTRIES[kind], "train.max_steps": 3, "train.loss": half})
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    good = {"lists": "best_logp", "labels": "desirable_logp"}[kind]
    for row in rows("train_log.jsonl"):
        assert row["loss"] == pytest.approx(-0.5 * row[good], rel=1e-6)
    assert json.loads(Path("run/train_final.json").read_text())["final"]["fall"] < 0


SLOW = """
import time
from prefine.losses import kto, list_mle
from prefine.losses.protocol import declare

@declare(reads="lists", needs=frozenset({"reference"}))
def lists(logps):
    time.sleep(0.02)
    return list_mle(logps)

@declare(reads="labels", needs=frozenset({"reference"}))
def labels(logps):
    time.sleep(0.02)
    return kto(logps)
"""


def contents(folder: str) -> dict[str, bytes]:
    logs = [Path(folder, name) for name in ("train_log.jsonl", "train_final.json")]
    return {path.name: path.read_bytes() for path in [*Path(folder, "model").iterdir(), *logs]}


REPLAY = Path(__file__).parents[1] / "training" / "step_sources.py"
SOURCES: dict[str, dict[str, Any]] = {
    "shuffled": {"train.epochs": 4, "train.max_steps": 12},
    "replay": {"train.step_source": {"name": "my_sources:Replay", "fresh": 1, "steps": 12}},
}


@pytest.mark.parametrize(
    ("kind", "source"), [("lists", "shuffled"), ("labels", "shuffled"), ("lists", "replay")]
)
def test_a_killed_training_goes_on_to_the_same_bytes(items: Place, kind: str, source: str) -> None:
    items.put("slow_losses.py", SLOW)
    items.put("my_sources.py", REPLAY.read_bytes())
    items.change({**ENTRIES[kind], "train.loss": {"name": f"slow_losses:{kind}"}})
    items.change({**SOURCES[source], "train.checkpoint_every": 3})
    for folder in ("run", "whole"):
        assert prefine("pair", "run.yaml", "--run-dir", folder).code == OK
    assert prefine("train", "run.yaml", "--run-dir", "whole").code == OK
    log = Path("run/train_log.jsonl")
    for moment in (2, 5, 10):
        process = start("train", "run.yaml")
        end = time.monotonic() + 120
        while not log.exists() or log.read_bytes().count(b"\n") < moment:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "the step never came"
            time.sleep(0.002)
        process.kill()
        process.communicate()
    result = prefine("train", "run.yaml")
    assert result.code == OK, result.err
    assert contents("run") == contents("whole")


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_budget_holds_the_best_answers_of_lists_and_the_good_ones_of_labels(
    items: Place, entry: str
) -> None:
    loss = {"lists": {"name": "neural_ndcg", "labels": "ranks"}, "labels": "kto"}[entry]
    items.change(ENTRIES[entry])
    items.change({"train.max_steps": 4, "train.epochs": 4, "train.learning_rate": 1e-3})
    items.change({"train.loss": loss})
    items.change({"train.regularizer": {"name": "budget", "delta": -50.0}})
    falls = {}
    for weight in (0.0, 30.0):
        items.change({"train.regularizer_weight": weight, "run_dir": f"run-{weight:g}"})
        result = prefine("run", "run.yaml")
        assert result.code == OK, result.err
        log = rows("train_log.jsonl", f"run-{weight:g}")
        assert any(row["regularizer"] > 0 for row in log)
        final = json.loads(Path(f"run-{weight:g}/train_final.json").read_text())["final"]
        falls[weight] = final["fall"]
    assert falls[30.0] < falls[0.0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"labels": {"name": "file", "path": "graded.jsonl", "above": 9}},
            "labels: 0 good and 12 bad answers, so that nothing is told apart; choose another "
            "threshold (labels.above, of rows with grades), or give answers of both kinds",
        ),
        (
            {"labels": GONE, "completions": {"name": "file", "path": "answers.jsonl"}}
            | {"rank": {"judge": {"name": "recorded"}, "strategy": {"name": "pointwise"}}}
            | {"pair.selector": {"name": "labelled", "above": -1}},
            "labels: 12 good and 0 bad answers, so that nothing is told apart; choose another "
            "threshold (pair.selector: {name: labelled, above: …}), or give answers of both kinds",
        ),
    ],
    ids=["file", "grades"],
)
def test_labels_of_one_kind_are_noticed_before_training(
    items: Place, changes: dict[str, Any], says: str
) -> None:
    graded = [{"prompt": f"q {n}", "completion": f"a {n}", "grade": n % 5} for n in range(12)]
    items.put("graded.jsonl", jsonl(graded))
    items.change({**LABELS, **changes})
    planned = prefine("run", "run.yaml", "--dry-run", "--json")
    assert planned.code == OK, planned.err
    # Recorded grades are ranked, which costs nothing, before they are labels.
    from_file = "pair.selector" not in changes
    assert (says in json.loads(planned.out)["notes"]) is from_file
    # Plain fine-tuning needs no bad answers, and no good ones are an error of its own.
    plain = prefine("run", "run.yaml", "--dry-run", "--json", "--set", "train.loss=nll")
    assert says not in json.loads(plain.out)["notes"]
    for stage in ("pair",) if from_file else ("sample", "rank", "pair"):
        assert prefine(stage, "run.yaml").code == OK
    notes = json.loads(Path("run/manifest.json").read_text())["stages"]["pair"]["notes"]
    assert says in notes


def test_scores_that_hardly_differ_are_noticed_and_missing_ones_refused(items: Place) -> None:
    items.change({**LISTS, "train.loss": {"name": "approx_ndcg"}, "train.max_steps": 1})
    close = good_lists()
    for row in close:
        for place, one in enumerate(row["completions"]):
            one["score"] = 0.01 * place
    items.put("lists.jsonl", jsonl(close))
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    notes = json.loads(Path("run/manifest.json").read_text())["stages"]["train"]["notes"]
    assert any("hardly differ and the loss 'approx_ndcg' learns little" in one for one in notes)
    for row in close:
        for place, one in enumerate(row["completions"]):
            one["rank"] = len(row["completions"]) - place
            del one["score"]
    items.put("lists.jsonl", jsonl(close))
    items.change({"run_dir": "ranked"})
    result = prefine("run", "run.yaml")
    assert result.code == DATA, result.err
    assert (
        "states ranks and no scores, which train.loss 'approx_ndcg' reads; set its labels: ranks"
        in (result.err.replace("\n", " "))
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"train.loss": {"name": "list_mle"}, "train.regularizer": GONE},
            r"'list_mle' cannot be trained on what pair.selector 'best_vs_random' makes: pairs of "
            r"answers to one prompt; choose another train.loss (dpo, ",
        ),
        (
            {"train.loss": {"name": "list_mle"}, "train.regularizer": GONE},
            "or another pair.selector (lists)",
        ),
        (
            {"train.loss": {"name": "kto"}, "train.regularizer": GONE},
            "or another pair.selector (labelled), or start with labels:",
        ),
        (
            {**LISTS, "train.loss": {"name": "dpo"}},
            "'dpo' cannot be trained on what the configuration starts with: lists, which only list "
            "losses read; choose another train.loss (list_mle, neural_ndcg, approx_ndcg, ",
        ),
        (
            {**LABELS, "train.loss": {"name": "list_mle"}},
            "labelled answers, which only losses of labels read; choose another train.loss (kto, "
            "bco_unpaired, mixture, nll)",
        ),
        (
            {**LISTS, "train.regularizer": {"name": "bco"}},
            "train.regularizer.name: unknown regularizer 'bco'",
        ),
        (
            {**LISTS, "pair.min_gap": 1.0},
            "pair.min_gap: is for pairs, and this configuration starts with lists; leave it out",
        ),
        (
            {**LISTS, "train.step_source": {"name": "shufled"}},
            "train.step_source.name: unknown step_source 'shufled'; did you mean 'shuffled'?",
        ),
        (
            {**LISTS, "prompts": {"name": "playground"}},
            "give exactly one of prompts, completions and pairs, or of lists and labels; only "
            "pairs, lists and labels may stand beside each other (got prompts and lists)",
        ),
    ],
)
def test_items_that_the_loss_does_not_read_are_refused_before_anything_is_spent(
    items: Place, changes: dict[str, Any], says: str
) -> None:
    items.change(changes)
    result = prefine("run", "run.yaml")
    assert result.code == CONFIG
    assert says in " ".join(result.err.split())
    assert not Path("run/lists").exists() and not Path("run/completions").exists()


@pytest.mark.parametrize(
    ("kind", "row", "says"),
    [
        (
            "labels",
            {"prompt": "q", "completion": "a"},
            "labels.jsonl, line 13, completion 0: no label; there is nothing; every answer needs",
        ),
        (
            "labels",
            {"prompt": "q", "completion": "a", "label": "good"},
            "label must be true or false (or 1, 0), got 'good'",
        ),
        (
            "lists",
            {"prompt": "q", "completions": [{"text": "a", "score": 1}, {"text": "b"}]},
            "lists.jsonl, line 7, completion 1: no score;",
        ),
        (
            "lists",
            {"prompt": "q", "completions": [{"text": "a", "rank": 1}, {"text": "b", "rank": 1.5}]},
            "completion 1: rank must be a whole number, 1 for the best, got 1.5",
        ),
    ],
)
def test_a_row_without_its_judgment_is_named(
    items: Place, kind: str, row: dict[str, Any], says: str
) -> None:
    good = good_lists() if kind == "lists" else good_labels()
    items.put(f"{kind}.jsonl", jsonl([*good, row]))
    items.change(ENTRIES[kind])
    result = prefine("run", "run.yaml")
    assert result.code == DATA
    assert says in " ".join(result.err.split())


def test_lists_without_an_order_are_counted_and_left_out(items: Place) -> None:
    same = [{"text": "a", "rank": 1}, {"text": "b", "rank": 1}]
    ranked = [{"text": "a", "rank": 2}, {"text": "b", "rank": 1}]
    items.put(
        "lists.jsonl",
        jsonl(
            [
                {"prompt": "one", "completions": same},
                {"prompt": "two", "completions": ranked[:1]},
                {"prompt": "three", "completions": ranked},
            ]
        ),
    )
    items.change(LISTS)
    result = prefine("run", "run.yaml", "--json")
    assert result.code == OK, result.err
    manifest = json.loads(Path("run/manifest.json").read_text())
    dropped = json.dumps(manifest)
    assert '"all equally good": 1' in dropped and '"list of one answer": 1' in dropped
    assert rows("train_log.jsonl")[0]["lists"] == 1
