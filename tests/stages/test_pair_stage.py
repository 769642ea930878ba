"""Stage `pair` over rankings that are there: made again without a call, other kinds of pairs,
and what may follow.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

import openai_server as server
from command import prefine
from openai_server import OpenAIServer
from prefine.api.training import train
from prefine.config.base import Component
from prefine.config.yaml import validate
from prefine.errors import ConfigError, DataError
from prefine.records import Manifest
from prefine.run.folder import RunFolder
from prefine.run.item_rows import list_of, pair_of
from prefine.run.tables import parts, read_part, table_hash
from prefine.stages.check import check
from prefine.stages.pipeline import run_stage
from prefine.stages.plan import plan
from prefine.stages.stage_run import Silent
from run_place import CONFIG, DATA, GONE, OK, PAIRS, Place, jsonl

GRADES = [
    {
        "prompt": f"question {n}",
        "completions": [{"text": f"{m} {n} " * (m + 1), "grade": m} for m in range(4)],
    }
    for n in range(12)
]


def configured(place: Path, model: Path, **pair: Any) -> Any:
    (place / "answers.jsonl").write_bytes(jsonl(GRADES))
    values = {
        "run_dir": str(place / "run"),
        "policy": {"name": "hf", "path": str(model)},
        "completions": {"name": "file", "path": str(place / "answers.jsonl")},
        "rank": {"judge": {"name": "recorded"}, "strategy": {"name": "round_robin"}},
        "pair": pair,
        "train": {"loss": {"name": "dpo"}, "max_steps": 1, "pairs_per_step": 2},
    }
    return validate(values, where="test")


def run_stages(config: Any, *stages: str) -> dict[str, Manifest]:
    with RunFolder(config.run_dir) as folder:
        folder.adopt_config(config.resolved())
        return {stage: run_stage(stage, config, folder, Silent()) for stage in stages}


def rows(config: Any, table: str) -> list[dict[str, Any]]:
    return [row for path in parts(config.run_dir / table) for row in read_part(path)]


def test_other_pairs_of_the_same_rankings(tmp_path: Path, tiny_model_folder: Path) -> None:
    first = configured(
        tmp_path, tiny_model_folder, selector={"name": "best_vs_worst"}, held_out_prompts=3
    )
    made = run_stages(first, "sample", "rank", "pair")["pair"]
    assert (made.counts.produced, made.counts.dropped) == (9, {"held out": 3})
    rankings = table_hash(first.run_dir / "rankings")
    second = configured(
        tmp_path, tiny_model_folder, selector={"name": "all_pairs"}, min_gap=0.5, pairs_per_prompt=2
    )
    made = run_stages(second, "pair")["pair"]
    assert made.counts.produced == 24
    assert made.counts.taken == 24 + sum(made.counts.dropped.values())
    assert made.counts.dropped.keys() == {"score gap too small or not known"}
    assert table_hash(first.run_dir / "rankings") == rankings
    assert not (first.run_dir / "heldout_pairs").exists(), "nothing is held out any more"
    fresh = tmp_path / "fresh"
    shutil.copytree(first.run_dir / "rankings", fresh / "rankings")
    shutil.copytree(first.run_dir / "completions", fresh / "completions")
    alone = second.model_copy(update={"run_dir": fresh})
    run_stages(alone, "pair")
    assert table_hash(fresh / "pairs") == table_hash(first.run_dir / "pairs")
    again = run_stages(first, "pair")["pair"]
    assert (again.counts.produced, again.counts.dropped) == (9, {"held out": 3})


def test_pairs_that_were_trained_on_stay(tmp_path: Path, tiny_model_folder: Path) -> None:
    first = configured(tmp_path, tiny_model_folder, selector={"name": "best_vs_worst"})
    run_stages(first, "sample", "rank", "pair", "train")
    other = configured(tmp_path, tiny_model_folder, selector={"name": "best_vs_random"})
    with pytest.raises(ConfigError, match=r'best_vs_worst" → "best_vs_random"') as caught:
        run_stages(other, "pair")
    message = str(caught.value)
    assert f"mkdir NEW && cp -r {first.run_dir}/{{journal,completions,rankings}} NEW" in message
    assert "--run-dir NEW" in message


def test_a_copy_of_what_was_paid_for_makes_other_pairs_without_a_call(place: Place) -> None:
    """What the error says to do works: the whole pipeline in the copy, with a server that would be
    asked.
    """
    with OpenAIServer(server.label_judge(0.7)) as at:
        model = {"name": "openai", "model": "m", "base_url": at.url, "max_retries": 0}
        place.change({"rank.judge": {"name": "pairwise", "model": model}, "evaluate": GONE})
        for stage in ("sample", "rank", "pair", "train"):
            done = prefine(stage, "run.yaml")
            assert done.code == OK, done.err
        asked = len(at.requests)
        refused = prefine("pair", "run.yaml", "--set", "pair.seed=1")
        assert refused.code == CONFIG
        assert "cp -r run/{journal,completions,rankings} NEW" in refused.err
        Path("NEW").mkdir()
        for name in ("journal", "completions", "rankings"):
            shutil.copytree(f"run/{name}", f"NEW/{name}")
        for command in ("pair", "run"):
            done = prefine(command, "run.yaml", "--set", "pair.seed=1", "--run-dir", "NEW")
            assert done.code == OK, done.err
        assert len(at.requests) == asked, "no verdict was asked for again"
    assert table_hash(Path("NEW/rankings")) == table_hash(Path("run/rankings"))
    assert json.loads(Path("NEW/manifest.json").read_text())["stages"]["pair"]["seed"] == 1


def test_lists_load_with_datasets(tmp_path: Path, tiny_model_folder: Path) -> None:
    config = configured(tmp_path, tiny_model_folder, selector={"name": "lists"}, held_out_prompts=2)
    made = run_stages(config, "sample", "rank", "pair")["pair"]
    assert (made.counts.produced, made.counts.dropped) == (10, {"held out": 2})
    assert made.output_hashes.keys() == {"lists", "heldout_lists"}
    assert not (config.run_dir / "pairs").exists()
    found = [list_of(row) for row in rows(config, "lists")]
    for one in found:
        assert one.scores is not None
        assert list(one.scores) == sorted(one.scores, reverse=True)
        assert [completion.metadata["grade"] for completion in one.completions] == [3, 2, 1, 0]
    files = str(config.run_dir / "lists" / "*.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["completions"][0][0]["content"] for row in loaded] == [
        one.completions[0].text for one in found
    ]
    run_stages(configured(tmp_path, tiny_model_folder), "pair")
    assert not (config.run_dir / "lists").exists(), (
        "lists of other settings do not stay beside the pairs"
    )


def test_joint_pairs_are_made_but_no_loss_of_pairs_is_trained_on_them(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    config = configured(tmp_path, tiny_model_folder, selector={"name": "joint"}, held_out_prompts=3)
    run_stages(config, "sample", "rank", "pair")
    pairs = [pair_of(row) for row in rows(config, "pairs")]
    held_out = {pair_of(row).prompt.id for row in rows(config, "heldout_pairs")}
    assert len(pairs) == 18
    assert len(held_out) == 3
    assert sum(pair.rejected_prompt is not None for pair in pairs) == 9
    assert not held_out & {pair.rejected_prompt.id for pair in pairs if pair.rejected_prompt}
    for pair, row in zip(pairs, rows(config, "pairs"), strict=True):
        assert row["prefine_rejected_prompt_id"] == (
            pair.rejected_prompt and pair.rejected_prompt.id
        )
    with pytest.raises(
        ConfigError,
        match=r"train\.loss\.name: 'dpo' cannot be trained on what pair\.selector 'joint'",
    ):
        run_stages(config, "train")
    shuffled = configured(
        tmp_path, tiny_model_folder, selector={"name": "joint"}, labels="shuffled"
    )
    run_stages(shuffled, "pair")
    for pair in (pair_of(row) for row in rows(shuffled, "pairs")):
        assert pair.chosen.prompt_id == pair.prompt.id
        assert pair.rejected.prompt_id == (pair.rejected_prompt or pair.prompt).id


OWN_JOINT = """
from torch.nn.functional import logsigmoid
from prefine.losses.protocol import declare

@declare(needs=frozenset({"reference", "prompt"}), reads="joint")
def jpo(logps, *, beta: float = 0.1):
    prompts = logps.require_prompts()
    chosen = prompts.policy_chosen - prompts.ref_chosen
    rejected = prompts.policy_rejected - prompts.ref_rejected
    return -logsigmoid(beta * (logps.margin + chosen - rejected))
"""


@pytest.mark.parametrize("loss", ["joint_losses:jpo", "jpo"])
def test_a_joint_loss_trains_on_pairs_across_prompts(
    loss: str, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "joint_losses.py").write_text(OWN_JOINT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    config = configured(tmp_path, tiny_model_folder, selector={"name": "joint"}, held_out_prompts=3)
    trained = {"loss": Component(name=loss), "max_steps": 2, "learning_rate": 1e-3}
    config = config.model_copy(update={"train": config.train.model_copy(update=trained)})
    run_stages(config, "sample", "rank", "pair", "train")
    first, second = (
        json.loads(line) for line in (config.run_dir / "train_log.jsonl").read_text().splitlines()
    )
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert second["margin"] != 0
    table = [pair_of(row) for row in rows(config, "pairs")]
    assert json.loads((config.run_dir / "train_final.json").read_text())["final"]["pairs"] == len(
        table
    )


@pytest.mark.parametrize("selector", ["joint", "lists"])
def test_what_no_loss_reads_is_found_before_anything_is_spent(
    tmp_path: Path, tiny_model_folder: Path, selector: str
) -> None:
    config = configured(tmp_path, tiny_model_folder, selector={"name": selector})
    with pytest.raises(ConfigError, match=r"`prefine pair` alone makes them"):
        check(config)
    check(config, through="pair")


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ({"min_gap": 0.1}, r"pair\.min_gap: needs scores, which strategy 'iterative'"),
        ({"length_penalty": 0.1}, r"pair\.length_penalty"),
        ({"selector": {"name": "lists"}}, r"'lists' needs order or scores"),
    ],
)
def test_options_that_the_strategy_cannot_serve_are_found_before_anything_is_spent(
    tmp_path: Path, tiny_model_folder: Path, pair: dict[str, Any], says: str
) -> None:
    config = configured(tmp_path, tiny_model_folder, **pair)
    scan = config.model_copy(
        update={"rank": config.rank.model_copy(update={"strategy": config.rank.strategy})}
    )
    scan = validate(
        scan.resolved() | {"run_dir": "run", "rank": {"judge": {"name": "recorded"}}}, where="test"
    )
    with pytest.raises(ConfigError, match=says):
        check(scan, through="pair")


def test_the_plan_knows_how_many_pairs_a_prompt_gives(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    def steps(**pair: Any) -> str:
        config = configured(tmp_path, tiny_model_folder, **pair)
        train = config.train.model_copy(update={"max_steps": None})
        return dict(plan(config.model_copy(update={"train": train})).lines).get(
            "training steps, at most", ""
        )

    assert steps() == "6"
    assert steps(held_out_prompts=2) == "5"
    assert steps(pairs_per_prompt=3) == "18"
    assert steps(selector={"name": "all_pairs"}) == ""


def test_options_apply_to_pairs_that_exist(place: Place) -> None:
    rows_of_pairs = [
        {
            "prompt": f"q{n // 4}",
            "chosen": f"good {n}",
            "rejected": "bad" * (1 + 9 * (n % 4 == 1)),
            "score_gap": n % 4 + 1,
        }
        for n in range(16)
    ]
    place.put("pairs.jsonl", jsonl(rows_of_pairs))
    place.change(PAIRS)
    place.change({"pair": {"min_gap": 1.0, "max_length_ratio": 4.0, "pairs_per_prompt": 1}})
    made = prefine("pair", "run.yaml", "--json")
    assert made.code == OK, made.err
    (manifest,) = json.loads(made.out)
    assert (manifest["counts"]["taken"], manifest["counts"]["produced"]) == (16, 4)
    assert manifest["counts"]["dropped"] == {
        "score gap too small or not known": 4,
        "lengths differ too much": 4,
        "enough pairs of the prompt": 4,
    }
    refused = prefine("pair", "run.yaml", "--set", "pair.length_penalty=0.1")
    assert refused.code == CONFIG
    assert "pair.length_penalty: corrects the scores of rankings" in refused.err
    assert prefine("pair", "run.yaml", "--set", "pair.min_gap=99").code == DATA


def test_a_selector_that_leaves_nothing_names_the_reasons(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    config = configured(
        tmp_path, tiny_model_folder, selector={"name": "best_vs_worst"}, min_gap=99.0
    )
    with pytest.raises(
        DataError, match=r"no pair came out of 36 that were looked at \(36 × score gap too small"
    ):
        run_stages(config, "sample", "rank", "pair")


def test_half_of_the_pairs_is_not_trained_on(tmp_path: Path, tiny_model_folder: Path) -> None:
    config = configured(tmp_path, tiny_model_folder)
    made = run_stages(config, "sample", "rank", "pair")["pair"]
    with RunFolder(config.run_dir) as folder:
        folder.write_manifest(made.model_copy(update={"complete": False}))
    with pytest.raises(DataError, match="stage pair has begun and not ended"):
        run_stages(config, "train")
    run_stages(config, "pair", "train")


def test_pairs_of_other_settings_are_not_trained_on(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    first = configured(tmp_path, tiny_model_folder, selector={"name": "best_vs_worst"}, seed=0)
    run_stages(first, "sample", "rank", "pair")
    other = configured(tmp_path, tiny_model_folder, selector={"name": "best_vs_random"}, seed=0)
    says = (
        r'stage pair was made with pair\.selector\.name: "best_vs_worst", now '
        r'"best_vs_random"; run `prefine pair'
    )
    with pytest.raises(ConfigError, match=says):
        run_stages(other, "train")
    run_stages(other, "pair", "train")


def test_pairs_of_other_rankings_are_not_trained_on(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    config = configured(tmp_path, tiny_model_folder)
    made = run_stages(config, "sample", "rank", "pair")["pair"]
    with RunFolder(config.run_dir) as folder:
        folder.write_manifest(
            made.model_copy(update={"input_hashes": {"rankings": "of fewer prompts"}})
        )
    with pytest.raises(DataError, match=r"rankings: changed since stage pair .* run `prefine pair"):
        run_stages(config, "train")
    run_stages(config, "pair", "train")


def test_a_folder_from_before_today_s_keys_resumes(tmp_path: Path, tiny_model_folder: Path) -> None:
    """What an older version wrote lacks the keys that came later: they had their defaults, so
    nothing is made again.
    """
    config = configured(tmp_path, tiny_model_folder, selector={"name": "best_vs_worst"})
    stages = ("sample", "rank", "pair", "train")
    run_stages(config, *stages)
    later = {
        "pair": {
            "min_gap",
            "min_p_chosen",
            "max_length_ratio",
            "length_penalty",
            "drop_truncated",
            "pairs_per_prompt",
        },
        "rank": {"scorer"},
        "train": {"adapter"},
    }
    for name in ("config.json", "manifest.json"):
        path = config.run_dir / name
        value = json.loads(path.read_text())
        for sections in (
            [value["config"]]
            if "config" in value
            else [one["config"] for one in value["stages"].values()]
        ):
            for section, keys in later.items():
                if section in sections:
                    sections[section] = {
                        key: v for key, v in sections[section].items() if key not in keys
                    }
        path.write_text(json.dumps(value))
    with RunFolder(config.run_dir) as folder:
        before = folder.manifests()
    assert "min_gap" not in before["pair"].config["pair"]
    assert run_stages(config, *stages) == before, "every stage is finished as it was"
    changed = configured(
        tmp_path, tiny_model_folder, selector={"name": "best_vs_worst"}, min_gap=0.5
    )
    with pytest.raises(ConfigError, match=r"pair\.min_gap: null → 0\.5"):
        run_stages(changed, "pair")


def test_pairs_across_prompts_are_refused_where_they_come_in(place: Place) -> None:
    place.change(
        {"rank.strategy": {"name": "round_robin"}, "pair": {"selector": {"name": "joint"}}}
    )
    for stage in ("sample", "rank", "pair"):
        assert prefine(stage, "run.yaml").code == OK
    pairs = [pair_of(row) for path in parts(Path("run/pairs")) for row in read_part(path)]
    with pytest.raises(DataError, match=r"its rejected answer is to another prompt.*not joint"):
        train("playground", pairs, output_dir="trained")
    shutil.copytree("run/pairs", "joint")
    place.change(PAIRS)
    place.change(
        {"pairs": {"name": "file", "path": "joint/*.parquet"}, "run_dir": "other", "pair": GONE}
    )
    for command in (("config", "check"), ("pair",)):
        refused = prefine(*command, "run.yaml")
        assert refused.code == DATA, refused.err
        assert "its rejected answer is to another prompt" in refused.err
        first = next(n for n, pair in enumerate(pairs, start=1) if pair.rejected_prompt)
        assert f"pairs, row {first} (" in refused.err


def test_no_list_is_called_a_list(tmp_path: Path, tiny_model_folder: Path) -> None:
    config = configured(tmp_path, tiny_model_folder, selector={"name": "lists"}, min_gap=99.0)
    with pytest.raises(DataError, match="no list came out of 12 that were looked at"):
        run_stages(config, "sample", "rank", "pair")
