"""Mistakes of a first hour that are found at once: an exit code, the place and a remedy of each.

Those that need a run come with `python benchmarks/mistakes.py`, which makes all of them.
"""

import sys
from pathlib import Path

import pytest

from tiny_model import save_tiny_model

BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")
sys.path.append(BENCHMARKS)

from mistakes import outcome  # noqa: E402
from mistakes_table import CALLS, COMMANDS, RUN, Call, Mistake  # noqa: E402

# Left there, benchmarks/losses.py would hide the folder tests/losses from other tests.
sys.path.remove(BENCHMARKS)

QUICK = [one for one in COMMANDS if not one.before and not one.command.startswith(RUN)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.mark.parametrize("mistake", [*QUICK, *CALLS], ids=lambda mistake: mistake.what)
def test_a_mistake_gets_its_place_and_a_remedy(
    mistake: Mistake | Call, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = outcome(mistake, tmp_path / "place", model)
    assert not found.missing, found.message
