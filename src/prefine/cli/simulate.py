"""What `prefine simulate` does: options → a simulation → a table, JSON or a plot."""

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from prefine.api.simulating import Simulation, contestant_of, place, simulate
from prefine.cli.progress import RichProgress
from prefine.config.components import TABLES
from prefine.config.yaml import parse_yaml
from prefine.errors import ConfigError
from prefine.simulator import Contestant, JudgeModel, Prices, StrategyResult, check
from prefine.simulator.gaps import GAPS
from prefine.simulator.summary import Estimate, label

WIDTH, NARROWEST = 100, 80
"""Columns of the tables: as many as a terminal has, within these."""

_TITLES = {
    "best_vs_random": "best vs\nrandom",
    "best_vs_worst": "best vs\nworst",
    "best_vs_last_loser": "best vs\nlast loser",
    "best_vs_runner_up": "best vs\nrunner-up",
    "best_vs_mu_minus_2sigma": "best vs\nµ − 2σ",
    "all_pairs": "all\npairs",
}
"""Names of selectors that fit over a column."""


_CHECKED = (
    "completions",
    "accuracy",
    "first_slot_bias",
    "order_noise",
    "verdicts",
    "worlds",
    "seed",
)
_CHECKED_IF_GIVEN = {
    "price": "duel",
    "rating_price": "rating",
    "max_calls": "max_calls",
    "max_cost": "max_cost",
}


def run(options: Mapping[str, Any]) -> Simulation:
    """Simulate, with a progress bar.

    Args:
        options: The command's options by name, None where not given; `html`, a file for the plot,
            is only checked.

    Raises:
        ConfigError: An option is not allowed, or a strategy is unknown or cannot rank so many
            completions.
    """
    for name in _CHECKED:
        check(name, options[name], where=_option(name))
    for name, setting in _CHECKED_IF_GIVEN.items():
        if options[name] is not None:
            check(setting, options[name], where=_option(name))
    if options["html"] is not None:
        _check_file(options["html"])
    judge = JudgeModel(
        accuracy=options["accuracy"],
        first_slot_bias=options["first_slot_bias"],
        order_noise=options["order_noise"],
        verdicts=options["verdicts"],
    )
    strategies = [named(text) for text in options["strategy"]] if options["strategy"] else None
    for strategy in strategies or ():
        _check_strategy(strategy, judge, options["completions"])
    with RichProgress() as progress:
        return simulate(
            options["completions"],
            judge=judge,
            strategies=strategies,
            worlds=options["worlds"],
            seed=options["seed"],
            prices=_prices(options),
            max_calls=options["max_calls"],
            max_cost=options["max_cost"],
            processes=len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1,
            progress=progress,
        )


def write_plot(simulation: Simulation, options: Mapping[str, Any], path: Path) -> None:
    """The plot as a page; called when the table has been printed, which must not be lost with the plot.

    Raises:
        ConfigError: The file cannot be written.
    """
    from prefine.cli.simulate_plot import page

    text = page(simulation, settings(options), in_calls=_prices(options) == Prices())
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {path}: the plot cannot be written: {error.strerror}") from error


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _prices(options: Mapping[str, Any]) -> Prices:
    return Prices(
        options["price"],
        options["price"] if options["rating_price"] is None else options["rating_price"],
    )


def _check_strategy(strategy: Mapping[str, Any], judge: JudgeModel, completions: int) -> None:
    """Nothing, if it can be simulated; otherwise the error names the option of the command."""
    name = strategy["name"]
    try:
        contestant_of(strategy, judge, completions)
    except ConfigError as error:
        lines = []
        for line in str(error).split("\n"):
            for theirs, ours in ((".name:", ":"), (".", ":"), ("", "")):
                if line.startswith(place(name) + theirs):
                    line = f"--strategy {name}{ours}{line.removeprefix(place(name) + theirs)}"
            lines.append(line)
        raise ConfigError("\n".join(lines)) from error


def named(text: str) -> dict[str, Any]:
    """`name`, `name:key=value,key=value` or `module:attribute:key=value` as a component; values are YAML.

    Raises:
        ConfigError: It is written otherwise.
    """
    name, _, last = text.partition(":")
    if name not in TABLES["strategy"]:
        name, _, last = text.rpartition(":") if "=" in text else (text, "", "")
    if not name:
        raise ConfigError(
            f"--strategy {text!r}: expected name:key=value,key=value such as iterative:order=lazy"
        )
    options: dict[str, Any] = {}
    for part in filter(None, last.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value) or key == "name":
            raise ConfigError(
                f"--strategy {text!r}: {part!r} is no option; write key=value such as order=lazy"
            )
        options[key] = parse_yaml(value, where=f"--strategy {name}:{key}")
    return {"name": name, **options}


def _check_file(path: Path) -> None:
    """Nothing, if a page can be written there; tried before the work, by opening the file."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(
            f"--html {path}: what is written is a page; give the file the ending .html"
        )
    try:
        new = not path.exists()
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        raise ConfigError(
            f"--html {path}: no file can be written there: {error.strerror}; name one in a folder "
            "that exists and that "
            "you may write to"
        ) from error


def settings(options: Mapping[str, Any]) -> str:
    """What was simulated, in one line."""
    return (
        f"{options['completions']} completions, {options['verdicts']} verdicts, accuracy "
        f"{options['accuracy']:g}, "
        f"first-slot bias {options['first_slot_bias']:g} sigma, order noise "
        f"{options['order_noise']:g}, "
        f"{options['worlds']:,} worlds, seed {options['seed']}"
    )


def as_json(simulation: Simulation) -> str:
    """The table for machines. What does not exist is null."""
    rows = []
    for index, row in enumerate(simulation.rows):
        options = dict(row.contestant.options)
        pairs = {
            name: gap
            for name, gap in row.gaps.items()
            if name != "all_pairs" and not math.isnan(gap.mean)
        }
        widest = max(pairs, key=lambda name: pairs[name].mean) if pairs else None
        gap = pairs[widest] if widest else Estimate(math.nan, math.nan)
        estimates = {
            "calls": row.calls,
            "rounds": row.rounds,
            "cost": row.cost,
            "regret": row.regret,
        }
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
                "standard_errors": {
                    name: _number(value.standard_error) for name, value in estimates.items()
                },
                "gap_standard_errors": {
                    name: _number(value.standard_error) for name, value in row.gaps.items()
                },
                "finds_best": row.finds_best,
                "frontier": row.frontier,
                "choice": row.choice,
                "recommended": recommended,
                "reason": simulation.advice.reason if recommended else None,
            }
        )
    return json.dumps({"strategies": rows}, ensure_ascii=False, allow_nan=False)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def as_text(simulation: Simulation, options: Mapping[str, Any], *, columns: int = WIDTH) -> str:
    """Two tables for people, what their marks mean, and the advice; within the columns of the terminal, or 80."""
    width = max(NARROWEST, min(WIDTH, columns))
    rows = simulation.rows
    priced = any(row.cost.mean != row.calls.mean for row in rows)
    written = io.StringIO()
    console = Console(file=written, width=width, highlight=False, markup=False)
    console.print(settings(options))
    console.print()
    console.print(_found(simulation, priced=priced))
    limited = options["max_calls"] is not None or options["max_cost"] is not None
    console.print(
        f"● what to choose at some limit on {'cost' if priced else 'calls'}: the cheapest that "
        "nothing within it "
        "clearly beats (2 standard errors of the difference); ○ also on the frontier"
        f"{', within the limit' if limited else ''}; → recommended. Depth: calls that wait for "
        "one another."
    )
    if not all(row.finds_best for row in rows):
        console.print(
            "* guarantees no champion; the first of its order stands in. Neither marked nor "
            "recommended."
        )
    if any(row.gaps for row in rows):
        console.print()
        console.print(_widths(rows, errors=width >= WIDTH))
        console.print(
            "Quality of chosen minus rejected [sd]; – where the selector needs more than the "
            "strategy guarantees."
            + (
                ""
                if width >= WIDTH
                else f" Standard errors are at most {_largest_error(rows):.3f}."
            )
        )
    for note in simulation.notes:
        console.print(note)
    console.print()
    advice = simulation.advice
    chosen = "" if advice.row is None else f"Recommended: {label(rows[advice.row].contestant)}. "
    console.print(chosen + advice.reason)
    if advice.row is not None:
        contestant = rows[advice.row].contestant
        console.print(f"In a configuration: {_as_yaml(contestant)}")
        # The stage passes on what the judge is set to have; nothing is measured there.
        if told := getattr(contestant.make, "keywords", {}).get("first_slot_bias"):
            console.print(
                f"It was told the judge's bias: set first_slot_bias: {told:.2f} (logits) on your "
                "judge."
            )
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def _as_yaml(contestant: Contestant) -> str:
    """The line that makes a run use the strategy."""
    options = "".join(f", {key}: {json.dumps(value)}" for key, value in contestant.options)
    return f"rank: {{strategy: {{name: {contestant.name}{options}}}}}"


def _found(simulation: Simulation, *, priced: bool) -> Table:
    """What each strategy takes and finds."""
    table = _table(
        "",
        "strategy",
        "calls",
        *(["cost"] if priced else []),
        "depth",
        "best found %",
        "regret [sd]",
    )
    for index, row in enumerate(simulation.rows):
        table.add_row(
            ("→" if index == simulation.advice.row else " ")
            + ("●" if row.choice else "○" if row.frontier else " "),
            label(row.contestant),
            f"{row.calls.mean:.1f}",
            *([f"{row.cost.mean:.4g}"] if priced else []),
            f"{row.rounds.mean:.1f}",
            f"{100 * row.p_best.mean:.1f} ± {100 * row.p_best.standard_error:.1f}"
            + (" " if row.finds_best else "*"),
            f"{row.regret.mean:.3f} ± {row.regret.standard_error:.3f}",
        )
    return table


def _widths(rows: Sequence[StrategyResult], *, errors: bool) -> Table:
    """How wide each strategy's pairs are, by selector; with standard errors where there is room."""
    selectors = [name for name in GAPS if any(name in row.gaps for row in rows)]
    table = _table("  ", "strategy", *(_TITLES.get(name, name) for name in selectors))
    for row in rows:
        cells = [
            _gap_text(row.gaps[name], errors=errors) if name in row.gaps else "–"
            for name in selectors
        ]
        table.add_row("", label(row.contestant), *cells)
    return table


def _gap_text(gap: Estimate, *, errors: bool) -> str:
    if math.isnan(gap.mean):
        return "–"
    return f"{gap.mean:.2f} ±{gap.standard_error:.2f}" if errors else f"{gap.mean:.2f}"


def _largest_error(rows: Sequence[StrategyResult]) -> float:
    errors = (gap.standard_error for row in rows for gap in row.gaps.values())
    return max((error for error in errors if not math.isnan(error)), default=math.nan)


def _table(mark: str, name: str, *numbers: str) -> Table:
    """An empty table: a mark, a name, numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column(mark)
    table.add_column(name, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table
