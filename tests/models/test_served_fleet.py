"""Servers that prefine starts: they die, hang, are never well, and never outlive who started
them.
"""

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import stand_in_engine as engine
from prefine.calls.http import close_connections, post_json
from prefine.errors import BackendError
from prefine.models.served.engines import Launch
from prefine.models.served.fleet import Fleet
from prefine.models.served.replica import Patience, Replica

PATIENCE = Patience(start_s=20.0, silent_s=20.0, health_every_s=0.1, hang_s=20.0, grace_s=0.3)


def fleet(
    log: Path, *options: str, count: int = 1, max_restarts: int = 2, patience: Patience = PATIENCE
) -> tuple[Fleet, list[str]]:
    notes: list[str] = []

    def launch(port: int, key: str) -> Launch:
        line = engine.command(log, *options).replace("{port}", str(port)).replace("{path}", "model")
        return Launch(tuple(shlex.split(line)), {})

    ports: set[int] = set()
    replicas = [Replica(number, launch, None, patience, ports) for number in range(count)]
    return Fleet(replicas, max_restarts=max_restarts, what="test", note=notes.append), notes


async def question(replica: Replica, number: int) -> str:
    body = f'{{"prompt": "question {number}", "seed": 1}}'.encode()
    reply = await post_json(f"{replica.url}/v1/completions", body, {}, timeout_s=30)
    assert reply.status == 200
    return reply.body.decode()


def ask(
    servers: Fleet, numbers: Sequence[int], *, at_once: int = 4, when_all_are_up: bool = False
) -> list[str | BackendError]:
    """Ask the questions of these numbers, and stop the servers."""

    async def work() -> list[str | BackendError]:
        slots = asyncio.Semaphore(at_once)

        async def one(number: int) -> str:
            async with slots:
                return await servers.ask(lambda replica: question(replica, number))

        try:
            if when_all_are_up:
                await servers.ask(lambda replica: question(replica, 0))
                while not all(replica.up for replica in servers.replicas):
                    await asyncio.sleep(0.01)
            found = await asyncio.gather(*map(one, numbers), return_exceptions=True)
        finally:
            await servers.close()
            await close_connections()
        assert all(isinstance(answer, str | BackendError) for answer in found), found
        return found  # type: ignore[return-value]

    return asyncio.run(work())


def is_answered(found: Sequence[str | BackendError]) -> bool:
    errors = [str(answer) for answer in found if isinstance(answer, BackendError)]
    assert not errors
    return all(
        engine.says(f"question {number}", 1) in str(answer) for number, answer in enumerate(found)
    )


def test_calls_are_spread_over_the_servers_and_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens there: requests to this machine must not go through a proxy.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    log = tmp_path / "log"
    servers, notes = fleet(log, "--seconds", "0.02", count=2)
    assert is_answered(ask(servers, range(24), when_all_are_up=True))
    ports = [request["port"] for request in engine.logged(log, "request")]
    assert len(ports) == 25
    assert len(set(ports)) == 2 and min(map(ports.count, ports)) >= 9
    assert len(engine.logged(log, "start")) == 2
    assert not engine.running(log) and not notes


def test_a_server_that_dies_is_started_again_and_its_calls_are_asked_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    servers, notes = fleet(
        log, "--dies-after", "5", "--once", str(tmp_path / "died"), "--seconds", "0.02"
    )
    assert is_answered(ask(servers, range(30)))
    assert len(engine.logged(log, "start")) == 2
    assert 30 < len(engine.logged(log, "request")) <= 30 + 4
    (note,) = notes
    assert note.startswith("server ") and "it ended (exit code 3)" in note


def test_a_server_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    patience = Patience(start_s=20, silent_s=20, health_every_s=0.1, hang_s=1.5, grace_s=0.3)
    servers, notes = fleet(
        log, "--hangs-after", "3", "--once", str(tmp_path / "hung"), patience=patience
    )
    assert is_answered(ask(servers, range(8), at_once=1))
    assert len(engine.logged(log, "start")) == 2
    assert "it gave no sign of health for 1.5 s" in notes[0]
    assert not engine.running(log)


def test_a_server_that_is_well_and_answers_nothing_is_started_again(tmp_path: Path) -> None:
    patience = Patience(start_s=20, silent_s=0.4, health_every_s=0.1, hang_s=20, grace_s=0.3)
    servers, notes = fleet(tmp_path / "log", "--seconds", "30", max_restarts=1, patience=patience)
    (error,) = ask(servers, [0])
    assert isinstance(error, BackendError)
    assert "each died more often than max_restarts (1) allows" in str(error)
    assert "answered nothing for 0.4 s" in str(error)
    assert len(notes) == 2


def test_a_server_is_not_at_fault_for_a_stall_of_this_process(tmp_path: Path) -> None:
    patience = Patience(start_s=20, silent_s=1.0, health_every_s=0.1, hang_s=1.0, grace_s=0.3)
    servers, _ = fleet(tmp_path / "log", patience=patience)
    (replica,) = servers.replicas

    async def work() -> str:
        await replica.start()
        try:
            with replica.asked():
                watch = asyncio.create_task(replica.until_down())
                await asyncio.sleep(0.1)
                time.sleep(1.5)
                await asyncio.sleep(0.2)
                assert not watch.done()
                return await watch
        finally:
            await asyncio.to_thread(replica.stop)
            await close_connections()

    assert asyncio.run(work()) == "it answered nothing for 1 s (timeout_s)"


def test_one_that_dies_always_is_given_up_after_so_many_times(tmp_path: Path) -> None:
    log = tmp_path / "log"
    servers, _ = fleet(log, "--dies-after", "1", max_restarts=2)
    (error,) = ask(servers, [0])
    assert isinstance(error, BackendError)
    assert "each died more often than max_restarts (2) allows" in str(error)
    assert len(engine.logged(log, "start")) == 3
    assert not engine.running(log)


def test_the_others_go_on_without_one_that_dies_too_often(tmp_path: Path) -> None:
    log = tmp_path / "log"
    servers, notes = fleet(
        log, "--dies-after", "4", "--once", str(tmp_path / "died"), count=2, max_restarts=0
    )
    assert is_answered(ask(servers, range(20)))
    assert len(engine.logged(log, "start")) == 2
    assert any("is left out" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--dies-at-start"],
            ["test: the server ended after", "(exit code 1)", "CUDA out of memory: tried to"],
        ),
        (["--never-healthy"], ["not healthy after 1 s (start_timeout_s)", "GET /health"]),
        (["--no-such-flag"], ["(exit code 2)", "unrecognized arguments: --no-such-flag"]),
    ],
)
def test_a_server_that_does_not_start_ends_the_run_with_its_last_words(
    options: list[str], words: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    patience = Patience(start_s=1.0, silent_s=20, health_every_s=0.1, hang_s=20, grace_s=0.3)
    servers, _ = fleet(log, *options, patience=patience)
    (error,) = ask(servers, [0])
    assert isinstance(error, BackendError)
    for word in words:
        assert word in str(error)
    assert not engine.running(log)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    replica = Replica(0, lambda port, key: Launch(("no-such-program",), {}), None, PATIENCE, set())
    servers = Fleet([replica], max_restarts=3, what="test", note=print)
    (error,) = ask(servers, [0])
    assert "cannot be started" in str(error) and "no-such-program" in str(error)


def test_garbage_in_the_output_is_shown_without_control_characters(tmp_path: Path) -> None:
    servers, _ = fleet(tmp_path / "log", "--garbage", "--dies-at-start")
    (error,) = ask(servers, [0])
    assert "CUDA out of memory" in str(error)
    assert all(one.isprintable() or one == "\n" for one in str(error))


def test_one_that_ignores_sigterm_and_its_children_are_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    servers, _ = fleet(log, "--ignores-sigterm", "--leaves-group")
    alive: list[int] = []

    async def work() -> None:
        await servers.ask(lambda replica: question(replica, 0))
        alive.extend(engine.running(log))
        began = time.monotonic()
        await servers.close()
        assert time.monotonic() - began < 5
        await close_connections()

    asyncio.run(work())
    assert len(alive) == 3, "the server, a child, and one in a session of its own"
    assert not engine.running(log)


PARENT = """
import asyncio, sys
sys.path[:0] = {path!r}
import test_served_fleet as t
from pathlib import Path
servers, _ = t.fleet(Path({log!r}), "--ignores-sigterm", "--leaves-group", count=2)
async def work():
    await asyncio.gather(*(servers.ask(lambda one: t.question(one, n)) for n in range(8)))
    while not all(one.up for one in servers.replicas):
        await asyncio.sleep(0.01)
    print("asked", flush=True)
    await asyncio.sleep(600)
asyncio.run(work())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_process_that_started_it_is_killed(
    number: int, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = PARENT.format(path=folders, log=str(log))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"asked\n"
            servers = {line["pid"] for line in engine.logged(log, "start")}
            keepers = {parent_of(pid) for pid in servers}
            assert servers <= set(engine.running(log)) and len(keepers) == 2
            os.kill(process.pid, number)
            process.wait()
        finally:
            process.kill()
    assert engine.gone(log, 10), "servers, their children, and those in sessions of their own"
    end = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in keepers):
        assert time.monotonic() < end, "a keeper is left"
        time.sleep(0.02)


def test_a_server_dies_with_its_keeper(tmp_path: Path) -> None:
    log = tmp_path / "log"
    servers, notes = fleet(log)

    async def work() -> None:
        await servers.ask(lambda replica: question(replica, 0))
        (server,) = (line["pid"] for line in engine.logged(log, "start"))
        os.kill(parent_of(server), signal.SIGKILL)
        while Path(f"/proc/{server}").exists():
            await asyncio.sleep(0.02)
        await servers.ask(lambda replica: question(replica, 1))
        await servers.close()
        await close_connections()

    asyncio.run(asyncio.wait_for(work(), 30))
    assert len(notes) == 1
    assert not engine.running(log)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
