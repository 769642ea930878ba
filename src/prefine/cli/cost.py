"""The command `prefine cost`: what a run of 10^5 to 10^8 prompts takes, and what ends first."""

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from prefine.cli.options import AsJson
from prefine.errors import ConfigError

if TYPE_CHECKING:  # a command that is not this one does not load the simulator
    from prefine.simulator.scale import Limit, Rates, ScaleCost

SIZES = (1e5, 1e6, 1e7, 1e8)
_GIB = 2**30


def cost(
    completions: Annotated[int, Option(min=2, help="Of each prompt.")] = 8,
    strategy: Annotated[str, Option(metavar="NAME", help="Of the ranking.")] = "iterative",
    imported: Annotated[
        bool, Option("--imported", help="Completions are imported and not sampled.")
    ] = False,
    workers: Annotated[int, Option(min=1, help="Processes that work on shards.")] = 1,
    in_flight: Annotated[int, Option(min=1, help="Calls in flight, of all workers.")] = 64,
    latency: Annotated[float, Option(min=0, help="Seconds of a call.")] = 1.0,
    answer_price: Annotated[float, Option(min=0, help="Of sampling an answer.")] = 0.0,
    price: Annotated[float, Option(min=0, help="Of a call of the judge.")] = 0.0,
    memory_gib: Annotated[float, Option(min=0.1, help="Of the machine with the command.")] = 64.0,
    disk_gib: Annotated[float, Option(min=0.1, help="For the run folder.")] = 1000.0,
    rates: Annotated[
        Path | None,
        Option(metavar="FILE", help="Rates of benchmarks/scale.py, measured on your machine."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Estimate time, calls, money, memory and disk of 10^5 to 10^8 prompts, and what ends first.

    From rates that were measured: sample or import, rank and pair, without training.
    """
    from prefine.simulator.scale import MEASURED, Machine, Plan, cost_of, limits_of

    plan = Plan(
        completions=completions,
        calls=_calls(strategy, completions),
        samples=not imported,
        workers=workers,
        in_flight=in_flight,
        call_s=latency,
        answer_price=answer_price,
        call_price=price,
    )
    measured = MEASURED if rates is None else read_rates(rates)
    costs = [cost_of(size, plan, measured) for size in SIZES]
    limits = limits_of(plan, measured, Machine(memory_gib, disk_gib))
    typer.echo(_as_json(costs, limits) if json_ else "\n".join(lines_of(costs, limits)))


def read_rates(path: Path) -> "Rates":
    """The rates in a file that `benchmarks/scale.py --rates` has written.

    Raises:
        ConfigError: It cannot be read, or has something else.
    """
    from prefine.simulator.scale import Rates

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--rates: {path}: cannot be read as JSON ({error})") from error
    wanted = set(Rates._fields)
    if not isinstance(values, dict) or set(values) != wanted:
        raise ConfigError(
            f"--rates: {path}: expected an object with {', '.join(Rates._fields)}, as "
            "benchmarks/scale.py --rates writes it"
        )
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ConfigError(f"--rates: {path}: {name} is {value!r}; give a number from 0")
    return Rates(**values)


def lines_of(costs: Sequence["ScaleCost"], limits: Sequence["Limit"]) -> list[str]:
    """A column for each size, and what ends as it grows."""
    rows: list[tuple[str, Callable[[ScaleCost], str]]] = [
        ("prompts", lambda one: f"{one.prompts:.0e}"),
        ("calls", lambda one: f"{one.calls:.2g}"),
        ("money", lambda one: f"{one.money:.3g}"),
        ("time", lambda one: _time(one.seconds)),
        ("  asking", lambda one: _time(one.call_s)),
        ("  computing", lambda one: _time(one.compute_s)),
        ("  merging", lambda one: _time(one.merge_s)),
        ("memory", lambda one: _size(one.memory_bytes)),
        ("journal", lambda one: _size(one.journal_bytes)),
        ("disk", lambda one: _size(one.disk_bytes)),
        ("parts", lambda one: f"{one.parts:,.0f}"),
    ]
    lines = [f"{name:<12}" + "".join(f"{of(one):>13}" for one in costs) for name, of in rows]
    lines += ["", "What ends first, as prompts grow:"]
    for limit in limits:
        text = f"{limit.prompts:>9.1e}  {limit.what}; {limit.remedy}"
        lines += textwrap.wrap(text, 80, initial_indent="  ", subsequent_indent=" " * 13)
    return lines


def _calls(strategy: str, completions: int) -> float:
    from prefine.config.base import Component
    from prefine.ranking.protocol import facts_of

    facts = facts_of(Component(name=strategy).lookup("strategy", where="--strategy"))
    try:
        return float(facts.max_asks(completions))
    except ValueError as error:
        raise ConfigError(f"--strategy {strategy}: {error}") from error


def _time(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:.0f} s"


def _size(number: float) -> str:
    if number >= 1000 * _GIB:
        return f"{number / _GIB / 1024:,.1f} TiB"
    return f"{number / _GIB:,.1f} GiB"


def _as_json(costs: Sequence["ScaleCost"], limits: Sequence["Limit"]) -> str:
    found: dict[str, list[dict[str, Any]]] = {
        "sizes": [{**one._asdict(), "seconds": one.seconds} for one in costs],
        "limits": [one._asdict() for one in limits],
    }
    return json.dumps(found, ensure_ascii=False)
