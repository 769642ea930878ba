"""`prefine simulate`: the table, JSON, the plot, and what it refuses."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from browser import chromium, visit
from command import Result, prefine
from prefine.api.simulating import default_strategies, simulate
from prefine.cli.simulate import as_text, named
from prefine.config.components import TABLES
from prefine.errors import ConfigError, Interrupted
from prefine.simulator import JudgeModel

SMALL = ("--completions", "5", "--worlds", "60")
TWO = ("--strategy", "iterative:order=lazy", "--strategy", "round_robin")


def rows_of(result: Result) -> list[dict[str, Any]]:
    assert result.code == 0, result.err
    printed = json.loads(result.out)
    assert set(printed) == {"strategies"}
    rows: list[dict[str, Any]] = printed["strategies"]
    return rows


def test_the_json_has_a_row_for_every_strategy_of_the_registry() -> None:
    rows = rows_of(prefine("simulate", *SMALL, "--json"))
    assert {row["strategy"] for row in rows} == set(TABLES["strategy"])
    for row in rows:
        errors = row["standard_errors"]
        assert {"calls", "winner", "regret", "p_best", "gap"} <= set(errors)
        assert row["calls"] > 0
        assert 0 <= row["p_best"] <= 1
        assert 0 <= row["regret"] < 3
        assert 0 < errors["regret"] < 0.5
        assert isinstance(row["frontier"], bool)
        pairs = {name: gap for name, gap in row["gaps"].items() if name != "all_pairs"}
        assert row["gap"] == (max(pairs.values()) if pairs else None)
    assert {row["order"] for row in rows if row["strategy"] == "iterative"} == {
        "single",
        "both",
        "lazy",
    }
    assert sum(row["recommended"] for row in rows) == 1
    for row in rows:
        beaten = [
            other
            for other in rows
            if other["finds_best"]
            and (other["calls"] <= row["calls"] and other["regret"] <= row["regret"])
            and (other["calls"] < row["calls"] or other["regret"] < row["regret"])
        ]
        assert row["frontier"] == (row["finds_best"] and not beaten)
        assert row["choice"] <= row["frontier"]
        assert row["recommended"] <= row["choice"]


def test_lazy_and_both_find_the_same_for_fewer_calls() -> None:
    rows = rows_of(
        prefine(
            "simulate",
            "--completions",
            "8",
            "--worlds",
            "300",
            "--json",
            *(
                part
                for order in ("both", "lazy")
                for part in ("--strategy", f"iterative:order={order}")
            ),
        )
    )
    both, lazy = rows
    assert both["regret"] == lazy["regret"]
    assert both["calls"] == 14
    assert lazy["calls"] == pytest.approx(8.8, abs=0.2)
    assert (both["frontier"], lazy["frontier"], lazy["recommended"]) == (False, True, True)


@pytest.mark.parametrize("completions", [2, 3, 8, 16, 32])
def test_every_default_strategy_can_rank_the_usual_numbers(completions: int) -> None:
    strategies = default_strategies(completions)
    assert {strategy.name for strategy in strategies} == set(TABLES["strategy"])
    if completions >= 8:
        assert simulate(completions, worlds=2).notes == ()
    else:
        assert len(simulate(completions, worlds=2).rows) >= len(strategies) - 4


def test_the_numbers_do_not_depend_on_the_number_of_processes() -> None:
    arguments: dict[str, Any] = {
        "strategies": ["iterative", "round_robin"],
        "worlds": 600,
        "seed": 5,
    }
    alone, together = (simulate(4, processes=count, **arguments) for count in (1, 2))
    assert [(r.calls, r.regret, r.gaps) for r in alone.rows] == [
        (r.calls, r.regret, r.gaps) for r in together.rows
    ]
    other = simulate(4, **(arguments | {"seed": 6}))
    assert other.rows[0].regret != alone.rows[0].regret


def test_what_is_compared_does_not_change_the_worlds() -> None:
    both = simulate(6, strategies=["round_robin", "iterative"], worlds=40)
    (alone,) = simulate(6, strategies=["iterative"], worlds=40).rows
    assert both.rows[1].regret == alone.regret


def test_the_judge_is_the_one_that_was_described() -> None:
    def regret(**settings: Any) -> float:
        return (
            simulate(8, judge=JudgeModel(**settings), strategies=["iterative"], worlds=500)
            .rows[0]
            .regret.mean
        )

    assert regret(accuracy=1.0) == 0
    assert regret(accuracy=0.9) < regret(accuracy=0.75) < regret(accuracy=0.6)
    assert regret(first_slot_bias=0.0) < regret(first_slot_bias=2.0)
    # A strategy is told the bias in logits, and shows its champion in the favoured slot.
    first, second = (
        simulate(8, judge=JudgeModel(first_slot_bias=bias), strategies=["iterative"], worlds=500)
        .rows[0]
        .calls.mean
        for bias in (1.5, -1.5)
    )
    assert first == pytest.approx(second, rel=0.05)


def test_the_table_fits_a_hundred_columns_and_gives_advice() -> None:
    result = prefine("simulate", *SMALL, "--price", "0.002", "--rating-price", "0.001")
    assert result.code == 0, result.err
    assert max(map(len, result.out.splitlines())) <= 100
    assert "5 completions, hard verdicts, accuracy 0.75" in result.out
    assert "Recommended: " in result.out
    assert "cost" in result.out
    assert "worlds" in result.err


# The expected largest of M draws from N(0, 1).
LARGEST = {4: 1.0294, 8: 1.4236}


def test_winners_of_different_numbers_of_completions_are_on_one_scale() -> None:
    for completions, largest in LARGEST.items():
        judge = JudgeModel(accuracy=1, first_slot_bias=0)
        (row,) = simulate(completions, judge=judge, strategies=["round_robin"], worlds=4000).rows
        assert row.regret.mean == 0
        assert row.winner.mean == pytest.approx(largest, abs=4 * row.winner.standard_error)


def test_several_numbers_of_completions_are_compared_in_one_table() -> None:
    sizes = ("--completions", "8", "--completions", "4", "--worlds", "400", *TWO)
    found = json.loads(prefine("simulate", *sizes, "--json").out)["completions"]
    assert [one["completions"] for one in found] == [4, 8]
    small, large = ({row["strategy"]: row for row in one["strategies"]} for one in found)
    assert small["iterative"]["winner"] < large["iterative"]["winner"]
    text = prefine("simulate", *sizes, "--answer-price", "0.5").out
    lines = [line.split() for line in text.splitlines() if " ± " in line]
    assert {line[-7 if line[0] == "●" else -6] for line in lines} == {"4", "8"}, text
    costs = [float(line[-5 if line[0] == "●" else -4]) for line in lines]
    assert costs == sorted(costs)
    cheapest = small["iterative"]
    assert costs[0] == pytest.approx(cheapest["calls"] + 4 * 0.5, abs=0.01)
    gain = float(lines[0][-1])
    assert gain == pytest.approx(cheapest["winner"] / costs[0], abs=0.001)
    gains = [float(line[-1]) for line in lines if line[0] == "●"]
    assert gains == sorted(gains, reverse=True), "the corners of a curve that bends downwards"
    limited = prefine("simulate", *sizes, "--max-calls", "5").out
    assert "Within 5 calls per prompt: M = 4 with iterative lazy" in limited
    assert "M = 8: No strategy here does with 5 calls per prompt" in limited


def test_a_limit_is_kept() -> None:
    rows = rows_of(prefine("simulate", *SMALL, "--max-calls", "5", "--json"))
    (chosen,) = [row for row in rows if row["recommended"]]
    assert chosen["calls"] <= 5
    assert "Within 5 calls" in chosen["reason"]
    result = prefine("simulate", *SMALL, "--max-calls", "1")
    assert result.code == 0
    assert "No strategy here does with 1 calls per prompt" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--completions", "1"), "--completions 1: must be a whole number from 2 to 128"),
        (("--accuracy", "0.5"), "--accuracy 0.5: must be above 0.5 and at most 1"),
        (("--accuracy", "nan"), "--accuracy nan: must be above 0.5"),
        (("--first-slot-bias", "inf"), "--first-slot-bias inf: must be from -10 to 10"),
        (("--order-noise", "1.5"), "--order-noise 1.5: must be from 0 to 1"),
        (("--verdicts", "firm"), "--verdicts firm: choose hard"),
        (("--price", "0"), "--price 0.0: must be above 0"),
        (("--rating-price", "0"), "--rating-price 0.0: must be above 0"),
        (("--worlds", "1"), "--worlds 1: must be a whole number from 2 to 1,000,000"),
        (("--seed", "-1"), "--seed -1: must be a whole number of at least 0"),
        (("--max-calls", "0"), "--max-calls 0.0: must be above 0"),
        (
            ("--strategy", "iterativ"),
            "--strategy iterativ: unknown strategy 'iterativ'; did you mean 'iterative'?",
        ),
        (
            ("--strategy", "iterative:order=twice"),
            "--strategy iterative:order: Input should be 'single', 'both' or 'la",
        ),
        (
            ("--strategy", "iterative:bouts=2"),
            "--strategy iterative:bouts: unknown option of strategy 'iterative'; Al",
        ),
        (("--strategy", "iterative:order"), "'order' is no option"),
        (("--strategy", "iterative:order=lazy,both"), "'both' is no option"),
        (("--strategy", ":order=lazy"), "expected name:key=value"),
        (
            ("--completions", "4", "--completions", "8", "--html", "plot.html"),
            "--html: the plot is of one number of completions",
        ),
        (("--answer-price", "-1"), "--answer-price -1.0: must be at least 0"),
        (("--html", "plot.pdf"), "give the file the ending .html"),
        (
            ("--strategy", "eubo:batch=0"),
            "--strategy eubo:batch: Input should be greater than or equal to 1 (got 0)",
        ),
        (
            ("--strategy", "eubo:limit=2"),
            "--strategy eubo with 8 completions: eubo's limit must be at least 7",
        ),
        (
            ("--strategy", "os:getcwd"),
            "--strategy os:getcwd: it does not say what it guarantees and asks",
        ),
        (
            ("--html", "no/such/folder/plot.html"),
            "plot.html: no file can be written there: No such file or directory",
        ),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_what_cannot_be_simulated_is_refused(arguments: tuple[str, ...], message: str) -> None:
    result = prefine("simulate", "--worlds", "2", *arguments)
    assert result.code == 2, result.err
    assert message in result.err
    assert not result.out


def test_a_strategy_is_written_as_its_name_and_options() -> None:
    assert named("iterative") == {"name": "iterative"}
    assert named("swiss:rounds=3,order=both") == {"name": "swiss", "rounds": 3, "order": "both"}
    assert named("my_module:mine") == {"name": "my_module:mine"}
    assert named("my_module:mine:x=0.5") == {"name": "my_module:mine", "x": 0.5}


MINE = """
from prefine.ranking.protocol import Duel, Outcome, strategy

@strategy(guarantees={"best"}, max_asks=lambda m: 1, rounds=lambda m, *, reverse=False: 1)
def once(num_completions, *, reverse: bool = False):
    (p,) = yield [Duel(1, 0) if reverse else Duel(0, 1)]
    return Outcome(champion=int((p > 0.5) == reverse))
"""


def test_a_strategy_of_the_users_own_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one_duel.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    (row,) = rows_of(
        prefine("simulate", *SMALL, "--json", "--strategy", "one_duel:once:reverse=true")
    )
    assert (row["strategy"], row["order"], row["options"]) == (
        "one_duel:once",
        None,
        {"reverse": True},
    )
    assert row["calls"] == 1
    assert set(row["gaps"]) == {"best_vs_random"}


BROKEN = """
from prefine.ranking.protocol import Duel, Outcome, strategy

def facts(f):
    return strategy(guarantees={"best"}, max_asks=lambda m: m, rounds=lambda m: m)(f)

@facts
def outside(m):
    yield [Duel(0, m)]

@facts
def endless(m):
    while True:
        yield [Duel(0, 1)]

@facts
def no_generator(m):
    return Outcome(champion=0)

@facts
def stuck(m):
    yield [Duel(0, 1)]
    while True:
        pass
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("outside", "strategy 'broken_ones:outside': Duel(first=0, second=5) is no duel"),
        ("endless", "strategy 'broken_ones:endless': it asked 6 times, and its max_asks says 5"),
        (
            "no_generator",
            "--strategy broken_ones:no_generator with 5 completions: it is no generator",
        ),
    ],
)
def test_a_broken_strategy_of_the_users_own_is_named(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_ones.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    result = prefine("simulate", *SMALL, "--strategy", f"broken_ones:{name}")
    assert result.code == 2, result.err
    assert message in result.err
    assert "bug in prefine" not in result.err


class Stopping:
    """A progress whose user has pressed Ctrl-C."""

    stopping = True

    def start(self, stage: str, total: int, unit: str) -> None:
        """Ignore."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Ignore."""

    def say(self, text: str) -> None:
        """Ignore."""


def test_an_interrupt_does_not_wait_for_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even for a strategy that never comes back."""
    (tmp_path / "stuck_ones.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Interrupted):
        simulate(4, strategies=["stuck_ones:stuck"], worlds=600, processes=2, progress=Stopping())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"completions": 1}, "completions 1: must be a whole number from 2 to 128"),
        ({"completions": 4.0}, "completions 4.0: must be a whole number"),
        ({"worlds": 1}, "worlds 1: must be"),
        ({"seed": -1}, "seed -1: must be a whole number of at least 0"),
        ({"max_calls": math.nan}, "max_calls nan: must be above 0"),
        ({"max_cost": 0}, "max_cost 0: must be above 0"),
        ({"processes": 0}, "processes 0: must be"),
        ({"judge": {"accuracy": 0.8}}, "judge: expected a prefine.JudgeModel, got a dict"),
        ({"prices": (1, 1)}, "prices: expected a prefine.Prices, got a tuple"),
        (
            {"strategies": ["eubo", {"name": "eubo", "batch": 0}]},
            "strategies: eubo.batch: Input should be",
        ),
    ],
)
def test_python_is_told_what_is_not_allowed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(**({"completions": 4, "worlds": 2} | arguments))


def test_a_plot_that_cannot_be_written_is_found_first_or_costs_no_table(tmp_path: Path) -> None:
    folder = tmp_path / "folder.html"
    folder.mkdir()
    result = prefine("simulate", *SMALL, "--html", str(folder))
    assert (result.code, result.out) == (2, "")
    assert "no file can be written there: Is a directory" in result.err
    assert "worlds" not in result.err  # nothing was simulated
    if Path("/dev/full").exists():
        full = tmp_path / "full.html"
        full.symlink_to("/dev/full")
        result = prefine("simulate", *SMALL, *TWO, "--html", str(full))
        assert result.code == 2
        assert "Recommended: " in result.out
        assert "the plot cannot be written: No space left on device" in result.err


def test_a_terminal_of_eighty_columns_holds_the_tables() -> None:
    simulation = simulate(5, worlds=60)
    options: dict[str, Any] = {
        "completions": 5,
        "worlds": 60,
        "seed": 0,
        "verdicts": "hard",
        "accuracy": 0.75,
    }
    options |= {"first_slot_bias": 0.5, "order_noise": 0.5, "max_calls": None, "max_cost": None}
    text = as_text(simulation, options, columns=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for row in simulation.rows:
        assert f"{row.regret.mean:.3f} ± {row.regret.standard_error:.3f}" in text
        assert all(f" {gap.mean:.2f}" in text for gap in row.gaps.values())
    assert "Standard errors are at most 0." in text


def test_the_plot_needs_nothing_beside_itself_and_shows_every_name(tmp_path: Path) -> None:
    plot = tmp_path / "plot.html"
    result = prefine("simulate", *SMALL, *TWO, "--html", str(plot))
    assert result.code == 0, result.err
    assert f"plot: {plot}" in result.out
    with chromium() as context, visit(context, plot) as seen:
        texts = seen.page.locator(".wide .name").all_text_contents()
        assert sorted(texts) == ["iterative lazy", "round_robin single"]
        assert "5 completions, hard verdicts" in seen.page.inner_text("body")
        assert seen.page.locator(".wide .error").count() == 2
        reading = seen.page.locator(".wide .hover", has_text="iterative lazy")
        box = reading.locator(".reading")
        assert box.evaluate("e => getComputedStyle(e).opacity") == "0"
        reading.locator(".hit").hover()
        assert box.evaluate("e => getComputedStyle(e).opacity") == "1"
        assert "best found" in (box.text_content() or "")
        assert "Recommended:" in seen.page.inner_text("body")
        assert not seen.complaints
        assert seen.requests == [plot.as_uri()]


HELP = """
import sys
sys.argv = ["prefine", "simulate", "--help"]
from prefine.cli.app import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
print(sorted({"torch", "transformers", "numpy", "jinja2"} & set(sys.modules)), file=sys.stderr)
"""


def test_its_help_loads_nothing_heavy() -> None:
    run = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "[]"
    assert "--first-slot-bias" in run.stdout


def test_standard_errors_shrink_with_the_root_of_the_worlds() -> None:
    few, many = (
        simulate(4, strategies=["iterative"], worlds=count).rows[0].regret for count in (200, 3200)
    )
    assert many.standard_error == pytest.approx(few.standard_error / 4, rel=0.2)
    assert abs(few.mean - many.mean) < 4 * math.hypot(few.standard_error, many.standard_error)


def test_one_name_is_no_list_of_strategies() -> None:
    with pytest.raises(ConfigError, match=r"expected a list of strategies, got 'eubo'"):
        simulate(5, strategies="eubo", worlds=10)
    with pytest.raises(ConfigError, match="none was named"):
        simulate(5, strategies=[], worlds=10)


def test_the_recommendation_says_how_to_configure_it_and_what_it_was_told() -> None:
    shown = prefine(
        "simulate", *SMALL, "--strategy", "eubo:limit=9", "--first-slot-bias", "0.5"
    ).out
    assert "In a configuration: rank: {strategy: {name: eubo, limit: 9}}" in shown
    assert "set first_slot_bias: 0.81 (logits) on your judge" in shown
    unbiased = prefine(
        "simulate", *SMALL, "--strategy", "eubo:limit=9", "--first-slot-bias", "0"
    ).out
    assert "told the judge's bias" not in unbiased
