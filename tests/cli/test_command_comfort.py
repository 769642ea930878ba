"""What the command offers to programs, editors and people who look something up."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from command import prefine
from prefine.config.components import TABLES, lookup, options_model
from prefine.config.schema import json_schema
from run_place import Place
from tiny_model import save_tiny_model

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, model)


def test_a_plan_and_a_check_for_programs(place: Place) -> None:
    planned = json.loads(prefine("run", "run.yaml", "--dry-run", "--json").out)
    assert planned["stages"] == ["sample", "rank", "pair", "train", "report"]
    assert planned["folder"] == "run" and planned["lines"]["training steps, at most"] == 1
    checked = json.loads(prefine("config", "check", "run.yaml", "--json").out)
    assert checked["ok"] is True and checked["counts"]["completions"] == 4
    refused = prefine("config", "check", "run.yaml", "--json", "--set", "train.lr=1")
    assert (refused.code, refused.out) == (2, "") and "train.learning_rate" in refused.err


def test_a_run_folder_stands_for_its_configuration(place: Place) -> None:
    assert prefine("run", "run.yaml").code == 0
    shown = yaml.safe_load(prefine("config", "show", "run").out)
    assert shown["run_dir"] == "run" and shown["train"]["max_steps"] == 1
    report = place.root / "run" / "report.html"
    report.unlink()
    assert prefine("report", "run").code == 0 and report.is_file()
    assert prefine("run", "run").code == 0, "the same run again resumes"
    (place.root / "other").mkdir()
    nothing = prefine("report", "other")
    assert nothing.code == 2 and f"{place.root / 'other'}: a folder, and no run" in nothing.err


def test_help_shows_the_options_of_a_stage_and_flags_without_a_type() -> None:
    found = prefine("evaluate", "-h").out
    assert "--strict" in found and "--run-dir" in found and "annotations" in found
    for command in (("run",), ("evaluate",), ("config", "check"), ("demo",), ("--help",)):
        assert "<bool>" not in prefine(*command, *([] if command == ("--help",) else ["-h"])).out


def test_help_breaks_its_lines_at_the_width_of_the_terminal_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = prefine("compare", "-h").out
    assert (
        " Nothing is written into a run; runs that still work, or have stopped, are\n"
        " compared as far as they are. `--json` prints runs, settings, evaluated,\n"
    ) in "\n".join(line.rstrip() for line in found.splitlines())


def test_the_demo_is_a_file_to_copy() -> None:
    import prefine as package

    ours = Path(package.__file__).parent / "playground" / "demo.yaml"
    assert (REPOSITORY / "configs" / "demo.yaml").read_bytes() == ours.read_bytes()


def test_the_schema_has_every_component_with_its_options() -> None:
    schema = json_schema()
    for kind, names in TABLES.items():
        alternatives = schema["$defs"][kind]["anyOf"]
        assert {"enum": list(names)} in alternatives
        by_name = {
            one["properties"]["name"].get("const"): one["properties"]
            for one in alternatives
            if "properties" in one
        }
        for name in names:
            function = lookup(kind, name, where=kind)
            options = options_model(function, given=getattr(function, "controlled", ()))
            assert by_name[name].keys() == {"name", *options.model_fields}, name
    assert schema["properties"]["policy"] == {"$ref": "#/$defs/backend"}
    text = json.dumps(schema)
    for name in set(re.findall(r'"#/\$defs/(\w+)"', text)):
        assert name in schema["$defs"], name


def test_the_schema_knows_every_key_of_the_committed_configurations() -> None:
    schema = json_schema()

    def known(value: Any, at: Any, path: str) -> None:
        at = schema["$defs"][at["$ref"].rsplit("/", 1)[-1]] if "$ref" in at else at
        options = at.get("anyOf") or at.get("oneOf") or []
        if not isinstance(value, dict):
            return
        if options:
            options = [
                schema["$defs"][o["$ref"].rsplit("/", 1)[-1]] if "$ref" in o else o for o in options
            ]
            options = [inner for one in options for inner in one.get("anyOf", [one])]
            if any(isinstance(one.get("additionalProperties"), dict) for one in options):
                return  # keys of the user's own, such as names of columns
            fitting = [
                one
                for one in options
                if "properties" in one
                and ("name" in one["properties"]) >= ("name" in value)
                and one["properties"].get("name", {}).get("const") in (None, value.get("name"))
            ]
            assert fitting, path
            at = fitting[0]
        for name, inner in value.items():
            assert name in at["properties"] or ":" in str(value.get("name")), f"{path}.{name}"
            if name in at["properties"]:
                known(inner, at["properties"][name], f"{path}.{name}")

    for file in sorted((REPOSITORY / "configs").glob("*.yaml")):
        known(yaml.safe_load(file.read_text()), schema, file.name)
