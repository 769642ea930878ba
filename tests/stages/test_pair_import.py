"""Pairs from a file: shard by shard, with prompts held out over all shards, and the same again."""

import json
from pathlib import Path

from command import prefine
from prefine.config.sections import PairConfig
from prefine.config.yaml import validate
from prefine.records import Manifest
from prefine.run.folder import RunFolder
from prefine.run.tables import column, parts, table_hash
from prefine.stages.pair import run
from prefine.stages.pair_options import number_held_out
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


def test_some_prompts_are_held_out_by_default() -> None:
    auto = PairConfig()
    found = {n: number_held_out(n, auto) for n in (0, 1, 319, 320, 640, 1000, 5120, 10**6)}
    assert found == {0: 0, 1: 0, 319: 0, 320: 32, 640: 32, 1000: 50, 5120: 256, 10**6: 256}
    assert all(number <= n / 10 for n, number in found.items())
    assert number_held_out(100, PairConfig(held_out_prompts=7)) == 7


def imported(place: Place, prompts: int) -> tuple[Manifest, dict[str, set[str]]]:
    rows = [{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": "b"} for n in range(prompts)]
    place.change(PAIRS)
    place.put("pairs.jsonl", jsonl(rows))
    made = prefine("pair", "run.yaml", "--json")
    assert made.code == OK, made.err
    (manifest,) = map(Manifest.model_validate, json.loads(made.out))
    run_dir = place.root / "run"
    return manifest, {
        name: {
            id_
            for path in (run_dir / name).glob("part-*")
            for id_ in column(path, "prefine_prompt_id")
        }
        for name in ("pairs", "heldout_pairs")
    }


def test_pairs_of_many_prompts_are_held_out_by_default(place: Place) -> None:
    manifest, ids = imported(place, 400)
    assert {name: len(found) for name, found in ids.items()} == {"pairs": 368, "heldout_pairs": 32}
    assert not ids["pairs"] & ids["heldout_pairs"]
    assert manifest.counts.dropped == {"held out": 32}


def test_of_few_prompts_none_is_held_out_and_that_is_said(place: Place) -> None:
    manifest, ids = imported(place, 319)
    assert {name: len(found) for name, found in ids.items()} == {"pairs": 319, "heldout_pairs": 0}
    (note,) = [note for note in manifest.notes if "held out" in note]
    assert "fewer than 320" in note and "pair.held_out_prompts" in note


def test_a_run_begun_without_held_out_prompts_goes_on_without(place: Place) -> None:
    imported(place, 400)
    config = place.root / "run" / "config.json"
    values = json.loads(config.read_text())
    assert values["config"]["pair"]["held_out_prompts"] == "auto"
    values["config"]["pair"]["held_out_prompts"] = 0
    config.write_text(json.dumps(values))
    again, ids = imported(place, 400)
    assert {name: len(found) for name, found in ids.items()} == {"pairs": 400, "heldout_pairs": 0}
    assert again.config["pair"]["held_out_prompts"] == 0
    assert json.loads(config.read_text())["config"]["pair"]["held_out_prompts"] == 0


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
