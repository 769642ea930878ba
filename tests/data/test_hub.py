"""Data sets in the hub's form, from a local folder; and a user's function as a source."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from command import prefine
from prefine.config.base import Component
from prefine.config.components import bind
from prefine.data import entries
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import read
from prefine.errors import BackendError, ConfigError, DataError


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local data set with two splits."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    for split, number in (("train", 3), ("test", 1)):
        rows = [
            {"instruction": f"{split} {n}", "output": "a", "generator": m}
            for n in range(number)
            for m in ("m", "n")
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def hub(path: str, **options: Any) -> list[SourceRow]:
    return list(
        read(
            Component.model_validate({"name": "hub", "path": path, **options}), where="completions"
        )
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_is_read_by_split(data_set: str, streaming: bool) -> None:
    rows = hub(data_set, streaming=streaming)
    assert [row.values["prompt"] for row in rows] == ["train 0", "train 1", "train 2"]
    assert rows[1].where == f"hub:{data_set} train, row 2"
    assert [len(found) for _, found in entries.completions(rows)] == [2, 2, 2]
    assert len(hub(data_set, split="test", streaming=streaming)) == 1
    assert len(hub(data_set, limit=2, streaming=streaming)) == 2


def test_a_folder_or_files_of_a_data_set(data_set: str) -> None:
    part = Path(data_set) / "part"
    part.mkdir()
    (part / "train.jsonl").write_text('{"prompt": "of the part"}\n')
    assert [row.values["prompt"] for row in hub(data_set, data_dir="part")] == ["of the part"]
    assert len(hub(data_set, data_files="test.jsonl")) == 1
    out = Path(data_set).parent / "out.jsonl"
    found = prefine(
        "import", f"hub:{data_set}", "--as", "prompts", "--out", str(out), "--data-dir", "part"
    )
    assert (found.code, json.loads(out.read_text())) == (0, {"prompt": "of the part"})


def test_what_is_not_there(data_set: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"split.*validation.*train.*test|split.*validation.*test.*train"
    ):
        hub(data_set, split="validation")
    with pytest.raises(
        BackendError, match=r"hub:no/such-data: cannot be loaded.*download it first"
    ):
        hub("no/such-data")
    with pytest.raises(BackendError, match="cannot be loaded"):
        hub(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="trust_remote_code: unknown option"):
        hub(data_set, trust_remote_code=True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"datasets.*install prefine\[train\]"):
        list(bind("source", "hub", {"path": "org/name"}, where="prompts")())


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("my_rows_module")
    monkeypatch.setitem(sys.modules, "my_rows_module", module)
    return module


def from_function(**options: Any) -> list[SourceRow]:
    return list(
        read(Component.model_validate({"name": "my_rows_module:rows", **options}), where="prompts")
    )


def test_a_function_may_yield_plain_objects(own: ModuleType) -> None:
    def rows(*, count: int = 2) -> Any:
        for n in range(count):
            yield {"question": f"q{n}", "more": (1, 2)}

    own.rows = rows  # type: ignore[attr-defined]
    found = from_function(count=5, limit=3, columns={"prompt": "question"})
    assert [row.where for row in found] == [f"my_rows_module:rows, row {n}" for n in range(3)]
    assert found[2].values == {"prompt": "q2", "more": [1, 2]}
    with pytest.raises(ConfigError, match=r"prompts\.cuont: unknown option.*did you mean 'count'"):
        from_function(cuont=1)
    with pytest.raises(ConfigError, match=r"prompts\.limit.*greater than 0"):
        from_function(limit=0)
    with pytest.raises(ConfigError, match=r"prompts\.layout"):
        from_function(layout="helpster")


def test_a_function_may_have_an_option_of_ours(own: ModuleType) -> None:
    def rows(*, limit: int) -> Any:
        return [SourceRow(f"mine {n}", {"prompt": f"q{n}"}) for n in range(limit * 2)]

    own.rows = rows  # type: ignore[attr-defined]
    assert [row.where for row in from_function(limit=1)] == ["mine 0", "mine 1"]


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["q"], "my_rows_module:rows, row 0: expected an object"),
        ([{"prompt": "q"}, {1: 2}], "row 1: expected an object"),
        ([], "yields no rows"),
        (None, "the function fails: TypeError"),
    ],
)
def test_a_function_that_yields_no_rows(own: ModuleType, items: Any, says: str) -> None:
    own.rows = lambda: items  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=says):
        from_function()
