"""The run folder: one process at a time, one configuration, and what may change in it."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefine.calls.protocol import JournalGroup
from prefine.errors import ConfigError, DataError
from prefine.records import Manifest, Usage
from prefine.run.folder import RunFolder

CONFIG: dict[str, Any] = {
    "policy": {"name": "p"},
    "prompts": {"name": "file", "limit": 10},
    "completions": None,
    "sample": {"completions_per_prompt": 4, "seed": 0, "max_failed_fraction": 0.1},
    "rank": {
        "max_calls": 100,
        "seed": 0,
        "judge": {"name": "pairwise", "model": {"base_url": "http://here/v1"}},
    },
    "train": {"seed": 0},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(CONFIG))
    *parents, key = path.split(".")
    section = config
    for name in parents:
        section = section[name]
    section[key] = value
    return dict(config)


def begin(folder: RunFolder, *stages: str) -> None:
    folder.adopt_config(CONFIG)
    for stage in stages:
        folder.write_manifest(Manifest(stage=stage, config={}, code_version="1"))


def test_one_at_a_time(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run"):
        with pytest.raises(ConfigError, match="another process"):
            RunFolder(tmp_path / "run")
        (tmp_path / "link").symlink_to(tmp_path / "run")
        with pytest.raises(ConfigError, match="another process"):
            RunFolder(tmp_path / "link")
    with RunFolder(tmp_path / "run"):
        pass


def test_a_lease_that_a_dead_process_left_is_free(tmp_path: Path) -> None:
    (tmp_path / ".lease").write_text("1")
    with RunFolder(tmp_path):
        assert (tmp_path / ".lease").read_text() != "1"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sample.completions_per_prompt", 8),
        ("prompts.limit", 20),
        ("prompts.limit", None),
        ("rank.max_calls", None),
        ("rank.max_calls", 200),
        ("rank.max_calls", 5),
        ("rank.max_cost", 2.5),
        ("rank.judge.model.base_url", "http://elsewhere/v1"),
        ("rank.judge.model.prices", {"prompt": 1.0, "completion": 2.0}),
        ("sample.max_failed_fraction", 0.0),
    ],
)
def test_what_may_grow(tmp_path: Path, path: str, value: Any) -> None:
    with RunFolder(tmp_path) as folder:
        begin(folder, "sample", "rank")
        folder.adopt_config(changed(path, value))
        assert json.loads((tmp_path / "config.json").read_text())["config"] == changed(path, value)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("sample.seed", 1, "sample.seed: 0 → 1"),
        ("sample.completions_per_prompt", 2, "sample.completions_per_prompt: 4 → 2"),
        ("prompts.limit", 5, "prompts.limit: 10 → 5"),
        ("prompts.limit", "20", 'prompts.limit: 10 → "20"'),
        ("policy.name", "q", 'policy.name: "p" → "q"'),
        ("sample.new", 1, "sample.new: null → 1"),
    ],
)
def test_what_may_not_change(tmp_path: Path, path: str, value: Any, says: str) -> None:
    with RunFolder(tmp_path) as folder:
        begin(folder, "sample", "rank")
        before = (tmp_path / "config.json").read_bytes()
        with pytest.raises(ConfigError) as caught:
            folder.adopt_config(changed(path, value))
        assert says in str(caught.value)
        assert (tmp_path / "config.json").read_bytes() == before


def test_a_stage_that_has_not_begun_may_change(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        begin(folder, "sample")
        folder.adopt_config(changed("train.seed", 1))
        folder.adopt_config(changed("rank.seed", 1))


def test_a_lost_config_is_compared_by_the_manifests(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.adopt_config(CONFIG)
        sections = {name: CONFIG[name] for name in ("policy", "prompts", "completions", "sample")}
        folder.write_manifest(Manifest(stage="sample", config=sections, code_version="1"))
        (tmp_path / "config.json").unlink()
        with pytest.raises(ConfigError, match=r"sample\.seed: 0 → 1"):
            folder.adopt_config(changed("sample.seed", 1))
        folder.adopt_config(CONFIG)
        assert (tmp_path / "config.json").exists()


def test_manifests_come_back(tmp_path: Path) -> None:
    manifest = Manifest(stage="rank", config={"a": "\u2028"}, code_version="1", notes=("x",))
    with RunFolder(tmp_path) as folder:
        assert folder.manifests() == {}
        begin(folder, "sample")
        folder.write_manifest(manifest)
        assert folder.manifests()["rank"] == manifest
        assert list(folder.manifests()) == ["sample", "rank"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"schema_version": 1}',
        '{"schema_version": 2, "stages": {}}',
        '{"schema_version": 1, "stages": {"rank": {}}}',
    ],
)
def test_a_manifest_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    with RunFolder(tmp_path) as folder:
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DataError, match=r"manifest\.json"):
            folder.manifests()


def test_the_journal_is_one(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.journal().write(JournalGroup(answers={"a": "1"}))
        assert folder.journal() is folder.journal()
    with RunFolder(tmp_path) as folder:
        assert folder.journal().answers(["a"]) == {"a": "1"}


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_lost_journal_is_refused_before_anything_is_asked_again(tmp_path: Path, how: str) -> None:
    paid = Manifest(stage="rank", config={}, code_version="1", usage=Usage(calls=1234, cost=5.0))
    journal = tmp_path / "journal" / "part-00000.sqlite"
    with RunFolder(tmp_path) as folder:
        folder.journal().write(JournalGroup(answers={"a": "1"}))
        folder.write_manifest(paid)
    with RunFolder(tmp_path) as folder:
        assert not folder.journal().empty
    journal.unlink()
    if how == "empty":
        journal.write_bytes(b"")
    with (
        RunFolder(tmp_path) as folder,
        pytest.raises(DataError, match=f"is {how}, .* 1,234 calls .* Restore .* from a backup"),
    ):
        folder.journal()
    assert journal.exists() == (how == "empty"), "it makes none that would look like the right one"
    (tmp_path / "manifest.json").rename(tmp_path / "away.json")
    with RunFolder(tmp_path) as folder:
        assert folder.journal().empty


def test_the_section_pair_may_change_until_training_has_begun(tmp_path: Path) -> None:
    other = {**CONFIG, "pair": {"seed": 1}}
    first = {**CONFIG, "pair": {"seed": 0}}
    with RunFolder(tmp_path) as folder:
        folder.adopt_config(first)
        folder.write_manifest(Manifest(stage="pair", config={}, code_version="1"))
        folder.adopt_config(other)
        folder.adopt_config(first)
        folder.write_manifest(Manifest(stage="train", config={}, code_version="1"))
        (tmp_path / "rankings").mkdir()
        with pytest.raises(
            ConfigError, match=r"pair\.seed: 0 → 1(.|\n)*cp -r .*/rankings NEW.*--run-dir NEW"
        ):
            folder.adopt_config(other)
        with pytest.raises(ConfigError) as caught:
            folder.adopt_config({**other, "train": {"seed": 5}})
        assert "cp -r" not in str(caught.value), "another training is no matter of pairs"
