"""Tables are published without the folders that their rows came from, whatever the run knows."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import prefine
from prefine.errors import ConfigError
from prefine.hub.contents import Published
from prefine.hub.leaks import absolute_paths, refuse_leaks, without_paths
from prefine.hub.push import prepare
from run_place import OK, PAIRS, Place, good_pairs, jsonl


def rows_of(file: Published) -> list[dict[str, Any]]:
    return pq.read_table(pa.BufferReader(file.read())).to_pylist()


def table(folder: Path, extra: Any) -> Published:
    path = folder / "part-00000.parquet"
    pq.write_table(pa.table({"prompt": ["q"], "prefine_extra": [json.dumps(extra)]}), path)
    return Published("lists/part-00000.parquet", path)


@pytest.mark.parametrize("again", [False, True], ids=["its own file", "the table of another run"])
def test_a_file_in_a_folder_with_a_space_keeps_its_last_name(place: Place, again: bool) -> None:
    raw = place.root / "raw data"
    raw.mkdir()
    (raw / "my pairs.jsonl").write_bytes(jsonl(good_pairs()))
    place.change({**PAIRS, "pairs.path": str(raw / "*.jsonl")})
    assert prefine("pair", "run.yaml").code == OK
    if again:
        place.change({"run_dir": "second", "pairs": {"name": "file", "path": "run/pairs"}})
        assert prefine("pair", "run.yaml").code == OK
    run = place.root / ("second" if again else "run")
    (path,) = (run / "pairs").glob("*.parquet")
    stored = pq.read_table(path).to_pylist()
    assert f"{raw}/my pairs.jsonl, line 1" in stored[0]["prefine_extra"]

    prepared = prepare(run, ["pairs"], repo="ada/tea", licence="mit")
    (file,) = [one for one in prepared.repositories[0].files if one.name.endswith(".parquet")]
    published = rows_of(file)
    assert str(place.root) not in json.dumps(published)
    for number, (before, after) in enumerate(zip(stored, published, strict=True), 1):
        extra = json.loads(after.pop("prefine_extra"))
        assert extra["prompt"].pop("source") == f"…/my pairs.jsonl, line {number}"
        kept = json.loads(before.pop("prefine_extra"))
        del kept["prompt"]["source"]
        assert (before, kept) == (after, extra)


def test_every_origin_is_cut_and_no_text_is(tmp_path: Path) -> None:
    said = {"messages": [{"content": "/home/ada/x.py"}], "tools": [{"source": "/home/ada/y.py"}]}
    prompt = {"source": "C:\\Users\\ada\\x.csv, row 2 (line 3)", "metadata": {"source": "/b/c"}}
    completion = {"model": "base and hf:/home/ada/m", "metadata": {"image": "/home/ada/1 2.png"}}
    other = {"source": "hub:/mnt/ada/sets/tea train, row 3", "metadata": {"path": "/r/tea/all"}}
    extra = {"prompt": prompt | said, "rejected_prompt": other, "completions": [completion]}
    clean, rewritten = without_paths(table(tmp_path, extra), None, set())
    assert rewritten == "paths in prefine_extra shortened to their last name"
    assert json.loads(rows_of(clean)[0]["prefine_extra"]) == {
        "prompt": {"source": "…/x.csv, row 2 (line 3)", "metadata": {"source": "…/c"}, **said},
        "rejected_prompt": {"source": "hub:…/tea train, row 3", "metadata": {"path": "/r/tea/all"}},
        "completions": [{"model": "base and hf:…/m", "metadata": {"image": "…/1 2.png"}}],
    }
    refuse_leaks([clean], set())


def test_a_table_without_paths_is_published_as_it_is(tmp_path: Path) -> None:
    sources = ["data/x.jsonl, line 3", "hub:org/tea train, row 3", "s3://b/home/x.jsonl, line 3"]
    file = table(tmp_path, [{"source": source} for source in sources])
    assert without_paths(file, None, {"/home/ada"}) == (file, "")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"prompt": {"source": "/odd place/x y.jsonl, line 1"}}, "prompt.source: the path /odd pl"),
        ({"rejected_prompt": {"source": "3 of cache:/home/ada/x"}}, "rejected_prompt.source: the "),
        ({"prompt": {"metadata": {"source": "/home/ada/x"}}}, "prompt.metadata.source: the path"),
        ({"bridged_from": {"model": "/home/ada/x"}}, "bridged_from.model: the path /home/ada/x"),
        ({"prompt": {"source": "http://h/x?token=abc"}}, "prompt.source: a URL with a login"),
        ({"prompt": {"text": "in /home/bob/jürgen"}}, "prompt.text: the path /home/bob/jürgen"),
    ],
)
def test_what_would_be_left_is_refused(extra: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_leaks([table(tmp_path, extra)], {"/home/bob/jürgen"})
    assert f"lists/part-00000.parquet, row 0, prefine_extra.{words}" in str(refused.value)


def test_paths_with_spaces_in_configuration_and_command_are_known() -> None:
    values = [{"path": "/my data/x y.jsonl"}, "pairs.path=/srv/a b", "file:///mnt/a b/c", "~/a b/c"]
    assert absolute_paths([values, "/ 3 / 4", "/* all of it */", "s3://b/a b/c"]) == {
        *("/my data/x y.jsonl", "/srv/a b", "/mnt/a b/c", "~/a b/c")
    }


def test_a_run_on_the_playground_names_no_folder_of_this_package(place: Place) -> None:
    place.change({"policy": {"name": "playground"}, "train.max_steps": 1})
    done = prefine("run", "run.yaml")
    assert done.code == OK, done.err
    card = (place.root / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "\n# playground-dpo\n\nTrained from `playground` by preference optimization" in card
    done = prefine("push", "run", "--repo", "ada/tea", "--license", "mit", "--dry-run")
    assert done.code == OK, done.err
