"""The metrics of `evaluate.metrics`, through the command: computed, shown, added later, refused."""

import json
import shutil
import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from command import prefine
from prefine.chat import prompt_ids
from prefine.config.components import TABLES
from prefine.config.yaml import validate
from prefine.errors import ConfigError
from prefine.models.hf.backend import HfModel
from prefine.records import PreferenceList
from prefine.run.view import RunView
from prefine.stages.check import check

PLAYGROUND = {"name": "playground"}
OF_PAIRS = sorted(TABLES["metric"].keys() - {"list_ranking_accuracy", "near_overlap"})


def values(**sections: Any) -> dict[str, Any]:
    return {
        "run_dir": "run",
        "policy": PLAYGROUND,
        "prompts": {"name": "playground", "count": 32},
        "sample": {"completions_per_prompt": 3, "max_new_tokens": 24},
        "rank": {"strategy": {"name": "round_robin"}, "judge": PLAYGROUND},
        "pair": {"selector": {"name": "best_vs_worst"}, "held_out_prompts": 8},
        "train": {
            "pairs_per_step": 8,
            "train_on_truncated": True,
            "evaluate_every": 1,
            "learning_rate": 1e-4,
        },
        "evaluate": {
            "prompts": {"name": "playground", "count": 12, "split": "test"},
            "gold": PLAYGROUND,
        },
        **sections,
    }


def asked(folder: Path) -> int:
    with sqlite3.connect(folder / "journal/part-00000.sqlite") as journal:
        return int(journal.execute("SELECT COUNT(*) FROM answers").fetchone()[0])


def test_metrics_are_added_to_a_finished_run_without_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = values()
    Path("run.yaml").write_text(yaml.safe_dump(config))
    first = prefine("run", "run.yaml", "--json")
    assert first.code == 0, first.err
    plain = json.loads(Path("run/metrics.json").read_text())
    answers = asked(Path("run"))
    log = Path("run/train_log.jsonl").read_bytes()

    config["evaluate"]["metrics"] = [{"name": name} for name in OF_PAIRS]
    Path("run.yaml").write_text(yaml.safe_dump(config))
    second = prefine("run", "run.yaml", "--json")
    assert second.code == 0, second.err
    assert asked(Path("run")) == answers and Path("run/train_log.jsonl").read_bytes() == log

    found = json.loads(Path("run/metrics.json").read_text())
    old, new = plain.pop("metrics"), found.pop("metrics")
    assert found == plain and new[: len(old)] == old
    added = {metric["name"]: metric for metric in new[len(old) :]}
    assert {
        "margin_mean",
        "ranking_accuracy",
        "rankings_became_right",
        "collapse_alarms",
        "turn_alarms",
        "agreement",
        "brier_score",
        "ranking_first_slot_rate",
        "length_preference",
        "distinct_2_words",
        "exact_overlap",
        "empty_outputs",
    } <= added.keys()
    # The same figure by another road: the share of positive margins is in the plain evaluation.
    (accuracy,) = (one for one in old if one["name"] == "reward_accuracy")
    assert added["margin_mean"]["n"] == accuracy["n"] == 8
    assert added["exact_overlap"]["value"] == 0.0
    shown = json.loads(second.out)
    assert shown["metrics"] == [*old, *new[len(old) :]]
    page = Path("run/report.html").read_text()
    assert "Ranking accuracy" in page and "Brier score" in page

    # A version without judgments has finished the ranking: said before anything is sampled.
    shutil.rmtree("run/judgments")
    manifest = json.loads(Path("run/manifest.json").read_text())
    del manifest["stages"]["rank"]["output_hashes"]["judgments"]
    Path("run/manifest.json").write_text(json.dumps(manifest))
    config["evaluate"]["metrics"].append({"name": "diversity", "n": 3})
    Path("run.yaml").write_text(yaml.safe_dump(config))
    refused = prefine("evaluate", "run.yaml")
    assert refused.code == 2
    assert "'cyclic_triads' needs judgments, and run has none" in refused.err


def ranked_right(one: PreferenceList, folder: Path) -> bool:
    """True if the model in the folder finds every answer likelier than the next one."""
    model = HfModel(path=str(folder), dtype="float32", device="cpu")
    prompt = prompt_ids(model.tokenizer, one.prompt)
    logps = []
    for completion in one.completions:
        ids = torch.tensor([[*prompt, *(completion.token_ids or ())]])
        with torch.no_grad():
            each = model.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        logps.append(float(each.gather(1, ids[0, len(prompt) :, None]).sum()))
    return all(better > worse for better, worse in pairwise(logps))


def test_the_rankings_of_held_out_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = values(
        pair={"selector": {"name": "lists"}, "held_out_prompts": 8},
        train={"loss": {"name": "list_mle"}, "pairs_per_step": 8, "train_on_truncated": True},
        evaluate={"metrics": [{"name": "list_ranking_accuracy"}, {"name": "cyclic_triads"}]},
    )
    config["rank"]["strategy"]["order"] = "both"
    Path("run.yaml").write_text(yaml.safe_dump(config))
    result = prefine("run", "run.yaml", "--json")
    assert result.code == 0, result.err
    found = {metric["name"]: metric for metric in json.loads(result.out)["metrics"]}
    lists = list(RunView(Path("run")).lists("heldout_lists"))
    right = [ranked_right(one, Path("run/model")) for one in lists]
    assert found["list_ranking_accuracy"]["value"] == pytest.approx(100 * sum(right) / len(lists))
    assert found["list_ranking_accuracy"]["n"] == len(lists) == 8
    assert 0 <= found["cyclic_triads"]["value"] <= 100


@pytest.mark.parametrize(
    ("metric", "sections", "says"),
    [
        (
            "displacement",
            {"pair": {"held_out_prompts": 0}, "train": {"evaluate_every": None}},
            "evaluate.metrics.0.name: 'displacement' needs held out pairs, which this run will not "
            "have; give pair.held_out_prompts, such as 100, or leave the metric out",
        ),
        ("list_ranking_accuracy", {}, "needs held out lists, .* give pair.selector: {name: lists}"),
        (
            "likelihood_alarms",
            {"train": {"evaluate_every": None}},
            "needs evaluation log, .* give train.evaluate_every, such as 20",
        ),
        (
            "judge_agreement",
            {"evaluate": {"gold": None}},
            "needs gold, .* give evaluate.prompts and evaluate.gold",
        ),
        (
            "output_screens",
            {"evaluate": {"prompts": None, "gold": None}},
            "needs answers, .* give evaluate.prompts",
        ),
        (
            "diversity",
            {"prompts": None, "pairs": {"name": "file", "path": "none.jsonl"}},
            "needs completions, .* start from prompts or completions",
        ),
        ("brier", {}, r"evaluate\.metrics\.0\.name: unknown metric 'brier'"),
    ],
)
def test_a_metric_that_the_run_cannot_feed_is_refused_before_any_work(
    metric: str, sections: dict[str, Any], says: str
) -> None:
    config = values()
    for name, section in sections.items():
        config[name] = {**config[name], **section} if name in config and section else section
    config["evaluate"] = {**config["evaluate"], "metrics": [{"name": metric}]}
    with pytest.raises(ConfigError, match=says.replace("{", r"\{")):
        check(validate(config, where="test"))


def test_options_of_a_metric_are_checked() -> None:
    config = values()
    config["evaluate"]["metrics"] = [{"name": "diversity"}, {"name": "diversity", "n": 0}]
    with pytest.raises(ConfigError, match=r"evaluate\.metrics\.1\.n: .* greater than 0"):
        check(validate(config, where="test"))
