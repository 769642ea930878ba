"""The command `prefine simulate`: from its options to a table, JSON or a plot."""

import io
import json
import math
import os
import re
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

_FEW_ROUNDS = 3

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
    *("completions", "accuracy", "first_slot_bias", "order_noise", "verdicts"),
    *("worlds", "seed", "max_calls", "max_cost"),
)
"""Options that are called as the settings that they are."""


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
        check(name, options[name], where=f"--{name.replace('_', '-')}")
    check("duel", options["price"], where="--price")
    check("answer_price", options["answer_price"], where="--answer-price")
    if options["rating_price"] is not None:
        check("rating", options["rating_price"], where="--rating-price")
    if options["html"] is not None:
        _check_file(options["html"])
    judge = JudgeModel(
        **{name: options[name] for name in ("accuracy", "first_slot_bias", "order_noise")},
        verdicts=options["verdicts"],
    )
    strategies = [named(text) for text in options["strategy"] or ()]
    for strategy in strategies:
        _check_strategy(strategy, judge, options["completions"])
    with RichProgress() as progress:
        return simulate(
            options["completions"],
            judge=judge,
            strategies=strategies or None,
            prices=_prices(options),
            **{name: options[name] for name in ("worlds", "seed", "max_calls", "max_cost")},
            processes=len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1,
            progress=progress,
        )


def write_plot(simulation: Simulation, options: Mapping[str, Any], path: Path) -> None:
    """Write the plot as a page; called after the table is printed, which must not be lost with it.

    Raises:
        ConfigError: The file cannot be written.
    """
    from prefine.cli.simulate_plot import page

    text = page(simulation, settings(options), in_calls=_prices(options) == Prices())
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {path}: the plot cannot be written: {error.strerror}") from error


def _prices(options: Mapping[str, Any]) -> Prices:
    price, rating_price = options["price"], options["rating_price"]
    return Prices(price, price if rating_price is None else rating_price)


def _check_strategy(strategy: Mapping[str, Any], judge: JudgeModel, completions: int) -> None:
    """Raise ConfigError, naming the option of the command, if it cannot be simulated."""
    name = strategy["name"]
    try:
        contestant_of(strategy, judge, completions)
    except ConfigError as error:
        start = re.compile(f"^{re.escape(place(name))}(\\.name:|\\.)?", re.MULTILINE)
        message = start.sub(lambda m: f"--strategy {name}{':' if m[1] else ''}", str(error))
        raise ConfigError(message) from error


def named(text: str) -> dict[str, Any]:
    """Parse `name`, `name:key=value,key=value` or `module:attribute:key=value` as a component.

    Values are YAML.

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
    """Raise ConfigError unless a page can be written there; tried by opening the file."""
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
            "that exists and that you may write to"
        ) from error


def settings(options: Mapping[str, Any]) -> str:
    """The settings of the simulation, in one line."""
    return (
        f"{options['completions']} completions, {options['verdicts']} verdicts, "
        f"accuracy {options['accuracy']:g}, first-slot bias {options['first_slot_bias']:g} sigma, "
        f"order noise {options['order_noise']:g}, {options['worlds']:,} worlds, "
        f"seed {options['seed']}"
    )


def as_json(simulation: Simulation) -> str:
    """The table for machines; NaN is null."""
    return json.dumps({"strategies": rows_of(simulation)}, ensure_ascii=False, allow_nan=False)


def rows_of(simulation: Simulation) -> list[dict[str, Any]]:
    """The rows of the table as JSON values."""
    rows = []
    for index, row in enumerate(simulation.rows):
        options = dict(row.contestant.options)
        pairs = {name: gap for name, gap in row.gaps.items() if name != "all_pairs"}
        widest = max(
            (name for name, gap in pairs.items() if not math.isnan(gap.mean)),
            key=lambda name: pairs[name].mean,
            default=None,
        )
        estimates = {
            name: getattr(row, name)
            for name in ("calls", "rounds", "cost", "winner", "regret", "p_best")
        }
        estimates["gap"] = pairs[widest] if widest else Estimate(math.nan, math.nan)
        recommended = index == simulation.advice.row
        rows.append(
            {
                "strategy": row.contestant.name,
                "order": options.pop("order", None),
                "options": options,
                **_means(estimates),
                "gap_selector": widest,
                "gaps": _means(row.gaps),
                "standard_errors": _errors(estimates),
                "gap_standard_errors": _errors(row.gaps),
                "finds_best": row.finds_best,
                "frontier": row.frontier,
                "choice": row.choice,
                "recommended": recommended,
                "reason": simulation.advice.reason if recommended else None,
            }
        )
    return rows


def _means(estimates: Mapping[str, Estimate]) -> dict[str, float | None]:
    return {name: _number(value.mean) for name, value in estimates.items()}


def _errors(estimates: Mapping[str, Estimate]) -> dict[str, float | None]:
    return {name: _number(value.standard_error) for name, value in estimates.items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def as_text(simulation: Simulation, options: Mapping[str, Any], *, columns: int = WIDTH) -> str:
    """Two tables, the meaning of their marks, and the advice, as wide as the terminal or 80."""
    width = max(NARROWEST, min(WIDTH, columns))
    rows, advice = simulation.rows, simulation.advice
    priced = any(row.cost.mean != row.calls.mean for row in rows)
    written = io.StringIO()
    console = Console(file=written, width=width, highlight=False, markup=False)
    console.print(settings(options), end="\n\n")
    console.print(_found(simulation, priced=priced))
    limited = options["max_calls"] is not None or options["max_cost"] is not None
    console.print(
        f"● what to choose at some limit on {'cost' if priced else 'calls'}: the cheapest that "
        "nothing within it clearly beats (2 standard errors of the difference); ○ also on the "
        f"frontier{', within the limit' if limited else ''}; → recommended. Depth: calls that "
        "wait for one another. Winner: its quality above the mean answer; regret: below the best."
    )
    few = [label(row.contestant) for row in rows if row.rounds.mean <= _FEW_ROUNDS]
    if few:
        console.print(f"For `calls: batch`, in at most {_FEW_ROUNDS} rounds: {', '.join(few)}.")
    if not all(row.finds_best for row in rows):
        console.print(
            "* guarantees no champion; the first of its order stands in. Neither marked nor "
            "recommended."
        )
    if any(row.gaps for row in rows):
        wide = width >= WIDTH
        errors = "" if wide else f" Standard errors are at most {_largest_error(rows):.3f}."
        console.print()
        console.print(_gaps(rows, errors=wide))
        console.print(
            "Quality of chosen minus rejected [sd]; – where the selector needs more than the "
            f"strategy guarantees.{errors}"
        )
    for note in simulation.notes:
        console.print(note)
    console.print()
    if advice.row is None:
        console.print(advice.reason)
    else:
        contestant = rows[advice.row].contestant
        console.print(f"Recommended: {label(contestant)}. {advice.reason}")
        console.print(f"In a configuration: {_as_yaml(contestant)}")
        # The stage passes on the bias that is set on the judge; it measures nothing.
        if bias := getattr(contestant.make, "keywords", {}).get("first_slot_bias"):
            console.print(
                f"It was told the judge's bias: set first_slot_bias: {bias:.2f} (logits) on your "
                "judge."
            )
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def _as_yaml(contestant: Contestant) -> str:
    """The line of a configuration that selects the strategy."""
    options = "".join(f", {key}: {json.dumps(value)}" for key, value in contestant.options)
    return f"rank: {{strategy: {{name: {contestant.name}{options}}}}}"


def _found(simulation: Simulation, *, priced: bool) -> Table:
    """The cost and the result of each strategy."""
    cost = ["cost"] if priced else []
    table = table_of("", "calls", *cost, "depth", "best found %", "winner [sd]", "regret [sd]")
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
            *(f"{one.mean:.3f} ± {one.standard_error:.3f}" for one in (row.winner, row.regret)),
        )
    return table


def _gaps(rows: Sequence[StrategyResult], *, errors: bool) -> Table:
    """The gap of each strategy's pairs, by selector; with standard errors where there is room."""
    selectors = [name for name in GAPS if any(name in row.gaps for row in rows)]
    table = table_of("  ", *(_TITLES.get(name, name) for name in selectors))
    for row in rows:
        cells = [_gap_text(row.gaps.get(name), errors=errors) for name in selectors]
        table.add_row("", label(row.contestant), *cells)
    return table


def _gap_text(gap: Estimate | None, *, errors: bool) -> str:
    if gap is None or math.isnan(gap.mean):
        return "–"
    return f"{gap.mean:.2f} ±{gap.standard_error:.2f}" if errors else f"{gap.mean:.2f}"


def _largest_error(rows: Sequence[StrategyResult]) -> float:
    errors = (gap.standard_error for row in rows for gap in row.gaps.values())
    return max((error for error in errors if not math.isnan(error)), default=math.nan)


def table_of(mark: str, *numbers: str) -> Table:
    """An empty table with columns for a mark, the strategy and numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column(mark)
    table.add_column("strategy", overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table
