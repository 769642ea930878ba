"""Compare ranking strategies on the same simulated prompts and judge, before paying for one."""

import inspect
import multiprocessing
import signal
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefine.api.arguments import explained
from prefine.api.components import Named, component_of
from prefine.api.progress import followed
from prefine.config.base import Component
from prefine.config.components import TABLES, lookup
from prefine.errors import ConfigError, Interrupted
from prefine.pairing.protocol import selector_facts
from prefine.ranking.protocol import StrategyFacts, facts_of
from prefine.simulator import (
    Advice,
    Contestant,
    JudgeModel,
    Prices,
    SimulatedGames,
    StrategyResult,
    check,
    chunks_of,
    joined,
    play,
    summarise,
)
from prefine.simulator.gaps import GAPS
from prefine.simulator.worlds import Chunk
from prefine.stages.stage_run import Progress

_WHERE = "strategies"
_POLL_S = 0.2  # the longest that the work goes on after an interrupt


@dataclass(frozen=True)
class Simulation:
    """The result of `simulate`.

    Attributes:
        rows: One per strategy.
        played: What each row sums up, world by world.
        advice: The row to choose.
        notes: The strategies that were left out, and why.
    """

    rows: list[StrategyResult]
    played: list[SimulatedGames]
    advice: Advice
    notes: tuple[str, ...]


@explained
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
    progress: Progress | bool = True,
) -> Simulation:
    """Play strategies on the same simulated prompts: cost and result of each, and which to choose.

    Args:
        completions: M, completions per prompt; 2 to 128.
        judge: The judge to simulate, a `JudgeModel`; None takes accuracy .75 and a slot bias of
            half its noise.
        strategies: Names, mappings of a name and options as in YAML, or functions; None takes all
            that the registry has, in the orders and limits that make sense.
        worlds: Simulated prompts, 2 to 1,000,000.
        seed: Of the worlds. The same seed gives the same numbers, whatever the number of processes.
        prices: Of a duel and of a rating, as `Prices`; None counts both as 1.
        max_calls: Advise within so many calls per prompt, on average.
        max_cost: Advise within such a cost per prompt, on average.
        processes: Above 1, so many processes share the work. As always with processes, a script
            that asks for them needs the guard `if __name__ == "__main__":`.
        progress: False shows no progress; an object receives it instead.

    Raises:
        ConfigError: A setting is not allowed; a strategy is unknown, an option of it is wrong, it
            cannot play so many completions, or one of the user's own fails.
        Interrupted: `progress` asked to stop.
    """
    settings: dict[str, object] = {"completions": completions, "worlds": worlds, "seed": seed}
    settings |= {"processes": processes, "max_calls": max_calls, "max_cost": max_cost}
    for name, value in settings.items():
        check(name, value)
    for name, given, kind in (("judge", judge, JudgeModel), ("prices", prices, Prices)):
        if given is not None and not isinstance(given, kind):
            raise ConfigError(
                f"{name}: expected a prefine.{kind.__name__}, got a {type(given).__name__}"
            )
    model = judge or JudgeModel()
    if isinstance(strategies, str | Mapping):
        raise ConfigError(
            f"{_WHERE}: expected a list of strategies, got {strategies!r}; put it in brackets"
        )
    contestants: list[Contestant] = []
    notes: list[str] = []
    for strategy in default_strategies(completions) if strategies is None else strategies:
        try:
            contestants.append(contestant_of(strategy, model, completions))
        except ConfigError as error:
            if strategies is not None:
                raise
            notes.append(f"left out: {str(error).removeprefix(f'{_WHERE}: ')}")
    if not contestants:
        why = "; ".join(notes) or "none was named"
        raise ConfigError(f"{_WHERE}: there is none that can rank {completions} completions: {why}")
    chunks = list(chunks_of(model, completions, worlds, seed))
    parts: list[list[SimulatedGames]] = []
    with (
        followed(progress) as shown,
        closing(_play_all(contestants, chunks, processes, shown)) as games,
    ):
        shown.start("simulate", worlds, "worlds")
        for part in games:
            parts.append(part)
            shown.advance(len(part[0].calls))
            _heed_interrupt(shown)
    played = [joined(same) for same in zip(*parts, strict=True)]
    rows, advice = summarise(
        contestants, played, prices or Prices(), max_calls=max_calls, max_cost=max_cost
    )
    return Simulation(rows, played, advice, tuple(notes))


def default_strategies(completions: int) -> list[Component]:
    """Every strategy of the registry, with its defaults or in some variants."""
    m = completions
    variants: dict[str, list[dict[str, Any]]] = {
        "iterative": [{"order": "single"}, {"order": "both"}, {"order": "lazy"}],
        "knockout": [{"order": "single"}, {"order": "lazy"}],
        "minmax": [{"order": "single"}, {"order": "lazy"}],
        "round_robin": [{"order": "single"}, {"order": "both"}],
        "top_two": [{"limit": 2 * m - 2}, {"limit": 3 * m}],
        # Its calls follow from `stop_below`: about as many as of a lazy scan, and more.
        "eubo": [{"stop_below": 0.01}, {}, {"limit": 6 * m, "stop_below": 0.0003}],
    }
    return [
        Component.model_validate({"name": name, **options})
        for name in TABLES["strategy"]
        for options in variants.get(name, [{}])
    ]


def contestant_of(strategy: Named | Component, judge: JudgeModel, completions: int) -> Contestant:
    """A strategy ready to play, with the judge's figures for options that were not set.

    Raises:
        ConfigError: It is unknown, an option is wrong, or it cannot play so many completions.
    """
    component = (
        strategy
        if isinstance(strategy, Component)
        else component_of("strategy", strategy, where=_WHERE)
    )
    where = place(component.name)
    function = lookup("strategy", component.name, where=where)
    if not isinstance(getattr(function, "facts", None), StrategyFacts):
        raise ConfigError(
            f"{where}: it does not say what it guarantees and asks; decorate it with "
            "prefine.ranking.strategy"
        )
    facts, parameters = facts_of(function), inspect.signature(function).parameters
    # A user who has measured the judge would set these; 1 is no noise at all, which no measurement
    # can show.
    measured = {"accuracy": min(judge.accuracy, 0.99), "order_noise": judge.order_noise}
    told = {
        name: value
        for name, value in measured.items()
        if name in parameters and value != parameters[name].default
    }
    component = Component.model_validate({"name": component.name, **told, **component.options})
    make = component.resolve("strategy", where=where, given=("first_slot_bias",))
    if "first_slot_bias" in parameters:
        make.keywords["first_slot_bias"] = judge.first_slot_logit
    fitting = tuple(
        name
        for name in GAPS
        if selector_facts(lookup("selector", name, where="selectors")).fits(facts.guarantees)
    )
    order = {"order": make.keywords["order"]} if "order" in make.keywords else {}
    try:
        if not isinstance(make(completions), Generator):
            raise ValueError("it is no generator; it must yield rounds of Duels and Rates")
        most = facts.max_asks(completions, **make.keywords)
    except Exception as error:
        if component.name in TABLES["strategy"] and not isinstance(error, ValueError):
            raise  # ours: a bug, whose traceback is wanted
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ConfigError(f"{where} with {completions} completions: {kind}{error}") from error
    options = tuple((order | component.options).items())
    finds_best = "best" in facts.guarantees
    return Contestant(component.name, options, make, fitting, most, finds_best)


def place(name: str) -> str:
    """The beginning of messages about a strategy."""
    return f"{_WHERE}: {name}"


def _play_all(
    contestants: Sequence[Contestant], chunks: Sequence[Chunk], processes: int, progress: Progress
) -> Generator[list[SimulatedGames], None, None]:
    """Play chunk by chunk, in order: in this process, or in several others."""
    work = partial(_play_chunk, contestants)
    count = min(processes, len(chunks))
    if count < 2:
        yield from map(work, chunks)
        return
    # Processes that begin afresh: a copy of this one, made while its progress bar's thread holds a
    # lock, could hang. They leave interrupts to this one, which stops them.
    with multiprocessing.get_context("spawn").Pool(count, _ignore_interrupts) as pool:
        parts = pool.imap(work, chunks)
        for _ in chunks:
            yield _awaited(parts, progress)


def _play_chunk(contestants: Sequence[Contestant], chunk: Chunk) -> list[SimulatedGames]:
    return play(contestants, chunk.draw())


def _awaited(parts: Any, progress: Progress) -> list[SimulatedGames]:
    """The next part, unless there is an interrupt before: a worker may take long."""
    while True:
        try:
            part: list[SimulatedGames] = parts.next(_POLL_S)
        except multiprocessing.TimeoutError:
            _heed_interrupt(progress)
        else:
            return part


def _heed_interrupt(progress: Progress) -> None:
    if progress.stopping:
        raise Interrupted("stopped while simulating; nothing is kept")


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
