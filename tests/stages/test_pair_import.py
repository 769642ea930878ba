"""Pairs from a file: shard by shard, with prompts held out over all shards, and the same again."""

import json
from pathlib import Path

from command import prefine
from prefine.config.yaml import validate
from prefine.run.folder import RunFolder
from prefine.run.tables import column, parts, table_hash
from prefine.stages.pair import run
from prefine.stages.stage_run import Silent
from run_place import CONFIG, OK, PAIRS, Place, jsonl


def test_many_pairs_are_written_in_shards(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n // 2}", "chosen": f"a{n}", "rejected": "b"} for n in range(4100)]
    rows.insert(4098, rows[0])
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(rows))
    values = {
        "run_dir": str(tmp_path / "run"),
        "policy": {"name": "hf", "path": "model"},
        "pairs": {"name": "file", "path": str(tmp_path / "pairs.jsonl")},
        "pair": {"held_out_prompts": 50},
    }
    config = validate(values, where="test")
    with RunFolder(config.run_dir) as folder:
        manifest = run(config, folder, Silent())
        tables = [parts(folder / name) for name in ("pairs", "heldout_pairs")]
        assert [len(paths) for paths in tables] == [2, 2]
        trained, held_out = (
            [id_ for path in paths for id_ in column(path, "prefine_prompt_id")] for paths in tables
        )
        assert (len(trained), len(held_out)) == (4000, 100)
        assert not set(trained) & set(held_out)
        assert (manifest.counts.taken, manifest.counts.produced) == (4101, 4000)
        assert manifest.counts.dropped == {"duplicate pair": 1, "held out": 100}
        before = table_hash(folder / "pairs")
        parts(folder / "pairs")[1].unlink()
        assert run(config, folder, Silent()).counts == manifest.counts
        assert table_hash(folder / "pairs") == before


def test_a_selector_beside_pairs_is_checked_and_noted(place: Place) -> None:
    place.change(PAIRS)
    place.change({"pair": {"selector": {"name": "best_vs_worst"}, "drop_truncated": True}})
    made = prefine("pair", "run.yaml", "--json")
    assert made.code == OK, made.err
    (manifest,) = json.loads(made.out)
    assert (
        "pair.selector 'best_vs_worst' is not used: this configuration starts with pairs"
        in manifest["notes"]
    )
    assert any("do not say whether they were cut" in note for note in manifest["notes"])
    refused = prefine("pair", "run.yaml", "--set", "pair.selector.beta=1")
    assert refused.code == CONFIG
    assert "it has no options" in refused.err
