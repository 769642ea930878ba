"""Stage `rank`: a strategy asks a judge which of a prompt's completions are better, or how good each is."""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from prefine.calls.engine import CallEngine
from prefine.config.sections import Component, RunConfig
from prefine.errors import ConfigError, DataError, Interrupted
from prefine.judging.choose import choose_rater, judges_asked, make_judge, same_family
from prefine.judging.protocol import Judge, Matchup, Rater
from prefine.models.protocol import Answered
from prefine.ranking.protocol import Answers, Ask, Outcome, Rate, Strategy, StrategyFacts, facts_of
from prefine.ranking.run import drive
from prefine.records import (
    Completion,
    DuelRecord,
    Judgment,
    Manifest,
    Prompt,
    Ranking,
    Score,
    canonical_json,
    content_hash,
)
from prefine.run.folder import RunFolder
from prefine.run.rows import grouped_completions
from prefine.run.tables import (
    parts,
    read_part,
    remove_parts_from,
    shard_key,
    table_hash,
    write_part,
)
from prefine.stages.failures import Failures
from prefine.stages.slots import Slots
from prefine.stages.stage_run import Progress, StageRun, check_judge, check_model

_ONE_COMPLETION = "fewer than two completions"
_ALL_IDENTICAL = "all completions identical"
_NOTHING_FOUND = "failed calls left no champion and no order"
_PATIENCE = 20


class Candidates(NamedTuple):
    """A prompt's distinct completions in the order in which the strategy meets them."""

    prompt: Prompt
    completions: tuple[Completion, ...]


class Asks(NamedTuple):
    """How many duels and ratings a strategy asks for."""

    duels: int
    ratings: int


class Ranked(NamedTuple):
    """The rankings of a shard, and all answers behind them."""

    rankings: list[Ranking]
    judgments: list[Judgment]
    scores: list[Score]


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `rankings/`, one part for each part of `completions/`.

    Raises:
        ConfigError: The strategy asks for ratings and nobody can give them.
        DataError: The judge cannot work on a prompt's completions, or no prompt can be ranked.
        LimitError: More judgments failed than `max_failed_fraction` allows, or `max_calls` is
            reached.
    """
    assert config.rank is not None, "checked by RunConfig"
    settings = config.rank
    judge = make_judge(settings.judge, where="rank.judge")
    scorer = None if settings.scorer is None else make_judge(settings.scorer, where="rank.scorer")
    facts = strategy_facts(settings.strategy)
    rater = choose_rater(judge, scorer, strategy=settings.strategy.name, facts=facts)
    asked = judges_asked(judge, scorer, facts)
    for one in asked:
        check_model(one)
    make_strategy = strategy_maker(settings.strategy, judge)
    fingerprints = {"scorer" if one is scorer else "judge": one.fingerprint for one in asked}
    stage = StageRun(
        folder, "rank", config, {"completions": table_hash(folder / "completions"), **fingerprints}
    )
    if stage.finished:
        return stage.finished
    stage.begin(settings.seed)
    sources = parts(folder / "completions")
    taken = most_calls = 0
    # Everything the judge may refuse is found before the first call.
    for path in sources:
        for prompt, completions in grouped_completions(read_part(path)):
            for one in asked:
                check_judge(one, prompt, completions)
            taken += 1
            most_calls += sum(most_asks(settings.strategy, len(completions)))
    engine = CallEngine(
        folder.journal(),
        max_calls=settings.max_calls,
        max_cost=settings.max_cost,
        # Far beyond what the share below can allow: a judge that never answers is not asked
        # thousands of times.
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
        fields, skipped = make_candidates(grouped_completions(read_part(path)), seed=settings.seed)
        rankings, judgments, scores = rank_shard(
            engine, judge, rater, fields, make_strategy, name=settings.strategy.name
        )
        failures.count(judgments)
        failures.count_scores(scores)
        slots.count(judgments)
        failures.check(settings.max_failed_fraction, where="rank", journal=engine.journal)
        stage.dropped.update(skipped)
        good = [
            ranking
            for ranking in rankings
            if ranking.champion is not None or ranking.order is not None
        ]
        stage.failed.update(
            {_NOTHING_FOUND: len(rankings) - len(good)} if len(good) < len(rankings) else {}
        )
        key = shard_key(
            "rank", stage.deciding, *fingerprints.values(), [f.prompt.id for f in fields]
        )
        write_part(
            folder / "rankings" / path.name,
            "rankings",
            [r.model_dump(mode="json") for r in good],
            key=key,
        )
        produced += len(good)
        progress.advance(len(fields) + sum(skipped.values()))
    remove_parts_from(folder / "rankings", len(sources))
    if not produced:
        raise DataError(
            f"{folder.path}: no prompt could be ranked "
            f"({', '.join(f'{count} × {reason}' for reason, count in (stage.dropped + stage.failed).items())}); "
            "each prompt needs at least two different completions"
        )
    told = [note for one in asked for note in one.notes]
    kin = [same_family(config.policy, settings.judge)]
    if settings.scorer is not None:
        kin.append(same_family(config.policy, settings.scorer, role="scorer"))
    stage.notes += [*failures.notes(), *slots.notes(), *told, *filter(None, kin)]
    return stage.end(
        taken=taken,
        produced=produced,
        outputs={"rankings": table_hash(folder / "rankings")},
        engine=engine,
    )


def strategy_facts(strategy: Component) -> StrategyFacts:
    """What is known of the configured strategy before it runs.

    Raises:
        ConfigError: There is no such strategy, or it does not state its facts.
    """
    return facts_of(strategy.lookup("strategy", where="rank.strategy"))


def most_asks(strategy: Component, completions: int) -> Asks:
    """The most that the configured strategy asks for one prompt with so many completions.

    Raises:
        ConfigError: It cannot play so many with these options.
    """
    facts = strategy_facts(strategy)
    if completions < 2:
        return Asks(0, 0)
    try:
        ratings = facts.max_ratings(completions, **strategy.options)
        return Asks(facts.max_asks(completions, **strategy.options) - ratings, ratings)
    except ValueError as error:
        raise ConfigError(f"rank.strategy: {error}") from error


def strategy_maker(strategy: Component, judge: Judge) -> Callable[[int], Strategy]:
    """The configured strategy as a function of the number of completions, told the judge's slot bias if it asks."""
    given = ("first_slot_bias",)
    make = strategy.resolve("strategy", where="rank.strategy", given=given)
    if (
        "first_slot_bias"
        in inspect.signature(strategy.lookup("strategy", where="rank.strategy")).parameters
    ):
        return lambda number: make(number, first_slot_bias=judge.first_slot_bias)
    return lambda number: make(number)


def make_candidates(
    groups: Sequence[tuple[Prompt, list[Completion]]], *, seed: int
) -> tuple[list[Candidates], Counter[str]]:
    """Merge identical answers and shuffle the rest by a hash; prompts without two answers are counted by reason.

    Answers are identical if text and tool calls are, whatever was reasoned before; the first of
    them takes part.
    """
    fields: list[Candidates] = []
    skipped: Counter[str] = Counter()
    for prompt, completions in groups:
        distinct = {_answer(completion): completion for completion in reversed(completions)}
        if len(distinct) < 2:
            skipped[_ONE_COMPLETION if len(completions) < 2 else _ALL_IDENTICAL] += 1
            continue
        order = sorted(
            distinct.values(), key=lambda c: content_hash("shuffle", seed, prompt.id, c.id)
        )
        fields.append(Candidates(prompt, tuple(order)))
    return fields, skipped


def _answer(completion: Completion) -> str:
    """What two completions have in common that answer the same."""
    return canonical_json([completion.message.content, completion.message.tool_calls])


def rank_shard(
    engine: CallEngine,
    judge: Judge,
    rater: Rater | None,
    fields: Sequence[Candidates],
    make_strategy: Callable[[int], Strategy],
    *,
    name: str,
) -> Ranked:
    """Run every prompt's strategy, round by round together; all duels of a round go out as one batch, all ratings too.

    Args:
        engine: Asks, and journals what is answered.
        judge: Answers duels.
        rater: Answers ratings; None if the strategy asks for none.
        fields: Prompts with their completions.
        make_strategy: The strategy for so many completions.
        name: What the configuration calls it.
    """
    by_id = {field.prompt.id: field for field in fields}
    duels: dict[str, list[DuelRecord]] = {id_: [] for id_ in by_id}
    rated: dict[str, list[Score]] = {id_: [] for id_ in by_id}

    def answer(asks: list[tuple[str, Ask]]) -> Answers:
        matchups: list[Matchup] = []
        items: list[Answered] = []
        for id_, ask in asks:
            prompt, completions = by_id[id_]
            if isinstance(ask, Rate):
                items.append(Answered(prompt, completions[ask.completion]))
            else:
                matchups.append(Matchup(prompt, completions[ask.first], completions[ask.second]))
        if items and rater is None:
            raise TypeError(
                f"strategy {name!r} asks for a rating, which its declaration (asks=…) does not say"
            )
        judgments = judge.judge(engine, matchups) if matchups else []
        scores = rater.rate(engine, items) if items and rater is not None else []
        all_judgments.extend(judgments)
        all_scores.extend(scores)
        next_judgment, next_score = iter(judgments), iter(scores)
        answers: Answers = []
        for id_, ask in asks:
            if isinstance(ask, Rate):
                score = next(next_score)
                rated[id_].append(score)
                answers.append(score.value)
            else:
                judgment = next(next_judgment)
                shown = judgment.comparison
                duels[id_].append(
                    DuelRecord(first=shown.first, second=shown.second, p_first=judgment.p_first)
                )
                answers.append(judgment.p_first)
        return answers

    all_judgments: list[Judgment] = []
    all_scores: list[Score] = []
    outcomes = drive(
        {id_: make_strategy(len(field.completions)) for id_, field in by_id.items()}, answer
    )
    rankings = [
        _ranking(by_id[id_], outcome, duels[id_], rated[id_], name)
        for id_, outcome in outcomes.items()
    ]
    return Ranked(rankings, all_judgments, all_scores)


def _ranking(
    field: Candidates, outcome: Outcome, duels: list[DuelRecord], rated: list[Score], name: str
) -> Ranking:
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
        score_unit=outcome.score_unit,
        duels=tuple(duels),
        calls=len(duels) + len(rated),
        failed_calls=sum(duel.p_first is None for duel in duels)
        + sum(score.value is None for score in rated),
        cyclic_triads=outcome.cyclic_triads,
    )
