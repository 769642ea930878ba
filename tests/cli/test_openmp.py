"""Threads spin only where nothing else is slowed down by it."""

import os

import pytest

from prefine.cli import openmp
from prefine.cli.openmp import SPINS, choose_waiting


@pytest.fixture(autouse=True)
def idle_machine(monkeypatch):
    held = []
    monkeypatch.setattr(openmp, "_held", held)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 9.0, 9.0))
    yield
    for file in held:
        file.close()


def test_alone_threads_spin_before_they_sleep(tmp_path):
    environment = {}
    assert choose_waiting(environment, tmp_path)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": SPINS}


def test_the_second_of_two_processes_sleeps(tmp_path):
    first, second = {}, {}
    assert choose_waiting(first, tmp_path)
    assert not choose_waiting(second, tmp_path)
    assert second == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_the_next_spins_once_the_first_has_ended(tmp_path):
    assert choose_waiting({}, tmp_path)
    openmp._held.pop().close()
    assert choose_waiting({}, tmp_path)


def test_on_a_busy_machine_threads_sleep(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (float(os.cpu_count()), 0.0, 0.0))
    environment = {}
    assert not choose_waiting(environment, tmp_path)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7")]
)
def test_the_users_own_setting_stays(tmp_path, name, value):
    environment = {name: value}
    assert not choose_waiting(environment, tmp_path)
    assert environment == {name: value}


def test_processes_of_a_launcher_sleep(tmp_path):
    environment = {"LOCAL_RANK": "0"}
    assert not choose_waiting(environment, tmp_path)
    assert "GOMP_SPINCOUNT" not in environment


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path):
    environment = {}
    assert not choose_waiting(environment, tmp_path / "absent")
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}
