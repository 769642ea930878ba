"""`pair.fraction` and `pair.only_sources`: nested shares of every source, through the command."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from command import prefine
from prefine.config.sections import PairConfig
from prefine.records import Prompt
from prefine.run.config_changes import fingerprinted
from prefine.stages.subsets import left_out, source_of
from run_place import CONFIG, OK, PAIRS, Place, jsonl

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)


def answers(count: int = 60) -> bytes:
    """A third of the prompts is of the source `b`."""
    return jsonl(
        [
            {
                "prompt": f"question {n}",
                "source": "b" if n % 3 == 0 else "a",
                "completions": [{"text": f"answer {n} {m}", "grade": m} for m in range(3)],
            }
            for n in range(count)
        ]
    )


def pairs(count: int = 60) -> bytes:
    return jsonl(
        [
            {
                "prompt": f"question {n}",
                "source": "b" if n % 3 == 0 else "a",
                "chosen": f"good {n}",
                "rejected": f"bad {n}",
            }
            for n in range(count)
        ]
    )


def numbers(folder: str, table: str = "pairs") -> set[int]:
    """The numbers of the questions in a table of pairs."""
    found = []
    for path in sorted(Path(folder, table).glob("part-*.parquet")):
        found += [str(row) for row in pq.read_table(path).to_pylist()]
    return {int(text.split("question ")[1].split("'")[0].split('"')[0]) for text in found}


def made(place: Place, folder: str, changes: dict[str, Any]) -> None:
    place.change({"pair.held_out_prompts": 6} | changes)
    stages = ("pair",) if "pairs" in place.config else ("sample", "rank", "pair")
    for stage in stages:
        done = prefine(stage, "run.yaml", "--run-dir", folder)
        assert done.code == OK, done.err


@pytest.mark.parametrize("imported", [False, True], ids=["ranked", "imported"])
def test_shares_are_nested_and_stratified(place: Place, imported: bool) -> None:
    place.put("answers.jsonl", answers())
    place.put("pairs.jsonl", pairs())
    place.change(PAIRS if imported else {})
    for share in SHARES:
        made(place, f"share{share}", {"pair.fraction": share})
    whole, held_out = numbers("share1.0"), numbers("share1.0", "heldout_pairs")
    assert len(whole) == 54 and len(held_out) == 6 and not whole & held_out
    of_b = {n for n in whole if n % 3 == 0}
    for share in SHARES:
        found = numbers(f"share{share}")
        assert numbers(f"share{share}", "heldout_pairs") == held_out
        assert len(found & of_b) == round(share * len(of_b))
        assert len(found - of_b) == round(share * len(whole - of_b))
    for less, more in pairwise(SHARES):
        assert numbers(f"share{less}") < numbers(f"share{more}")
    made(place, "only", {"pair.fraction": 0.4, "pair.only_sources": ["b"]})
    assert numbers("only") == numbers("share0.4") & of_b
    assert numbers("only", "heldout_pairs") == held_out


def test_the_manifest_counts_what_is_left_out(place: Place) -> None:
    place.put("answers.jsonl", answers())
    made(place, "run", {"pair.fraction": 0.5, "pair.only_sources": ["a"]})
    manifest = Path("run/manifest.json").read_text()
    assert "outside of pair.fraction" in manifest and "not of pair.only_sources" in manifest


def test_a_source_that_is_not_there_is_refused(place: Place) -> None:
    place.put("pairs.jsonl", pairs())
    place.change(PAIRS | {"pair.only_sources": ["c"]})
    found = prefine("pair", "run.yaml")
    assert found.code == CONFIG
    assert "pair.only_sources: no prompt is of 'c'; there are 'a', 'b'" in found.err


@pytest.mark.parametrize("value", [0, 1.5, -0.2])
def test_a_share_that_is_none_is_refused(place: Place, value: float) -> None:
    place.change({"pair.fraction": value})
    found = prefine("config", "check", "run.yaml")
    assert found.code == CONFIG
    assert "pair.fraction" in found.err


def test_more_prompts_move_few() -> None:
    settings = PairConfig(fraction=0.5)
    before = {f"id{n}": "a" for n in range(200)}
    after = before | {f"new{n}": "a" for n in range(20)}
    taken, later = (ids.keys() - left_out(ids, (), settings).keys() for ids in (before, after))
    assert (len(taken), len(later)) == (100, 110)
    assert len(taken - later) <= 10


def test_the_source_of_a_prompt() -> None:
    places = {
        "data/x.jsonl, line 12": "data/x.jsonl",
        "x.parquet, row 3": "x.parquet",
        "x.csv, row 3 (line 9)": "x.csv",
        "playground train prompt 7": "playground train",
    }
    for where, source in places.items():
        assert source_of(Prompt.from_text("hi", source=where)) == source
    named = Prompt.from_text("hi", source="x.jsonl, line 1", metadata={"source": "evol"})
    assert source_of(named) == "evol"


def test_runs_that_began_without_the_keys_go_on() -> None:
    with_keys = PairConfig().model_dump(mode="json")
    without = {k: v for k, v in with_keys.items() if k not in ("fraction", "only_sources")}
    assert fingerprinted({"pair": with_keys}) == fingerprinted({"pair": without})
    changed = fingerprinted({"pair": with_keys | {"fraction": 0.5}})
    assert changed != fingerprinted({"pair": with_keys})
