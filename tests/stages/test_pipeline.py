"""The whole pipeline on a tiny model: evaluate, train and report over what the stages before have
left.
"""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from prefine.config.yaml import load, validate
from prefine.errors import ConfigError, DataError, Interrupted, LimitError
from prefine.judges.protocol import Verdict
from prefine.records import Completion, Manifest, Prompt
from prefine.report.data import OUTCOMES, AnswerExample, Evaluation
from prefine.run.folder import RunFolder
from prefine.run.item_rows import pair_of
from prefine.run.tables import parts, read_part
from prefine.stages.check import check
from prefine.stages.pipeline import RunResult, lines_of, result_of, run_stage, stages_of
from prefine.stages.plan import plan
from prefine.stages.stage_run import Silent

TINY: dict[str, Any] = {
    "prompts": {"name": "playground", "count": 16},
    "sample": {"completions_per_prompt": 3, "temperature": 1.0, "max_new_tokens": 8},
    "rank": {"judge": {"name": "playground", "accuracy": 0.9}},
    "pair": {"held_out_prompts": 4},
    "train": {
        "loss": {"name": "dpo", "beta": 0.1},
        "regularizer": {"name": "budget"},
        "pairs_per_step": 4,
        "epochs": 1,
        "learning_rate": 1e-3,
        "train_on_truncated": True,
    },
    "evaluate": {
        "prompts": {"name": "playground", "count": 12, "split": "test"},
        "gold": {"name": "playground"},
        "bootstrap_samples": 50,
    },
}


class Stopping(Silent):
    stopping = True


class Longer:
    """A judge who loves length."""

    first_slot_bias = 0.0

    def __init__(self, *, sure: float = 1.0) -> None:
        self.sure = sure
        self.fingerprint = f"longer {sure}"

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        pass

    def compare(self, prompt: Prompt, first: Completion, second: Completion) -> Verdict:
        if len(first.text) == len(second.text):
            return Verdict(0.5)
        return Verdict(self.sure if len(first.text) > len(second.text) else 1 - self.sure)


def configured(folder: Path, model: Path, **sections: Any) -> Any:
    policy = {"name": "hf", "path": str(model), "device": "cpu", "batch_rows": 16}
    return validate({"run_dir": str(folder), "policy": policy} | TINY | sections, where="test")


def run_stages(config: Any, *stages: str) -> dict[str, Manifest]:
    with RunFolder(config.run_dir) as folder:
        folder.adopt_config(config.resolved())
        return {
            stage: run_stage(stage, config, folder, Silent())
            for stage in stages or stages_of(config)
        }


def evaluation(config: Any) -> Evaluation:
    return Evaluation.model_validate_json((config.run_dir / "metrics.json").read_bytes())


def result(config: Any) -> RunResult:
    with RunFolder(config.run_dir) as folder:
        return result_of(config, folder, 1.0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Any:
    """A finished run, only to be read."""
    config = configured(tmp_path_factory.mktemp("pipeline") / "run", tiny_model_folder)
    check(config)
    config.__dict__["manifests"] = run_stages(config)
    return config


def test_pairs_load_with_datasets(done: Any) -> None:
    files = str(done.run_dir / "pairs" / "*.parquet")
    found = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(done.run_dir / "cache")
    )
    own = [name for name in found.column_names if not name.startswith("prefine_")]
    assert own == ["prompt", "chosen", "rejected"]
    assert len(found) == done.manifests["pair"].counts.produced
    for row in found:
        assert [message["role"] for message in row["prompt"]] == ["user"]
        assert [row[side][0]["role"] for side in ("chosen", "rejected")] == ["assistant"] * 2
        assert row["chosen"] != row["rejected"]


def test_evaluation_adds_up(done: Any) -> None:
    found = evaluation(done)
    assert [contest.role for contest in found.contests] == ["judge", "gold"]
    outcomes = [
        AnswerExample.model_validate_json(line)
        for line in (done.run_dir / OUTCOMES).read_bytes().splitlines()
    ]
    assert len(outcomes) == 12
    for contest in found.contests:
        assert contest.wins + contest.ties + contest.losses == contest.win_rate.n == 12
    judge, gold = found.contests
    assert judge.win_rate.value == pytest.approx(
        100 * sum(one.p_after or 0 for one in outcomes) / 12
    )
    better = [
        sum((one.gold_after or {}).values()) - sum((one.gold_before or {}).values()) > 1e-9
        for one in outcomes
    ]
    assert gold.wins == sum(better)
    for constraint in found.constraints:
        having = [one for one in outcomes if constraint.name in (one.gold_before or {})]
        assert constraint.before.n == constraint.after.n == len(having)
        mean = sum((one.gold_after or {})[constraint.name] for one in having) / len(having)
        assert constraint.after.value == pytest.approx(mean)
        assert constraint.change is not None and constraint.change.n == len(having)
        assert constraint.change.value == pytest.approx(
            constraint.after.value - constraint.before.value
        )
    metrics = {metric.name: metric for metric in found.metrics}
    longer = [len(one.after) - len(one.before) for one in outcomes]
    assert metrics["mean_length_change"].value == pytest.approx(sum(longer) / 12)
    names = {metric.name for metric in found.metrics}
    assert names >= {"reward_accuracy", "longer_is_better", "first_slot_rate", "swap_consistency"}
    assert {metric.n for metric in found.metrics if metric.name == "reward_accuracy"} == {4}


def test_held_out_prompts_are_not_trained_on(done: Any) -> None:
    trained, held_out = (
        {row["prefine_prompt_id"] for path in parts(done.run_dir / name) for row in read_part(path)}
        for name in ("pairs", "heldout_pairs")
    )
    assert len(held_out) == 4
    assert not trained & held_out


def test_training_leaves_a_model_and_its_log(done: Any) -> None:
    rows = [
        json.loads(line) for line in (done.run_dir / "train_log.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-3)
    assert (done.run_dir / "model" / "model.safetensors").is_file()
    train = done.manifests["train"].counts
    assert (
        train.taken
        == done.manifests["pair"].counts.produced
        == train.produced + sum(train.dropped.values())
    )


def test_the_result_is_that_of_the_files(done: Any) -> None:
    found = result(done)
    assert found.delta == 5.0, "the default, which the configuration does not name"
    assert found.win_rate == evaluation(done).contests[1].win_rate.value
    final = json.loads((done.run_dir / "train_final.json").read_text())["final"]
    assert found.chosen_fall == final["fall"]
    text = "\n".join(lines_of(found))
    for part in (
        "win rate by gold (gold)",
        "won, ",
        "reward accuracy",
        "change of chosen answers [nats]",
        "may fall by 5",
    ):
        assert part in text


def test_the_report_tells_of_all_stages(done: Any) -> None:
    page = (done.run_dir / "report.html").read_text()
    for part in (
        "sample",
        "rank",
        "pair",
        "train",
        "evaluate",
        "Win rate, gold",
        "longer is better",
    ):
        assert part in page.replace("_", " ")


def test_a_second_run_does_nothing(done: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.run_dir.rglob("*.parquet")}
    again = run_stages(done, "sample", "rank", "pair", "train", "evaluate")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again == {stage: done.manifests[stage] for stage in again}


def test_pairs_of_one_run_train_another(done: Any, tmp_path: Path, tiny_model_folder: Path) -> None:
    """Weights, token ids and how an answer ended survive; the training is the same."""
    (part,) = parts(done.run_dir / "pairs")
    other = configured(
        tmp_path / "run",
        tiny_model_folder,
        prompts=None,
        sample=None,
        rank=None,
        pair={},
        evaluate={},
        pairs={"name": "file", "path": str(part)},
    )
    check(other)
    run_stages(other, "pair", "train")
    (copied,) = parts(tmp_path / "run" / "pairs")
    assert [pair_of(row) for row in read_part(copied)] == [pair_of(row) for row in read_part(part)]
    assert (tmp_path / "run" / "train_log.jsonl").read_bytes() == (
        done.run_dir / "train_log.jsonl"
    ).read_bytes()


def test_an_evaluation_is_stale_when_what_it_reads_has_changed(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    """Its prompts are in a file; judge and decoding may be those of other stages' sections,
    which have not begun.
    """
    prompts = tmp_path / "prompts.jsonl"
    scripted = {"name": "scripted", "replies": ["yes", "no", "perhaps"]}
    settings = {
        "model": scripted,
        "baseline": scripted,
        "prompts": {"name": "file", "path": str(prompts)},
    }

    def evaluated(count: int, **changes: Any) -> Manifest:
        prompts.write_text(
            "".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(count))
        )
        sections = {
            "rank": {"judge": {"name": f"{__name__}:Longer"}},
            "evaluate": settings,
        } | changes
        return run_stages(configured(tmp_path / "run", tiny_model_folder, **sections), "evaluate")[
            "evaluate"
        ]

    first = evaluated(2)
    assert first.counts.produced == 2
    assert evaluated(2) == first
    more = evaluated(3)
    assert more.counts.produced == 3
    other = evaluated(3, rank={"judge": {"name": f"{__name__}:Longer", "sure": 0.9}})
    assert other.input_hashes["judge"] != more.input_hashes["judge"]
    again = evaluated(3, sample=TINY["sample"] | {"temperature": 0.5})
    assert again.input_hashes["decoding"] != other.input_hashes["decoding"]


def test_too_many_failed_answers_stop_an_evaluation(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    scripted = {"name": "scripted", "replies": ["yes", "no"]}
    settings = TINY["evaluate"] | {"model": scripted | {"fail_share": 0.3}, "baseline": scripted}
    config = configured(tmp_path / "run", tiny_model_folder, evaluate=settings)
    with pytest.raises(
        LimitError, match=r"evaluate: \d of 24 calls failed, more than max_failed_fraction 0\.02"
    ):
        run_stages(config, "evaluate")
    config = configured(
        tmp_path / "run", tiny_model_folder, evaluate=settings | {"max_failed_fraction": 0.5}
    )
    counts = run_stages(config, "evaluate")["evaluate"].counts
    assert counts.taken == 12 == counts.produced + counts.failed["scripted failure"]


def test_gold_that_knows_no_such_prompt(tmp_path: Path, tiny_model_folder: Path) -> None:
    scripted = {"name": "scripted", "replies": ["yes", "no"]}
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "What is love?"}\n')
    settings = {
        "model": scripted,
        "baseline": scripted,
        "prompts": {"name": "file", "path": str(tmp_path / "prompts.jsonl")},
        "gold": {"name": "playground"},
        "judge": {"name": "playground"},
    }
    config = configured(tmp_path / "run", tiny_model_folder, evaluate=settings)
    with pytest.raises(DataError, match=r"prompts\.jsonl, line 1"):
        run_stages(config, "evaluate")


def test_a_model_without_weights_scores_no_pairs(
    done: Any, tmp_path: Path, tiny_model_folder: Path
) -> None:
    settings = {"model": {"name": "scripted", "replies": ["yes"]}}
    config = configured(tmp_path / "run", tiny_model_folder, evaluate=settings)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "heldout_pairs").symlink_to(done.run_dir / "heldout_pairs")
    with pytest.raises(ConfigError, match=r"evaluate\.model: 'scripted' has no weights"):
        run_stages(config, "evaluate")


@pytest.mark.parametrize("stage", ["sample", "rank", "evaluate"])
def test_a_stage_stops_when_asked(
    done: Any, tmp_path: Path, tiny_model_folder: Path, stage: str
) -> None:
    config = configured(tmp_path / "run", tiny_model_folder)
    (tmp_path / "run").mkdir()
    for name in ("completions", "model", "heldout_pairs"):
        (tmp_path / "run" / name).symlink_to(done.run_dir / name)
    with RunFolder(config.run_dir) as folder, pytest.raises(Interrupted, match="the same command"):
        run_stage(stage, config, folder, Stopping())


@pytest.mark.parametrize("section", ["sample", "evaluate.decoding"])
def test_prompts_that_do_not_fit_are_found_before_anything_is_spent(
    tmp_path: Path, tiny_model_folder: Path, section: str
) -> None:
    long = TINY["sample"] | {"max_new_tokens": 250}
    decoding = {"max_new_tokens": 250}
    changes = (
        {"sample": long}
        if section == "sample"
        else {"evaluate": TINY["evaluate"] | {"decoding": decoding}}
    )
    config = configured(tmp_path / "run", tiny_model_folder, **changes)
    with pytest.raises(
        DataError, match=r"tokens and 250 new ones exceed the model's 256 positions"
    ):
        check(config)
    if section == "sample":
        with pytest.raises(DataError, match=r"lower sample\.max_new_tokens"):
            run_stages(config, "sample")
        assert not (tmp_path / "run" / "journal").exists()


def test_held_out_prompts_are_counted_before_anything_is_spent(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    config = configured(tmp_path / "run", tiny_model_folder, pair={"held_out_prompts": 16})
    with pytest.raises(ConfigError, match=r"pair\.held_out_prompts: 16 of 16 prompts"):
        plan(config)


@pytest.mark.parametrize("pool", ["alpaca_eval_pool", "arena_bench_pool"])
def test_real_completions(real_data: Path, tmp_path: Path, pool: str) -> None:
    """Twenty prompts of a real pool, as they are but for one line separator, run all stages of
    configs/real.yaml.
    """
    with (real_data / pool / "pool.jsonl").open("rb") as lines:
        rows = [json.loads(next(lines)) for _ in range(20)]
    for completion in rows[0]["completions"]:
        completion["text"] = completion["text"].replace("\n", "\u2028", 1) + "\u2028end"
    path = tmp_path / "pool.jsonl"
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    overrides = {
        "completions.path": path,
        "train.max_steps": 2,
        "train.pairs_per_step": 4,
        "train.max_prompt_tokens": 24,
        "train.max_completion_tokens": 24,
        "pair.held_out_prompts": 5,
        "pair.pairs_per_prompt": 2,
        "evaluate.bootstrap_samples": 50,
    }
    real = Path(__file__).parents[2] / "configs" / "real.yaml"
    settings = [f"{name}={value}" for name, value in overrides.items()]
    config = load(real, overrides=settings, run_dir=tmp_path / "run")
    check(config)
    manifests = run_stages(config)
    assert manifests["sample"].counts.produced == sum(len(row["completions"]) for row in rows)
    metrics = {metric.name: metric for metric in evaluation(config).metrics}
    for name in ("reward_accuracy", "longer_is_better"):
        assert metrics[name].n > 0
        assert metrics[name].interval is not None
    texts = [
        row["text"] for part in parts(tmp_path / "run" / "completions") for row in read_part(part)
    ]  # fmt: skip
    assert texts == [completion["text"] for row in rows for completion in row["completions"]]
    assert texts[0].endswith("\u2028end")
    assert (tmp_path / "run" / "report.html").is_file()
