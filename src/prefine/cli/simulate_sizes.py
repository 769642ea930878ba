"""`prefine simulate` for several numbers of completions: what each choice costs and finds."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from prefine.api.simulating import Simulation
from prefine.cli.simulate import rows_of, settings, table_of
from prefine.simulator import StrategyResult
from prefine.simulator.summary import label


class Offer(NamedTuple):
    """A strategy that is the choice at some limit, for one number of completions.

    `cost` is that of its calls and of sampling the completions; `gain` what each unit of cost buys
    beyond the offer with a gain before [sd], None where another offer buys more for its cost.
    """

    completions: int
    row: StrategyResult
    cost: float
    gain: float | None = None


def offers_of(
    simulations: Mapping[int, Simulation], answer_price: float, max_cost: float | None
) -> list[Offer]:
    """Return the choices of all numbers of completions, cheapest first.

    Those with a gain are the corners of the curve of winner against cost that bends downwards, so
    each gain is smaller than the one before.
    """
    offers = [
        Offer(completions, row, row.cost.mean + completions * answer_price)
        for completions, simulation in simulations.items()
        if simulation.advice.row is not None
        for row in simulation.rows
        if row.choice
    ]
    offers = [offer for offer in offers if max_cost is None or offer.cost <= max_cost]
    offers.sort(key=lambda offer: (offer.cost, -offer.row.winner.mean))
    corners: list[Offer] = []
    for offer in offers:
        if corners and offer.row.winner.mean <= corners[-1].row.winner.mean:
            continue
        while corners and _gain(offer, corners[-2:-1]) >= _gain(corners[-1], corners[-2:-1]):
            corners.pop()
        corners.append(offer)
    gains = {id(one): _gain(one, corners[max(i - 1, 0) : i]) for i, one in enumerate(corners)}
    return [offer._replace(gain=gains.get(id(offer))) for offer in offers]


def _gain(offer: Offer, before: Sequence[Offer]) -> float:
    """Quality per unit of cost beyond the offer before, or beyond a random answer for nothing."""
    cost, winner = (before[0].cost, before[0].row.winner.mean) if before else (0.0, 0.0)
    return (offer.row.winner.mean - winner) / max(offer.cost - cost, 1e-9)


def as_text(
    simulations: Mapping[int, Simulation], options: Mapping[str, Any], *, columns: int
) -> str:
    """One table, and how to read it."""
    offers = offers_of(simulations, options["answer_price"], options["max_cost"])
    written = io.StringIO()
    console = Console(file=written, width=columns, highlight=False, markup=False)
    numbers = ", ".join(map(str, simulations))
    console.print(settings({**options, "completions": numbers}), end="\n\n")
    table = table_of("", "M", "calls", "cost", "winner [sd]", "gain per cost")
    for offer in offers:
        winner = offer.row.winner
        table.add_row(
            " " if offer.gain is None else "●",
            label(offer.row.contestant),
            str(offer.completions),
            f"{offer.row.calls.mean:.1f}",
            f"{offer.cost:.4g}",
            f"{winner.mean:.3f} ± {winner.standard_error:.3f}",
            "" if offer.gain is None else f"{offer.gain:.3f}",
        )
    console.print(table)
    console.print(
        "Winner: its quality above the mean answer of the policy, in standard deviations of the "
        "quality of single answers: one scale for all M. Cost: calls and sampled answers at their "
        f"prices (an answer {options['answer_price']:g}). ● is the best buy at some worth of "
        "quality; its gain is what each unit of cost buys beyond the ● before it: go down as far "
        "as that is worth it."
    )
    left_out = [m for m, simulation in simulations.items() if simulation.advice.row is None]
    for completions in left_out:
        console.print(f"M = {completions}: {simulations[completions].advice.reason}")
    best = [offer for offer in offers if offer.gain is not None][-1:]
    limits = [f"{options[key]:g} {key[4:]}" for key in ("max_calls", "max_cost") if options[key]]
    if limits and best:
        name, quality = label(best[0].row.contestant), best[0].row.winner.mean
        console.print(
            f"\nWithin {' and '.join(limits)} per prompt: M = {best[0].completions} with {name}, "
            f"whose winner is {quality:.2f} sd above the mean answer."
        )
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def as_json(simulations: Mapping[int, Simulation]) -> str:
    """The rows of each number of completions, for machines."""
    found: Sequence[dict[str, Any]] = [
        {"completions": completions, "strategies": rows_of(simulation)}
        for completions, simulation in simulations.items()
    ]
    return json.dumps({"completions": found}, ensure_ascii=False, allow_nan=False)
