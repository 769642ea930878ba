"""A run folder is read without a lock: finished, killed, or while another process trains."""

import multiprocessing
import os
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prefine.config.sections import RunConfig
from prefine.errors import ConfigError, DataError
from prefine.records import Judgment, Score
from prefine.run.folder import RunFolder
from prefine.run.rows import judgment_of, judgment_row
from prefine.run.tables import TableWriter, read_part
from prefine.run.view import EVALUATION_JUDGMENTS, RunView
from prefine.stages.pipeline import run_stage, stages_of
from prefine.stages.stage_run import Silent

PLAYGROUND = {"name": "playground"}
READS = 1000


def words(prompt: Any, completion: Any) -> float:
    """A user's scorer, which cannot say anything about one answer in seven."""
    if len(completion.text) % 7 == 0:
        raise RuntimeError("no opinion")
    return float(len(completion.text.split()))


def config(run_dir: Path, **sections: Any) -> RunConfig:
    values = {
        "run_dir": str(run_dir),
        "policy": PLAYGROUND,
        "prompts": {"name": "playground", "count": 24},
        "sample": {"completions_per_prompt": 4, "max_new_tokens": 24, "shard_prompts": 10},
        "rank": {"judge": PLAYGROUND},
        "train": {"pairs_per_step": 4, "epochs": 5, "train_on_truncated": True},
        "evaluate": {"prompts": {"name": "playground", "count": 6, "split": "test"}},
        **sections,
    }
    return RunConfig.model_validate(values)


def run(settings: RunConfig, *stages: str) -> None:
    with RunFolder(settings.run_dir) as folder:
        folder.adopt_config(settings.resolved())
        for stage in stages or stages_of(settings):
            run_stage(stage, settings, folder, Silent())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    settings = config(tmp_path_factory.mktemp("view") / "run")
    run(settings)
    return settings


def test_everything_of_a_finished_run_is_there(finished: RunConfig) -> None:
    view = RunView(finished.run_dir)
    assert view.config() == finished.resolved()
    assert list(view.manifests()) == list(stages_of(finished))
    assert {(one.parent_run, one.round) for one in view.manifests().values()} == {(None, None)}
    groups = list(view.completions())
    assert [len(completions) for _, completions in groups] == [4] * 24
    assert [prompt.id for prompt in view.prompts()] == [prompt.id for prompt, _ in groups]
    rankings, pairs = list(view.rankings()), list(view.pairs())
    assert {one.prompt_id for one in rankings} <= {prompt.id for prompt, _ in groups}
    assert len(pairs) == view.manifests()["pair"].counts.produced
    assert len(view.log()) == view.json("train_final.json")["steps"] > 0
    assert len(view.outcomes()) == 6
    assert [len(drawn) for _, drawn in view.completions("evaluation/trained")] == [1] * 6
    assert list(view.lists()) == [] and view.log("eval_log.jsonl") == []
    assert view.json("no.json") is None


def test_the_judgments_are_those_of_the_rankings(finished: RunConfig) -> None:
    view = RunView(finished.run_dir)
    said = [
        (one.comparison.prompt_id, one.comparison.first, one.comparison.second, one.p_first)
        for one in view.judgments()
    ]
    duels = [
        (ranking.prompt_id, duel.first, duel.second, duel.p_first)
        for ranking in view.rankings()
        for duel in ranking.duels
    ]
    assert said == duels and len(said) > 24
    assert list(view.ratings()) == []
    shown = Counter(one.comparison.prompt_id for one in view.judgments(EVALUATION_JUDGMENTS))
    assert set(shown.values()) == {2} and len(shown) == 6, "both orders of each prompt"


def test_ratings_and_failures_are_judgments_too(tmp_path: Path) -> None:
    settings = config(
        tmp_path / "run",
        rank={
            "strategy": {"name": "score_then_duel"},
            "judge": PLAYGROUND,
            "scorer": {"name": f"{__name__}:words"},
            "max_failed_fraction": 1.0,
        },
    )
    run(settings, "sample", "rank")
    view = RunView(settings.run_dir)
    ratings, judgments = list(view.ratings()), list(view.judgments())
    lengths = {one.id: len(one.text) for _, found in view.completions() for one in found}
    assert ratings and judgments
    for one in ratings:
        failed = lengths[one.completion_id] % 7 == 0
        assert (one.error == "the scorer raised RuntimeError: no opinion") is failed
        assert (one.value is None) is failed
    assert any(one.value is None for one in ratings)


@pytest.mark.parametrize("left", [0, 1])
def test_lost_judgments_come_back_from_the_journal(finished: RunConfig, left: int) -> None:
    folder = finished.run_dir / "judgments"
    before = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    assert len(before) == 3
    for name in list(before)[left:]:
        (folder / name).unlink()
    with sqlite3.connect(finished.run_dir / "journal/part-00000.sqlite") as journal:
        asked = journal.execute("SELECT COUNT(*) FROM asked").fetchone()
    run(finished, "rank")
    assert {path.name: path.read_bytes() for path in sorted(folder.iterdir())} == before
    with sqlite3.connect(finished.run_dir / "journal/part-00000.sqlite") as journal:
        assert journal.execute("SELECT COUNT(*) FROM asked").fetchone() == asked


def test_the_judges_own_words_are_kept(tmp_path: Path) -> None:
    comparison = {"prompt_id": "p", "first": "a", "second": "b"}
    answers: list[Judgment | Score] = [
        Judgment.model_validate(
            {"comparison": comparison, "judge": "j", "p_first": 0.25, "raw_text": "Both\u2028: B"}
        ),
        Judgment.model_validate({"comparison": comparison, "judge": "j", "error": "no verdict"}),
        Score(completion_id="a", judge="s", value=-1.5, raw_text="poor"),
        Score(completion_id="b", judge="s", error="no rating"),
    ]
    with TableWriter(tmp_path / "judgments", "judgments") as table:
        table.write([judgment_row(answer, "p") for answer in answers], key="k")
    rows = read_part(tmp_path / "judgments/part-00000.parquet")
    assert [judgment_of(row) for row in rows] == answers
    assert {row["prompt_id"] for row in rows} == {"p"}


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}: there is no run here"):
        RunView(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json: damaged"):
        RunView(tmp_path)


def test_a_row_that_is_being_written_is_left_out(finished: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(finished.run_dir, tmp_path / "copy")
    view = RunView(tmp_path / "copy")
    before = view.log()
    with (tmp_path / "copy/train_log.jsonl").open("ab") as log:
        log.write(b'{"step": 99, "lo')
    assert view.log() == before
    with pytest.raises(DataError, match="part-00001"):
        (tmp_path / "copy/rankings/part-00001.parquet").write_bytes(b"PAR1")
        list(view.rankings())


def test_an_open_reader_keeps_nobody_out(finished: RunConfig) -> None:
    rankings = RunView(finished.run_dir).rankings()
    next(rankings)
    lease = (finished.run_dir / ".lease").read_bytes()
    with RunFolder(finished.run_dir):
        next(rankings)
        assert next(iter(RunView(finished.run_dir).pairs()))
    assert (finished.run_dir / ".lease").read_text() == str(os.getpid()) or lease


def _train(settings: RunConfig) -> None:
    run(settings, "train")


def test_a_thousand_reads_beside_a_training(finished: RunConfig, tmp_path: Path) -> None:
    """Every read is of whole rows, in the order of the steps, and the training ends as alone."""
    shutil.copytree(finished.run_dir, tmp_path / "run")
    settings = config(tmp_path / "run")
    for name in ("model", "checkpoints"):
        shutil.rmtree(tmp_path / "run" / name)
    for name in ("train_log.jsonl", "train_final.json"):
        (tmp_path / "run" / name).unlink()
    training = multiprocessing.get_context("spawn").Process(target=_train, args=(settings,))
    training.start()
    view = RunView(tmp_path / "run")
    lengths, beside = [0], 0
    while training.is_alive():
        log = view.log()
        beside += len(log) > 0
        assert [row["step"] for row in log] == list(range(1, len(log) + 1))
        assert len(log) >= lengths[-1]
        lengths.append(len(log))
        assert "train" in view.manifests() and view.config()
        if beside % 100 == 1:
            assert len(list(view.pairs())) == len(list(view.rankings())) > 0
    training.join()
    assert training.exitcode == 0
    print(f"{beside} reads while steps were made, {len(set(lengths))} lengths of the log")
    assert beside >= READS and len(set(lengths)) > 2
    alone = (finished.run_dir / "train_log.jsonl").read_bytes()
    assert (tmp_path / "run/train_log.jsonl").read_bytes() == alone
