"""Stage `rank`: a strategy asks a judge which of a prompt's completions are better."""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from prefine.calls.engine import CallEngine
from prefine.config import Component, RunConfig
from prefine.errors import DataError, Interrupted
from prefine.judging.base import Judge, Matchup
from prefine.judging.choose import make_judge
from prefine.judging.kinship import same_family
from prefine.ranking.base import Answers, Ask, Outcome, Rate, Strategy, facts_of
from prefine.ranking.run import drive
from prefine.records import Completion, Duel, Judgment, Manifest, Prompt, Ranking, content_hash
from prefine.stages.base import Progress, StageRun, check_judge, check_model
from prefine.stages.failures import Failures
from prefine.stages.slots import Slots
from prefine.store.folder import RunFolder
from prefine.store.rows import grouped_completions
from prefine.store.tables import parts, read_part, remove_parts_from, shard_key, table_hash, write_part

_ONE_COMPLETION = "fewer than two completions"
_ALL_IDENTICAL = "all completions identical"
_NO_VERDICT = "every duel failed"
_PATIENCE = 20


class Field(NamedTuple):
    """A prompt's distinct completions in the order in which the strategy meets them."""

    prompt: Prompt
    completions: tuple[Completion, ...]


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `rankings/`, one part for each part of `completions/`.

    Raises:
        DataError: The judge cannot work on a prompt's completions, or no prompt can be ranked.
        LimitError: More judgments failed than `max_failed_fraction` allows, or `max_calls` is reached.
    """
    assert config.rank is not None, "checked by RunConfig"
    settings = config.rank
    judge = make_judge(settings.judge, where="rank.judge")
    check_model(judge)
    make_strategy = strategy_maker(settings.strategy, judge)
    stage = StageRun(
        folder, "rank", config, {"completions": table_hash(folder / "completions"), "judge": judge.fingerprint}
    )
    if stage.finished:
        return stage.finished
    stage.begin(settings.seed)
    sources = parts(folder / "completions")
    facts = facts_of(settings.strategy.lookup("strategy", where="rank.strategy"))
    taken = most_calls = 0
    # Everything the judge may refuse is found before the first call.
    for path in sources:
        for prompt, completions in grouped_completions(read_part(path)):
            check_judge(judge, prompt, completions)
            taken += 1
            most_calls += facts.max_asks(len(completions), **settings.strategy.options) if len(completions) > 1 else 0
    engine = CallEngine(
        folder.journal(),
        max_calls=settings.max_calls,
        max_cost=settings.max_cost,
        # Far beyond what the share below can allow: a judge that never answers is not asked thousands of times.
        most_failures=2 * settings.max_failed_fraction * most_calls + _PATIENCE,
        should_stop=lambda: progress.stopping,
        on_answers=lambda count: progress.advance(0, f"{engine.asked:,} calls"),
    )
    progress.start("rank", taken, "prompts")
    failures, slots = Failures(), Slots()
    produced = 0
    for path in sources:
        if progress.stopping:
            raise Interrupted("stopped while ranking; the same command goes on from here")
        fields, skipped = make_fields(grouped_completions(read_part(path)), seed=settings.seed)
        rankings, judgments = rank_shard(engine, judge, fields, make_strategy, name=settings.strategy.name)
        failures.count(judgments)
        slots.count(judgments)
        failures.check(settings.max_failed_fraction, where="rank", journal=engine.journal)
        stage.dropped.update(skipped)
        good = [ranking for ranking in rankings if ranking.champion is not None or ranking.order is not None]
        stage.failed.update({_NO_VERDICT: len(rankings) - len(good)} if len(good) < len(rankings) else {})
        key = shard_key("rank", stage.deciding, judge.fingerprint, [f.prompt.id for f in fields])
        write_part(folder / "rankings" / path.name, "rankings", [r.model_dump(mode="json") for r in good], key=key)
        produced += len(good)
        progress.advance(len(fields) + sum(skipped.values()))
    remove_parts_from(folder / "rankings", len(sources))
    if not produced:
        raise DataError(
            f"{folder.path}: no prompt could be ranked "
            f"({', '.join(f'{count} × {reason}' for reason, count in (stage.dropped + stage.failed).items())}); "
            "each prompt needs at least two different completions"
        )
    kinship = same_family(config.policy, settings.judge)
    stage.notes += [*failures.notes(), *slots.notes(), *judge.notes, *([kinship] if kinship else ())]
    return stage.end(
        taken=taken, produced=produced, outputs={"rankings": table_hash(folder / "rankings")}, engine=engine
    )


def strategy_maker(strategy: Component, judge: Judge) -> Callable[[int], Strategy]:
    """The configured strategy as a function of the number of completions, told the judge's slot bias if it asks."""
    given = ("first_slot_bias",)
    make = strategy.resolve("strategy", where="rank.strategy", given=given)
    if "first_slot_bias" in inspect.signature(strategy.lookup("strategy", where="rank.strategy")).parameters:
        return lambda number: make(number, first_slot_bias=judge.first_slot_bias)
    return lambda number: make(number)


def make_fields(groups: Sequence[tuple[Prompt, list[Completion]]], *, seed: int) -> tuple[list[Field], Counter[str]]:
    """Merge identical answers and shuffle the rest by a hash; prompts without two answers are counted by reason."""
    fields: list[Field] = []
    skipped: Counter[str] = Counter()
    for prompt, completions in groups:
        distinct = {completion.message.model_dump_json(): completion for completion in reversed(completions)}
        if len(distinct) < 2:
            skipped[_ONE_COMPLETION if len(completions) < 2 else _ALL_IDENTICAL] += 1
            continue
        order = sorted(distinct.values(), key=lambda c: content_hash("shuffle", seed, prompt.id, c.id))
        fields.append(Field(prompt, tuple(order)))
    return fields, skipped


def rank_shard(
    engine: CallEngine,
    judge: Judge,
    fields: Sequence[Field],
    make_strategy: Callable[[int], Strategy],
    *,
    name: str,
) -> tuple[list[Ranking], list[Judgment]]:
    """Run every prompt's strategy, round by round together; all asks of a round go out as one batch.

    Returns: The rankings, and all judgments behind them.
    """
    by_id = {field.prompt.id: field for field in fields}
    duels: dict[str, list[Duel]] = {id_: [] for id_ in by_id}
    asked: list[Judgment] = []

    def answer(asks: list[tuple[str, Ask]]) -> Answers:
        judgments = judge.judge(engine, [_matchup(by_id[id_], ask) for id_, ask in asks])
        asked.extend(judgments)
        for (id_, _), judgment in zip(asks, judgments, strict=True):
            comparison = judgment.comparison
            duels[id_].append(Duel(first=comparison.first, second=comparison.second, p_first=judgment.p_first))
        return [judgment.p_first for judgment in judgments]

    outcomes = drive({id_: make_strategy(len(field.completions)) for id_, field in by_id.items()}, answer)
    return [_ranking(by_id[id_], outcome, duels[id_], name) for id_, outcome in outcomes.items()], asked


def _matchup(field: Field, ask: Ask) -> Matchup:
    if isinstance(ask, Rate):
        raise TypeError("this judge compares; a strategy that asks for ratings needs a scorer")
    return Matchup(field.prompt, field.completions[ask.first], field.completions[ask.second])


def _ranking(field: Field, outcome: Outcome, duels: list[Duel], name: str) -> Ranking:
    ids = tuple(completion.id for completion in field.completions)

    def named(index: int | None) -> str | None:
        return None if index is None else ids[index]

    return Ranking(
        prompt_id=field.prompt.id,
        strategy=name,
        completions=ids,
        champion=named(outcome.champion),
        worst=named(outcome.worst),
        last_loser=named(outcome.last_loser),
        order=None if outcome.order is None else tuple(ids[index] for index in outcome.order),
        scores=outcome.scores,
        standard_errors=outcome.standard_errors,
        duels=tuple(duels),
        calls=len(duels),
        failed_calls=sum(duel.p_first is None for duel in duels),
        cyclic_triads=outcome.cyclic_triads,
    )
