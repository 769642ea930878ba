"""Batch files: what they bring, what may become of one, and kills while one is under way."""

import json
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from command import Result, prefine, start
from mock_place import Served, mock_server
from prefine.models.openai.usage import TokenPrices
from prefine.run.tables import table_hash

PROMPTS, COMPLETIONS = 24, 3


@pytest.fixture(autouse=True)
def _hand_over_soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("prefine.models.openai.batches._QUIET_S", 0.05)
    monkeypatch.setattr("prefine.models.openai.batches._FIRST_POLL_S", 0.02)
    yield


def write(folder: Path, url: str, **model: Any) -> None:
    rows = [json.dumps({"prompt": f"question {n}"}) for n in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    asked = {"name": "openai", "model": "mock", "base_url": url, "calls": "batch", **model}
    config = {
        "run_dir": "unused",
        "policy": {"name": "playground"},
        "prompts": {"name": "file", "path": str(folder / "prompts.jsonl")},
        "sample": {
            "model": asked,
            "completions_per_prompt": COMPLETIONS,
            "max_new_tokens": 32,
            "max_failed_fraction": 0.4,
        },
        "rank": {"judge": {"name": "pairwise", "model": asked}},
    }
    (folder / "run.yaml").write_text(json.dumps(config), encoding="utf-8")


def run(stage: str, folder: Path, name: str = "run") -> Result:
    return prefine(stage, str(folder / "run.yaml"), "--run-dir", str(folder / name))


def manifest(folder: Path, stage: str, name: str = "run") -> dict[str, Any]:
    text = (folder / name / "manifest.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)["stages"][stage]
    return found


def tables(folder: Path, name: str) -> list[str]:
    return [table_hash(folder / name / table) for table in ("completions", "rankings")]


def lines_handed_over(at: Served) -> int:
    counts = at.server.batches.lines
    assert all(count == 1 for count in counts.values()), counts.most_common(3)
    return counts.total()


def test_the_same_tables_as_without_batches_for_the_batch_price(tmp_path: Path) -> None:
    with mock_server() as at:
        prices = {"prompt": 1.0, "completion": 2.0, "batch": 0.5}
        write(tmp_path, at.url, prices=prices)
        for stage in ("sample", "rank"):
            assert run(stage, tmp_path).code == 0
        at_once, batched = at.server.requests, lines_handed_over(at)
        batches = at.server.batches.created
        write(tmp_path, at.url, prices=prices, calls="now")
        for stage in ("sample", "rank"):
            assert run(stage, tmp_path, "now").code == 0
    assert tables(tmp_path, "run") == tables(tmp_path, "now")
    # The first request of each stage finds out what the server takes.
    assert at_once == 2
    calls = sum(manifest(tmp_path, stage)["usage"]["calls"] for stage in ("sample", "rank"))
    assert batched == calls - 2
    assert batches <= 1 + 2 * (COMPLETIONS - 1) + 4, "one a round, and a few for latecomers"
    for stage in ("sample", "rank"):
        one = manifest(tmp_path, stage, "now")["usage"]["cost"]
        assert one / 2 < manifest(tmp_path, stage)["usage"]["cost"] < 0.6 * one
    assert manifest(tmp_path, "rank")["repeated_after_interruption"] == 0


def test_batch_prices_are_a_factor_or_prices() -> None:
    half = TokenPrices(prompt=2, completion=8, cached=1, batch=0.5)
    assert half.in_batches == TokenPrices(prompt=1, completion=4, cached=0.5)
    own = TokenPrices.model_validate(
        {"prompt": 2, "completion": 8, "batch": {"prompt": 0.3, "completion": 3}}
    )
    assert own.in_batches.cost(1_000_000, 0) == 0.3
    assert TokenPrices(prompt=2, completion=8).in_batches.cost(1_000_000, 0) == 2


def test_the_dry_run_counts_rounds_at_the_batch_price(tmp_path: Path) -> None:
    costs = []
    for batch in (1.0, 0.5):
        prices = {"prompt": 100, "completion": 100, "batch": batch}
        write(tmp_path, "http://localhost:1/v1", prices=prices)
        planned = prefine("run", str(tmp_path / "run.yaml"), "--dry-run").out
        for what, rounds in (("sampling", 1), ("judging", 4)):
            line = rf"rounds of {what}, each in batches of a day at most +{rounds}\n"
            assert re.search(line, planned)
        found = re.search(r"cost of judging in one token, about, at most +([0-9.]+)", planned)
        assert found is not None
        costs.append(float(found[1]))
    assert costs[1] == pytest.approx(costs[0] / 2, abs=0.01)


@pytest.mark.parametrize("fault", ["batch_expired", "batch_lines_missing", "batch_refused"])
def test_what_a_batch_leaves_over_is_in_the_next_one(fault: str, tmp_path: Path) -> None:
    with mock_server(fault=fault, fault_share=0.5) as at:
        write(tmp_path, at.url)
        assert run("sample", tmp_path).code == 0
        assert at.server.batches.created >= 2
    counts = manifest(tmp_path, "sample")["counts"]
    assert (counts["produced"], counts["failed"]) == (PROMPTS * COMPLETIONS, {})


def test_lines_that_fail_are_failures_with_the_servers_words(tmp_path: Path) -> None:
    with mock_server(fault="500", fault_share=0.25) as at:
        write(tmp_path, at.url, max_retries=1)
        assert run("sample", tmp_path).code == 0
        first = lines_handed_over(at)
    counts = manifest(tmp_path, "sample")["counts"]
    assert counts["failed"] == {
        "HTTP 500: the mock server fails on purpose": PROMPTS * COMPLETIONS - counts["produced"]
    }
    assert 0 < counts["produced"] < PROMPTS * COMPLETIONS
    assert first > PROMPTS


def test_a_cancelled_batch_ends_the_run_and_the_next_run_asks_for_the_rest(tmp_path: Path) -> None:
    with mock_server(fault="batch_cancelled", fault_share=0.5) as at:
        write(tmp_path, at.url)
        ended = run("sample", tmp_path)
        assert ended.code == 4 and "was cancelled at the server" in ended.err
        assert run("sample", tmp_path).code == 0
        again = sum(count > 1 for count in at.server.batches.lines.values())
        in_all = at.server.batches.lines.total()
    assert again == 0
    assert PROMPTS < in_all < 2 * PROMPTS, "only what the cancelled batch had not answered"


@pytest.mark.parametrize("profile", ["openai", "groq", "mistral"])
def test_refused_parameters_are_found_by_one_request_and_no_batch(
    profile: str, tmp_path: Path
) -> None:
    with mock_server(profile=profile) as at:
        write(tmp_path, at.url)
        assert run("sample", tmp_path).code == 0
        handed_over, batches = lines_handed_over(at), at.server.batches.created
    assert manifest(tmp_path, "sample")["counts"]["produced"] == PROMPTS * COMPLETIONS
    assert handed_over <= PROMPTS * COMPLETIONS and batches <= 4


def test_a_server_without_batch_files_is_told(tmp_path: Path) -> None:
    from openai_server import OpenAIServer, texts
    from openai_server import Reply as Answer

    def script(request: dict[str, Any], number: int) -> Answer:
        return Answer(texts(*(f"fine {n}" for n in range(request.get("n") or 1))))

    with OpenAIServer(script) as at:
        write(tmp_path, at.url, patience_s=1)
        ended = run("sample", tmp_path)
    assert ended.code == 4 and "calls: batch" in ended.err


def test_kills_submit_no_batch_twice_and_change_no_byte(tmp_path: Path) -> None:
    """Killed before and after a batch is created, and while its answers are read."""
    journal = tmp_path / "run" / "journal" / "part-00000.sqlite"

    def count(table: str) -> int:
        if not journal.exists():
            return 0
        with closing(sqlite3.connect(journal)) as database:
            try:
                return int(database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
            except sqlite3.OperationalError:
                return 0  # the file is just being made

    with mock_server(latency_s=0.3, fault="batch_file_slow") as at:
        write(tmp_path, at.url)
        for stage in ("sample", "rank"):
            assert run(stage, tmp_path, "whole").code == 0
        undisturbed = lines_handed_over(at)
        at.server.batches.lines.clear()
        for stage, of_what, more in (
            ("sample", lambda: count("batches"), 1),
            ("rank", lambda: at.server.batches.created, 1),
            ("rank", lambda: count("answers"), 5),
        ):
            enough = of_what() + more
            command = start(stage, str(tmp_path / "run.yaml"), "--run-dir", str(tmp_path / "run"))
            end = time.monotonic() + 60
            while of_what() < enough:
                assert time.monotonic() < end and command.poll() is None
                time.sleep(0.005)
            command.send_signal(signal.SIGKILL)
            command.wait(10)
            if stage == "sample":
                assert run(stage, tmp_path).code == 0
        assert run("rank", tmp_path).code == 0
        assert lines_handed_over(at) <= undisturbed
    assert tables(tmp_path, "run") == tables(tmp_path, "whole")
    assert manifest(tmp_path, "rank")["repeated_after_interruption"] == 0
