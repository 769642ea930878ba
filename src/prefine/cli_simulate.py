"""What `prefine simulate` does: options → a simulation → a table, JSON or a plot."""

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from prefine.api.simulating import Simulation, simulate
from prefine.config_file import parse_yaml
from prefine.errors import ConfigError
from prefine.progress import RichProgress
from prefine.ranking.simulator import JudgeModel, Prices, Row
from prefine.ranking.simulator.gaps import GAPS
from prefine.ranking.simulator.summary import Estimate, label
from prefine.registry import TABLES

WIDTH = 100
"""Columns of the table."""

_TITLES = {
    "best_vs_random": "best vs\nrandom",
    "best_vs_worst": "best vs\nworst",
    "best_vs_last_loser": "best vs\nlast loser",
    "best_vs_runner_up": "best vs\nrunner-up",
    "best_vs_mu_minus_2sigma": "best vs\nµ − 2σ",
    "all_pairs": "all\npairs",
}
"""Names of selectors that fit over a column."""


class _Range(NamedTuple):
    """What an option may be: bounds, and whether the lower one itself is allowed."""

    low: float
    high: float
    open: bool = False

    def holds(self, value: float) -> bool:
        # NaN is in no range.
        return (self.low < value if self.open else self.low <= value) and value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'above' if self.open else 'at least'} {self.low:g}"
        return f"{'above' if self.open else 'from'} {self.low:g} {'and at most' if self.open else 'to'} {self.high:,}"


RANGES: Mapping[str, _Range] = {
    "completions": _Range(2, 128),
    "accuracy": _Range(0.5, 1, open=True),
    "first_slot_bias": _Range(-10, 10),
    "order_noise": _Range(0, 1),
    "price": _Range(0, math.inf, open=True),
    "rating_price": _Range(0, math.inf),
    "worlds": _Range(2, 1_000_000),
    "seed": _Range(0, math.inf),
    "max_calls": _Range(0, math.inf, open=True),
    "max_cost": _Range(0, math.inf, open=True),
}


def run(options: Mapping[str, Any], *, html: Path | None) -> Simulation:
    """Simulate, with a progress bar, and write the plot.

    Args:
        options: The command's options by name, None where not given: those of `RANGES`, verdicts and strategy.
        html: Where to write the plot.

    Raises:
        ConfigError: An option is not allowed, or a strategy is unknown or cannot rank so many completions.
    """
    for name, allowed in RANGES.items():
        value = options[name]
        if value is not None and not allowed.holds(value):
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be {allowed}")
    if options["verdicts"] not in ("hard", "soft"):
        raise ConfigError(f"--verdicts {options['verdicts']}: choose hard (one of the two) or soft (a probability)")
    if html is not None:
        _check_file(html)
    price = options["price"]
    rating_price = price if options["rating_price"] is None else options["rating_price"]
    judge = JudgeModel(
        accuracy=options["accuracy"],
        first_slot_bias=options["first_slot_bias"],
        order_noise=options["order_noise"],
        verdicts=options["verdicts"],
    )
    with RichProgress() as progress:
        simulation = simulate(
            options["completions"],
            judge=judge,
            strategies=[named(text) for text in options["strategy"]] if options["strategy"] else None,
            worlds=options["worlds"],
            seed=options["seed"],
            prices=Prices(price, rating_price),
            max_calls=options["max_calls"],
            max_cost=options["max_cost"],
            processes=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            progress=progress,
        )
    if html is not None:
        from prefine.cli_simulate_plot import page

        html.write_text(page(simulation, settings(options), in_calls=price == rating_price == 1), encoding="utf-8")
    return simulation


def named(text: str) -> dict[str, Any]:
    """`name`, `name:key=value,key=value` or `module:attribute:key=value` as a component; values are YAML.

    Raises:
        ConfigError: It is written otherwise.
    """
    name, _, last = text.partition(":")
    if name not in TABLES["strategy"]:
        name, _, last = text.rpartition(":") if "=" in text else (text, "", "")
    if not name:
        raise ConfigError(f"--strategy {text!r}: expected name:key=value,key=value such as iterative:order=lazy")
    options: dict[str, Any] = {}
    for part in filter(None, last.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value) or key == "name":
            raise ConfigError(f"--strategy {text!r}: {part!r} is no option; write key=value such as order=lazy")
        options[key] = parse_yaml(value, where=f"--strategy {name}:{key}")
    return {"name": name, **options}


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--html {path}: what is written is a page; give the file the ending .html")
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(f"--html {path}: no file can be written there; {path.parent} must be a folder that exists")


def settings(options: Mapping[str, Any]) -> str:
    """What was simulated, in one line."""
    return (
        f"{options['completions']} completions, {options['verdicts']} verdicts, accuracy {options['accuracy']:g}, "
        f"first-slot bias {options['first_slot_bias']:g} sigma, order noise {options['order_noise']:g}, "
        f"{options['worlds']:,} worlds, seed {options['seed']}"
    )


def as_json(simulation: Simulation) -> str:
    """The table for machines. What does not exist is null."""
    rows = []
    for index, row in enumerate(simulation.rows):
        options = dict(row.contestant.options)
        pairs = {name: gap for name, gap in row.gaps.items() if name != "all_pairs" and not math.isnan(gap.mean)}
        widest = max(pairs, key=lambda name: pairs[name].mean) if pairs else None
        gap = pairs[widest] if widest else Estimate(math.nan, math.nan)
        estimates = {"calls": row.calls, "rounds": row.rounds, "cost": row.cost, "regret": row.regret}
        estimates |= {"p_best": row.p_best, "gap": gap}
        recommended = index == simulation.advice.row
        rows.append(
            {
                "strategy": row.contestant.name,
                "order": options.pop("order", None),
                "options": options,
                **{name: _number(value.mean) for name, value in estimates.items()},
                "gap_selector": widest,
                "gaps": {name: _number(value.mean) for name, value in row.gaps.items()},
                "standard_errors": {name: _number(value.standard_error) for name, value in estimates.items()},
                "gap_standard_errors": {name: _number(value.standard_error) for name, value in row.gaps.items()},
                "finds_best": row.finds_best,
                "frontier": row.frontier,
                "clear": row.clear,
                "recommended": recommended,
                "reason": simulation.advice.reason if recommended else None,
            }
        )
    return json.dumps({"strategies": rows}, ensure_ascii=False, allow_nan=False)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def as_text(simulation: Simulation, options: Mapping[str, Any]) -> str:
    """Two tables for people, within 100 columns, what their marks mean, and the advice."""
    rows = simulation.rows
    priced = any(row.cost.mean != row.calls.mean for row in rows)
    written = io.StringIO()
    console = Console(file=written, width=WIDTH, highlight=False, markup=False)
    console.print(settings(options))
    console.print()
    console.print(_found(simulation, priced=priced))
    console.print(
        f"● on the frontier of {'cost' if priced else 'calls'} and regret; ○ also, but not clearly better (2 standard "
        "errors) than the ● before it; → recommended. Depth: calls that wait for one another."
    )
    if not all(row.finds_best for row in rows):
        console.print("* guarantees no champion; the first of its order stands in.")
    if any(row.gaps for row in rows):
        console.print()
        console.print(_widths(rows))
        console.print(
            "Quality of chosen minus rejected [sd]; – where the selector needs more than the strategy guarantees."
        )
    for note in simulation.notes:
        console.print(note)
    console.print()
    advice = simulation.advice
    chosen = "" if advice.row is None else f"Recommended: {label(rows[advice.row].contestant)}. "
    console.print(chosen + advice.reason)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def _found(simulation: Simulation, *, priced: bool) -> Table:
    """What each strategy takes and finds."""
    table = _table("", "strategy", "calls", *(["cost"] if priced else []), "depth", "best found %", "regret [sd]")
    for index, row in enumerate(simulation.rows):
        table.add_row(
            ("→" if index == simulation.advice.row else " ") + ("●" if row.clear else "○" if row.frontier else " "),
            label(row.contestant),
            f"{row.calls.mean:.1f}",
            *([f"{row.cost.mean:.4g}"] if priced else []),
            f"{row.rounds.mean:.1f}",
            f"{100 * row.p_best.mean:.1f} ± {100 * row.p_best.standard_error:.1f}" + (" " if row.finds_best else "*"),
            f"{row.regret.mean:.3f} ± {row.regret.standard_error:.3f}",
        )
    return table


def _widths(rows: Sequence[Row]) -> Table:
    """How wide each strategy's pairs are, by selector."""
    selectors = [name for name in GAPS if any(name in row.gaps for row in rows)]
    table = _table("  ", "strategy", *(_TITLES.get(name, name) for name in selectors))
    for row in rows:
        cells = [_gap_text(row.gaps[name]) if name in row.gaps else "–" for name in selectors]
        table.add_row("", label(row.contestant), *cells)
    return table


def _gap_text(gap: Estimate) -> str:
    return "–" if math.isnan(gap.mean) else f"{gap.mean:.2f} ±{gap.standard_error:.2f}"


def _table(mark: str, name: str, *numbers: str) -> Table:
    """An empty table: a mark, a name, numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column(mark)
    table.add_column(name, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table
