"""Offline and deterministic, everywhere; and a run in CI fails on a skip that nobody agreed to."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Before anything loads torch: OpenMP threads that spin while they wait starve the ones that work on
# shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest

import transformers_server
from prefine.calls.hosts import forget_hosts
from prefine.models.openai.server import forget_servers
from run_place import Place
from tiny_judge import save_tiny_judge
from tiny_model import save_tiny_model

# The same examples in every run, whatever the machine's speed.
hypothesis.settings.register_profile("prefine", derandomize=True, deadline=None)
hypothesis.settings.load_profile("prefine")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Runs of the command in subprocesses must not ask the library for its hub either.
os.environ["HF_DATASETS_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _strange_servers() -> None:
    """Know no server from an earlier test: ports are used again."""
    forget_hosts()
    forget_servers()


@pytest.fixture(autouse=True)
def _no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write without waiting for the disk: no test cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-skips", metavar="FILE", help="fail on a skip whose reason is not a line of FILE"
    )


LONGEST = (
    "test_several_processes.py",
    "test_processes.py",
    "test_kill.py",
    "test_kill_training.py",
    "test_build.py",
    "test_memory.py",
    "test_interruptions.py",
    "test_every_loss.py",
)
"""Files that take longest: side by side, a long file that begins last is waited for alone."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out torture, which is run by name only, and begin with the longest files."""
    if "torture" not in (config.getoption("-m") or ""):
        left_out = [item for item in items if "torture" in item.keywords]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if "torture" not in item.keywords]
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what was imported: it is looked through at each release
    of a model, and nothing of it is garbage.
    """
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _SEEN.append((report.nodeid, report.longrepr[2].removeprefix("Skipped: ")))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    listed = session.config.getoption("--strict-skips")
    if not listed:
        return
    allowed = {
        line for line in Path(listed).read_text().splitlines() if line and not line.startswith("#")
    }
    unlisted = [(test, reason) for test, reason in _SEEN if reason not in allowed]
    for test, reason in unlisted:
        print(f"\nskip without agreement: {test}: {reason}")
    if unlisted and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_SEEN: list[tuple[str, str]] = []


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; a test that needs it is skipped where it is absent."""
    folder = os.environ.get("PREFINE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PREFINE_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random Llama of a few thousand weights; copy it before
    changing it.
    """
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tiny Llama that answers any prompt with A or B; copy it
    before changing it.
    """
    return save_tiny_judge(tmp_path_factory.mktemp("tiny-judge") / "model")


@pytest.fixture(scope="session")
def hf_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a running `transformers serve`; any local model folder can be asked for
    as its model.
    """
    if not transformers_server.is_installed():
        pytest.skip(transformers_server.SKIP_REASON)
    with transformers_server.transformers_server(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture
def place(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A fresh working directory with the inputs of a run that works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Place(tmp_path, tiny_model_folder)
