"""Which ranking strategy to pay for: every strategy on the same simulated prompts and judge."""

import inspect
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefine.api.components import Named, component_of
from prefine.config import Component
from prefine.errors import ConfigError, Interrupted
from prefine.pairing.base import selector_facts
from prefine.ranking.base import facts_of
from prefine.ranking.simulator import (
    Advice,
    Contestant,
    JudgeModel,
    Played,
    Prices,
    Row,
    Worlds,
    advise,
    chunks_of,
    joined,
    play,
    summarise,
)
from prefine.ranking.simulator.gaps import GAPS
from prefine.registry import TABLES, lookup
from prefine.stages.base import Progress, Silent

_WHERE = "strategies"


@dataclass(frozen=True)
class Simulation:
    """The table, what it was made of (world by world, as many as there are rows), the advice, and what was left out."""

    rows: list[Row]
    played: list[Played]
    advice: Advice
    notes: tuple[str, ...]


def simulate(
    completions: int,
    *,
    judge: JudgeModel | None = None,
    strategies: Sequence[Named] | None = None,
    worlds: int = 2000,
    seed: int = 0,
    prices: Prices | None = None,
    max_calls: float | None = None,
    max_cost: float | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> Simulation:
    """Play strategies on the same simulated prompts; what each takes and finds, and which to choose.

    Args:
        completions: M, completions per prompt.
        judge: The judge to simulate; None takes accuracy .75 and a slot bias of half its noise.
        strategies: Names, or mappings of a name and options as in YAML; None takes all that the registry has, in the
            orders and limits that make sense.
        worlds: Simulated prompts.
        seed: Of the worlds. The same seed gives the same numbers, whatever the number of processes.
        prices: Of a duel and of a rating; None counts both as 1.
        max_calls: Advise within so many calls per prompt, on average.
        max_cost: Advise within such a cost per prompt, on average.
        processes: Above 1, so many processes share the work. As always with processes, a script that asks for them
            needs the guard `if __name__ == "__main__":`.
        progress: Where to say how far it is.

    Raises:
        ConfigError: A strategy is unknown, an option is wrong, or it cannot play so many completions.
        Interrupted: `progress` asked to stop.
    """
    if worlds < 1:
        raise ConfigError(f"worlds {worlds}: must be at least 1")
    model, shown = judge or JudgeModel(), progress or Silent()
    notes: list[str] = []
    if strategies is None:
        contestants = []
        for component in default_strategies(completions):
            try:
                contestants.append(contestant_of(component, model, completions))
            except ConfigError as error:
                notes.append(f"left out: {error}")
    else:
        components = [component_of(named, where=_WHERE) for named in strategies]
        contestants = [contestant_of(component, model, completions) for component in components]
    if not contestants:
        raise ConfigError(f"{_WHERE}: there is none that can rank {completions} completions; " + "; ".join(notes))
    chunks = list(chunks_of(model, completions, worlds, seed))
    parts: list[list[Played]] = []
    shown.start("simulate", worlds, "worlds")
    with _workers(min(processes, len(chunks))) as apply:
        for part in apply(_Play(contestants), chunks):
            parts.append(part)
            shown.advance(len(part[0].calls))
            if shown.stopping:
                raise Interrupted("stopped while simulating; nothing is kept")
    played = [joined(same) for same in zip(*parts, strict=True)]
    finds_best = ["best" in facts_of(_function(c.name)).guarantees for c in contestants]
    rows = summarise(contestants, played, finds_best, prices or Prices())
    return Simulation(rows, played, advise(rows, played, max_calls=max_calls, max_cost=max_cost), tuple(notes))


def default_strategies(completions: int) -> list[Component]:
    """What is compared when nothing is named: every strategy of the registry, as it is or in the variants here."""
    m = completions
    variants: dict[str, list[dict[str, Any]]] = {
        "iterative": [{"order": "single"}, {"order": "both"}, {"order": "lazy"}],
        "knockout": [{"order": "single"}, {"order": "lazy"}],
        "minmax": [{"order": "single"}, {"order": "lazy"}],
        "round_robin": [{"order": "single"}, {"order": "both"}],
        "top_two": [{"limit": 2 * m - 2}, {"limit": 3 * m}],
        # What it spends is set by what a duel must promise; about what a lazy scan takes, and more.
        "eubo": [{"stop_below": 0.01}, {}, {"limit": 6 * m, "stop_below": 0.0003}],
    }
    return [
        Component.model_validate({"name": name, **options})
        for name in TABLES["strategy"]
        for options in variants.get(name, [{}])
    ]


def contestant_of(component: Component, judge: JudgeModel, completions: int) -> Contestant:
    """A strategy with its options, told what it asks of the judge and was not set, and the selectors that fit it.

    Raises:
        ConfigError: It is unknown, an option is wrong, or it cannot play so many completions.
    """
    function = _function(component.name)
    parameters = inspect.signature(function).parameters
    # Whoever has measured the judge would set these; 1 is no noise at all, which no measurement can show.
    measured = {"accuracy": min(judge.accuracy, 0.99), "order_noise": judge.order_noise}
    told = {name: value for name, value in measured.items() if name in parameters and value != parameters[name].default}
    component = Component.model_validate({"name": component.name, **told, **component.options})
    given = ("first_slot_bias",)
    make = component.resolve("strategy", where=_WHERE, given=given)
    if "first_slot_bias" in parameters:
        make.keywords["first_slot_bias"] = judge.first_slot_logit
    guarantees = facts_of(function).guarantees
    fitting = tuple(
        name for name in GAPS if selector_facts(lookup("selector", name, where="selectors")).fits(guarantees)
    )
    order = {"order": make.keywords["order"]} if "order" in make.keywords else {}
    try:
        make(completions)
    except ValueError as error:
        raise ConfigError(f"{_WHERE}: {component.name} with {completions} completions: {error}") from error
    return Contestant(component.name, tuple((order | component.options).items()), make, fitting)


def _function(name: str) -> Any:
    return lookup("strategy", name, where=_WHERE)


@dataclass(frozen=True)
class _Play:
    """What a worker does with one chunk."""

    contestants: Sequence[Contestant]

    def __call__(self, draw: Callable[[], Worlds]) -> list[Played]:
        return play(self.contestants, draw())


Apply = Callable[[_Play, Sequence[Callable[[], Worlds]]], Iterable[list[Played]]]


@contextmanager
def _workers(count: int) -> Iterator[Apply]:
    """A map over chunks, in order: in this process, or in `count` others."""
    if count < 2:
        yield map
        return
    # Processes that begin afresh: a copy of this one, made while its progress bar's thread holds a lock, could hang.
    with multiprocessing.get_context("spawn").Pool(count, _leave_interrupts_to_the_parent) as pool:
        yield pool.imap


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
