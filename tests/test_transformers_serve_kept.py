"""The backend `served` with the real `transformers serve`."""

import os
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Call
from prefine.config.sections import Decoding
from prefine.models.hf.backend import HfModel
from prefine.models.playground import playground_folder
from prefine.models.protocol import SampleRequest, Samples, sample_key
from prefine.models.served.backend import ServedModel
from prefine.records import Completion, Prompt
from prefine.run.journal import Journal
from stand_in_engine import running
from transformers_server import SKIP_REASON, is_installed, sampling_folder

pytestmark = pytest.mark.skipif(not is_installed(), reason=SKIP_REASON)

PROMPTS = [Prompt.from_text(f"write about {what} .") for what in ("tea", "rain", "the sea", "cats")]


def served(folder: Path, **options: Any) -> ServedModel:
    return ServedModel(
        path=str(folder), engine="transformers", arguments={"dtype": "float32"}, **options
    )


def draw(model: Samples, journal: Path, decoding: Decoding, samples: int = 1) -> list[Completion]:
    requests = [SampleRequest(prompt, index) for prompt in PROMPTS for index in range(samples)]
    calls = [Call(sample_key(model.fingerprint, one, decoding), one) for one in requests]
    asker = CallEngine(Journal(journal))

    async def work() -> list[Completion]:
        found = await asker.ask(
            calls, Completion, lambda wanted: model.sample(calls, wanted, decoding), backend=model
        )
        answers = [found[call.key] for call in calls]
        assert all(isinstance(answer, Completion) for answer in answers), answers
        return answers  # type: ignore[return-value]

    return asker.run(work())


def journaled(journal: Path) -> int:
    if not journal.exists():
        return 0
    with closing(sqlite3.connect(journal)) as connection:
        try:
            return int(connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # it is just being made


def test_greedy_answers_are_those_of_the_same_folder_in_this_process(tmp_path: Path) -> None:
    greedy = Decoding(temperature=0.0, max_new_tokens=30)
    # Its file says to sample, which a greedy request must overrule.
    folder = sampling_folder(playground_folder(), tmp_path / "playground")
    model = served(folder)
    model.check_model()
    theirs = draw(model, tmp_path / "served.sqlite", greedy)
    ours = draw(HfModel(path=str(folder), dtype="float32"), tmp_path / "hf.sqlite", greedy)
    assert [one.text for one in theirs] == [one.text for one in ours]
    assert [one.finish_reason for one in theirs] == [one.finish_reason for one in ours]
    counts = [one.usage.completion_tokens if one.usage else None for one in theirs]
    assert counts == [len(one.token_ids or ()) for one in ours]
    assert not running(folder)


@pytest.mark.torture
def test_two_servers_of_which_one_is_killed_sample_from_a_folder_that_does_not(
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(playground_folder(), tmp_path / "playground"))
    journal = tmp_path / "journal.sqlite"
    sampled = Decoding(temperature=1.0, max_new_tokens=30, seed=1)
    model = served(folder, replicas=2)
    killed: list[int] = []

    def kill_one() -> None:
        while journaled(journal) < 5:
            time.sleep(0.05)
        killed.append(running(folder)[0])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    drawn = draw(model, journal, sampled, samples=12)
    thread.join()
    assert killed
    assert len({one.text for one in drawn}) > 40
    assert any("it ended (SIGKILL)" in note for note in model.notes)
    assert not running(folder)
