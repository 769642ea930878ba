"""The cost model: proportional where it says so, and the limits where its figures cross them."""

import json
from pathlib import Path

import pytest

from command import prefine
from prefine.cli.cost import SIZES, read_rates
from prefine.errors import ConfigError
from prefine.simulator.scale import MEASURED, Machine, Plan, Rates, cost_of, limits_of

RATES = Rates(
    import_s_per_completion=0.001,
    rank_s_per_call=0.002,
    pair_s_per_prompt=0.003,
    absorb_s_per_answer=0.0001,
    base_mib=100,
    memory_bytes_per_prompt=1024,
    table_bytes_per_completion=200,
    journal_bytes_per_answer=500,
)
PLAN = Plan(
    completions=4,
    calls=3,
    samples=True,
    workers=10,
    in_flight=50,
    call_s=2,
    answer_price=0.01,
    call_price=0.02,
)
RECORDED = Path(__file__).parents[2] / "benchmarks/results/scale.json"


def test_a_run_by_hand() -> None:
    found = cost_of(1000, PLAN, RATES)
    assert found.calls == 1000 * (4 + 3)
    assert found.money == pytest.approx(1000 * (4 * 0.01 + 3 * 0.02))
    assert found.call_s == pytest.approx(7000 * 2 / 50)
    assert found.compute_s == pytest.approx((4000 * 0.001 + 7000 * 0.002 + 1000 * 0.003) / 10)
    assert found.merge_s == pytest.approx(0.7)
    assert found.seconds == pytest.approx(280 + 0.7)
    assert found.memory_bytes == 100 * 2**20 + 1000 * 1024
    assert found.journal_bytes == 7000 * 500
    assert found.disk_bytes == 4000 * 200 + 7000 * 500
    assert found.parts == pytest.approx(1000 / 256)


def test_imported_completions_in_one_process_are_not_asked_for_and_nothing_is_merged() -> None:
    found = cost_of(1000, PLAN._replace(samples=False, workers=1), RATES)
    assert (found.calls, found.merge_s) == (3000, 0)
    assert found.money == pytest.approx(60)


def test_limits_are_where_the_figures_cross_them() -> None:
    machine = Machine(memory_gib=1, disk_gib=10, files=100, merge_s=70)
    found = limits_of(PLAN, RATES, machine)
    assert [one.prompts for one in found] == sorted(one.prompts for one in found)
    at = {one.what.split(",")[0].split(":")[0]: one.prompts for one in found}
    assert at["parts of a table"] == 100 * 256
    assert at["the merge"] == pytest.approx(100_000)
    assert cost_of(at["the merge"], PLAN, RATES).merge_s == pytest.approx(70)
    assert cost_of(at["the journal"], PLAN, RATES).journal_bytes == pytest.approx(2**30)
    memory = cost_of(at["memory of the command"], PLAN, RATES).memory_bytes
    assert memory == pytest.approx(2**30)
    disk = cost_of(at["disk"], PLAN, RATES)
    assert disk.disk_bytes + disk.journal_bytes == pytest.approx(10 * 2**30)
    alone = limits_of(PLAN._replace(workers=1), RATES, machine)
    assert not any(one.what.startswith("the merge") for one in alone)


def test_the_rates_of_the_package_are_those_that_were_measured() -> None:
    assert read_rates(RECORDED) == MEASURED


def test_the_command_prints_the_model(tmp_path: Path) -> None:
    table = prefine("cost", "--price", "0.001").out.splitlines()
    assert table[0].split() == ["prompts", "1e+05", "1e+06", "1e+07", "1e+08"]
    assert [line.split()[0] for line in table[1:5]] == ["calls", "money", "time", "asking"]
    assert max(map(len, table)) <= 80
    found = prefine("cost", "--completions", "4", "--imported", "--json")
    assert found.code == 0, found.err
    value = json.loads(found.out)
    assert [one["prompts"] for one in value["sizes"]] == list(SIZES)
    calls = value["sizes"][0]["calls"]
    assert value["sizes"][-1]["calls"] == pytest.approx(1000 * calls)
    rates = tmp_path / "rates.json"
    rates.write_text(json.dumps(RATES._asdict()))
    found = prefine("cost", "--rates", str(rates), "--workers", "4")
    assert "What ends first" in found.out and "the journal" in found.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot be read as JSON"),
        ("{}", "expected an object with import_s_per_completion"),
        (json.dumps({**RATES._asdict(), "base_mib": -1}), "base_mib is -1; give a number from 0"),
    ],
)
def test_rates_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rates.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_rates(path)
    found = prefine("cost", "--rates", str(path))
    assert found.code == 2 and message in found.err
