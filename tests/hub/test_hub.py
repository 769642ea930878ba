"""Push a run to a hub on loopback and pull it back: the same bytes, one commit, nothing private."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from command import Result, prefine
from loopback_hub import environment, loopback_hub
from run_place import CONFIG, DATA, GONE, OK, Place


def on_hub(url: dict[str, str], *arguments: str) -> Result:
    """The command in a process of its own: the library reads its variables when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", "from prefine.cli.app import main; main()", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | url,
        timeout=120,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def with_licence(place: Place) -> None:
    """A run whose base model says its licence, and whose files are named by absolute paths."""
    place.put("model/README.md", "---\nlicense: apache-2.0\n---\n# Base\n")
    place.put("answers/README.md", "---\nlicense: cc-by-4.0\n---\n")
    place.put("answers/answers.jsonl", (place.root / "answers.jsonl").read_bytes())
    paths = {"policy.path": "model", "completions.path": "answers"}
    place.change({key: str(place.root / name) for key, name in paths.items()})
    done = prefine("run", "run.yaml")
    assert done.code == OK, done.err


def test_what_was_pushed_comes_back_and_training_goes_on(place: Place, tmp_path: Path) -> None:
    with_licence(place)
    with loopback_hub() as hub:
        url = environment(hub, str(tmp_path / "home"))
        done = on_hub(url, "push", "run", "--repo", "ada/tea", "--json")
        assert done.code == OK, done.err
        said = json.loads(done.out)
        assert said["licences"] == {"base": "apache-2.0", "data": "cc-by-4.0", "stated": None}
        model, data = (hub.repos[type_, "ada/tea"] for type_ in ("model", "dataset"))
        assert (model.private, data.private) == (True, True)
        assert model.messages == ["initial commit", "Push model with prefine"]
        assert data.messages == ["initial commit", "Push pairs with prefine"]
        # The weights, the tokenizer and the pairs as they are; the rest was said to be rewritten.
        trained = below(place.root / "run" / "model")
        same = {name for name, content in trained.items() if model.files.get(name) == content}
        assert same == trained.keys() - {"README.md"}
        assert model.files.keys() == trained.keys() | {
            *(".gitattributes", "README.md", "prefine.json", "report.html")
        }
        assert sorted(data.files) == [
            *(".gitattributes", "README.md", "pairs/part-00000.parquet", "prefine.json")
        ]
        assert str(tmp_path).encode() not in b"".join([*model.files.values(), *data.files.values()])
        card = yaml.safe_load(model.files["README.md"].decode().split("---")[1])
        assert (card["license"], card["library_name"]) == ("apache-2.0", "transformers")
        card = yaml.safe_load(data.files["README.md"].decode().split("---")[1])
        assert card["license"] == "cc-by-4.0"
        assert card["configs"][0]["data_files"] == [{"split": "train", "path": "pairs/*.parquet"}]

        done = on_hub(url, "pull", "ada/tea", "--to", "back", "--json")
        assert done.code == OK, done.err
        found = json.loads(done.out)
        assert [one["commit"] for one in found] == [model.commits[-1][0], data.commits[-1][0]]
        for folder, repo in (("back/model", model), ("back/data", data)):
            sent = {n: one for n, one in repo.files.items() if n != ".gitattributes"}
            assert below(place.root / folder) == sent
        lines = [line for one in found for line in one["lines"]]
        assert lines == [
            "policy: {name: hf, path: back/model}",
            "pairs: {name: file, path: back/data/pairs}",
        ]
        # A second push changes nothing, so there is no commit; who changed a file is told on pull.
        assert on_hub(url, "push", "run", "--repo", "ada/tea").code == OK
        assert len(model.commits) == 2
        model.files["config.json"] = model.files["config.json"] + b" "
        done = on_hub(url, "pull", "ada/tea", "--to", "again")
        assert (done.code, "config.json has changed since it was pushed" in done.err) == (
            DATA,
            True,
        )
        assert not (place.root / "again" / "model").exists()

    goes_on = yaml.safe_load("\n".join(lines))
    place.change({"completions": GONE, "rank": GONE, "run_dir": "next", **goes_on})
    done = prefine("run", "run.yaml")
    assert done.code == OK, done.err
    assert (place.root / "next" / "model" / "model.safetensors").is_file()


def test_a_public_repository_is_not_taken_by_accident(place: Place, tmp_path: Path) -> None:
    assert prefine("run", "run.yaml").code == OK
    with loopback_hub() as hub:
        url = environment(hub, str(tmp_path / "home"))
        arguments = ("push", "run", "--repo", "ada/tea", "--what", "model", "--license", "mit")
        assert on_hub(url, *arguments, "--public").code == OK
        repo = hub.repos["model", "ada/tea"]
        assert not repo.private
        assert "license: mit" in repo.files["README.md"].decode()
        done = on_hub(url, *arguments)
        assert (done.code, "can be read by everybody" in done.err) == (CONFIG, True)
        # What an earlier push left is deleted in the same commit.
        (place.root / "run" / "model" / "generation_config.json").unlink()
        assert on_hub(url, *arguments, "--public").code == OK
        assert "generation_config.json" not in repo.files
        assert len(repo.commits) == 3
        done = on_hub(url | {"HF_TOKEN": "hf_wrong"}, *arguments, "--public")
        assert (done.code, "check the token's rights" in done.err) == (CONFIG, True), done.err


KEY = "sk-proj-abc123" + "def456" * 4
HOME = "/home/ada/secret/base"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    root, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(root)
    try:
        place = Place(root, tiny_model_folder)
        place.change({"report.examples": 1})
        assert prefine("run", "run.yaml").code == OK
    finally:
        os.chdir(before)
    return root


def planted_json(folder: Path, name: str, **values: str) -> None:
    file = folder / "model" / name
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | values, indent=2))


def planted_text(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"{file.read_text()}{text}\n")


def planted_table(folder: Path, *, metadata: str = "", text: str = "") -> None:
    import pyarrow.parquet as pq

    (path,) = (folder / "pairs").glob("*.parquet")
    table = pq.read_table(path)
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), "from": metadata})
    if text:
        rows = table.to_pylist()
        rows[2]["chosen"][0]["content"] = f"say {text} to nobody"
        table = type(table).from_pylist(rows, schema=table.schema)
    pq.write_table(table, path)


def planted_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model" / "model.safetensors"
    save_file(load_file(file), file, metadata={"from": HOME})


PLANTED = {
    "a key in the report": (
        lambda run: planted_text(run, "report.html", KEY),
        ["report.html, line ", "what looks like a key"],
    ),
    "a path in the report": (
        lambda run: planted_text(run, "report.html", f"<p>{HOME}</p>"),
        ["report.html, line ", f"the path {HOME}"],
    ),
    "a path in a card": (
        lambda run: planted_text(run, "model/README.md", f"from {HOME}"),
        ["README.md, line ", f"the path {HOME}"],
    ),
    "a path in a configuration": (
        lambda run: planted_json(run, "config.json", cache="/secret-place/base"),
        ["config.json, cache", "the path /secret-place/base"],
    ),
    "a login in a tokenizer's configuration": (
        lambda run: planted_json(run, "tokenizer_config.json", url="https://ada:pw@example.org/x"),
        ["tokenizer_config.json, url", "a URL with a login"],
    ),
    "an adapter's folder of this machine": (
        lambda run: planted_json(run, "adapter_config.json", base_model_name_or_path=HOME),
        ["adapter_config.json, base_model_name_or_path", "--base-model"],
    ),
    "a path in a table's metadata": (
        lambda run: planted_table(run, metadata=HOME),
        ["pairs/part-00000.parquet, metadata from", f"the path {HOME}"],
    ),
    "a key in an answer": (
        lambda run: planted_table(run, text=KEY),
        ["pairs/part-00000.parquet, row 2, chosen.0.content", "what looks like a key"],
    ),
    "a path in the header of weights": (
        planted_weights,
        ["model.safetensors, header", f"the path {HOME}"],
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_nothing_private_is_published(
    name: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, expected = PLANTED[name]
    run = shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    arguments = ("push", "run", "--repo", "ada/tea", "--license", "mit", "--dry-run")
    assert prefine(*arguments).code == OK
    plant(run)
    done = prefine(*arguments)
    assert done.code == CONFIG, done.out
    for words in expected:
        assert words in done.err
    assert KEY not in done.out + done.err


def test_the_key_of_a_judge_is_found_by_its_value(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run")
    value = json.loads((run / "config.json").read_text())
    value["config"]["evaluate"]["judge"] = {
        "name": "pairwise",
        "model": {"name": "openai", "base_url": "http://h/v1", "api_key_env": "MY_KEY"},
    }
    (run / "config.json").write_text(json.dumps(value))
    monkeypatch.setenv("MY_KEY", "an-unremarkable-word")
    planted_text(run, "report.html", "it is an-unremarkable-word.")
    done = prefine("push", str(run), "--repo", "ada/tea", "--dry-run")
    assert (done.code, "a key that this command reads" in done.err) == (CONFIG, True), done.err


def test_known_fields_are_rewritten(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run")
    in_cache = "/home/ada/.cache/huggingface/hub/models--org--base-1B/snapshots/0123abc"
    planted_json(run, "config.json", _name_or_path=in_cache)
    planted_json(run, "tokenizer_config.json", name_or_path=HOME)
    planted_json(run, "adapter_config.json", base_model_name_or_path=HOME)
    arguments = ("push", str(run), "--repo", "ada/tea", "--license", "mit", "--dry-run")
    done = prefine(*arguments, "--base-model", "org/base")
    assert done.code == OK, done.err
    for line in (
        "rewritten: adapter_config.json: base_model_name_or_path is now org/base",
        "rewritten: config.json: _name_or_path is now org/base-1B",
        "rewritten: tokenizer_config.json: name_or_path is now org/base",
    ):
        assert line in done.out.splitlines()
    assert "nothing was sent" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--repo", "tea"), "expected OWNER/NAME"),
        (("run", "--repo", "ada/tea", "--what", "report"), "the report goes with"),
        (("run", "--repo", "ada/tea", "--what", "journal"), "--what journal: unknown"),
        (("run", "--repo", "ada/tea", "--license", "Mine!"), "expected an identifier"),
        (("run", "--repo", "ada/tea"), "the licence of the base model and data is not known"),
        (("elsewhere", "--repo", "ada/tea"), "there is no run here"),
    ],
)
def test_wrong_arguments_are_explained(
    arguments: tuple[str, ...], words: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    done = prefine("push", *arguments)
    assert (done.code, words in done.err) == (CONFIG, True), done.err


def test_an_unfinished_stage_is_not_published(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run")
    value = json.loads((run / "manifest.json").read_text())
    value["stages"]["train"]["complete"] = False
    (run / "manifest.json").write_text(json.dumps(value))
    done = prefine("push", str(run), "--repo", "ada/tea", "--dry-run")
    assert (done.code, "stage train has not ended" in done.err) == (CONFIG, True), done.err
