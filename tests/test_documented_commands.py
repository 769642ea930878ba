"""The commands of README.md and the docs exit as documented; here those of the command `prefine`.

`benchmarks/documented_commands.py` runs all of them in a fresh clone, each in a process of its own;
this runs in one process what needs no server, with the same files, models and changes. The recipes
are run by `test_recipes.py`, which also compares what they print.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import prefine

REPOSITORY = Path(__file__).parents[1]
sys.path.append(str(REPOSITORY / "benchmarks"))

import documented_commands as documented  # noqa: E402
import documented_stand_ins as stand_ins  # noqa: E402

# Left there, benchmarks/losses.py would hide the folder tests/losses from other tests.
sys.path.remove(str(REPOSITORY / "benchmarks"))

PAGES = [page for page in documented.pages() if "recipes" not in page]
SLOW = "prefine (demo|simulate|mock-server|sweep .* --set|run .*(rounds|rso).yaml --set)"
"""Commands that take long, or do not end; tests of `simulate`, `sweep` and rounds run smaller ones.
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    stand_ins.write_files(folder)
    stand_ins.write_hub(folder)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("JUDGE_API_KEY", documented.KEY)
    monkeypatch.chdir(place)
    yield place


def test_every_page_of_the_navigation_is_there() -> None:
    assert {"docs/index.md", "docs/questions.md", "docs/recipes/own-judge.md"} <= {*PAGES} | {
        *documented.pages()
    }


def test_every_change_and_server_is_of_a_command_that_is_there() -> None:
    found = [
        block
        for page in documented.pages()
        for block in documented.blocks(page)
        if isinstance(block, documented.Command)
    ]
    for change in documented.CHANGES:
        assert any(documented.applies(change, command) for command in found), change
    assert documented.SERVERS.keys() <= set(documented.pages())


def test_a_command_that_takes_too_long_ends_with_all_it_started(tmp_path: Path) -> None:
    shell = documented.Shell(tmp_path, {**os.environ}, timeout_s=2)
    with pytest.raises(subprocess.TimeoutExpired):
        shell.run("bash -c 'sleep 5; touch later' & echo $! > started; wait; true")
    child = int((tmp_path / "started").read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(child, 0)
            time.sleep(0.05)
    assert shell.run("exit 3") == (3, "")


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_exit_as_documented(page: str, here: Path) -> None:
    for block in documented.blocks(page):
        if isinstance(block, documented.WrittenFile):
            (here / block.name).write_text(block.text, encoding="utf-8")
            continue
        command, skip = documented.changed(block)
        words = shlex.split(command, comments=True) if block.language == "bash" else [""]
        needs_server = "base_url" in command and "--offline" not in words
        if skip or words[0] != "prefine" or needs_server or documented.matches(SLOW, command):
            continue
        result = prefine(*words[1:])
        assert result.code == 0, f"{page}:{block.line}: {command}\n{result.err}"
