"""Stage `rank`: a strategy asks a judge to compare, or to rate, the completions of a prompt."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Asker
from prefine.config.base import Component
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError, DataError
from prefine.judging.choose import same_family
from prefine.judging.counts import JudgeCounts
from prefine.records import Manifest
from prefine.run.folder import RunFolder
from prefine.run.rows import Groups, grouped_completions, judgment_row
from prefine.run.tables import (
    PartsWritten,
    part_path,
    parts,
    read_part,
    shard_key,
    table_hash,
    write_part,
)
from prefine.run.view import JOINT_JUDGMENTS, JUDGMENTS
from prefine.stages.rank_across import across_of, compare
from prefine.stages.ranker import Ranked, Ranker, configured_ranker, strategy_facts
from prefine.stages.shards import ask_shards, spread, until_stopped
from prefine.stages.stage_run import Progress, StageRun

_MOST_FAILURES_AT_FIRST = 20


class Asks(NamedTuple):
    """Numbers of duels and ratings."""

    duels: int
    ratings: int


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `rankings/` and `judgments/`, one part of each for each part of `completions/`.

    With `rank.across`, `joint_judgments/` as well, once all prompts are ranked.

    Raises:
        ConfigError: The strategy asks for ratings and no judge can give them.
        DataError: The judge cannot work on a prompt's completions, or no prompt can be ranked.
        LimitError: More judgments failed than `max_failed_fraction` allows, or `max_calls` is
            reached.
    """
    assert config.rank is not None, "checked by RunConfig"
    settings = config.rank
    ranker = configured_ranker(config)
    ranker.check_models()
    fingerprints = {
        "scorer" if one is ranker.scorer else "judge": one.fingerprint for one in ranker.asked
    }
    stage = StageRun(
        folder, "rank", config, {"completions": table_hash(folder / "completions"), **fingerprints}
    )
    if stage.finished:
        return stage.finished
    if ranker.judge in ranker.asked:
        stage.asks(ranker.judge)
    stage.begin(settings.seed)
    sources = parts(folder / "completions")
    taken = most_calls = 0
    # Everything the judge may refuse is found before the first call.
    for path in until_stopped(sources, progress):
        groups = grouped_completions(read_part(path))
        ranker.check(groups)
        taken += len(groups)
        most_calls += sum(sum(most_asks(settings.strategy, len(found))) for _, found in groups)
    across = across_of(config, ranker.judge)
    if across is not None:
        most_calls += across.most_calls(taken)
    engine = CallEngine(
        folder.journal(),
        stage="rank",
        max_calls=settings.max_calls,
        max_cost=settings.max_cost,
        # Far beyond what the share below can allow: a judge that never answers is not asked
        # thousands of times.
        most_failures=2 * settings.max_failed_fraction * most_calls + _MOST_FAILURES_AT_FIRST,
        should_stop=lambda: progress.stopping,
        on_answers=lambda count: progress.advance(0, engine.status),
        on_heartbeat=lambda: stage.note(engine),
    )
    progress.start("rank", taken, "prompts")
    produced = 0
    counts = JudgeCounts()
    tables = [folder / name for name in ("rankings", JUDGMENTS)]

    def take(ranked: RankedShard) -> None:
        nonlocal produced
        produced += ranked.produced
        counts.merge(ranked.counts)
        stage.dropped.update(ranked.dropped)
        stage.failed.update(ranked.failed)
        progress.advance(ranked.dropped.total())
        counts.check(settings.max_failed_fraction, where="rank", journal=engine.journal)
        written.count += 1

    options = {"key": [stage.fingerprinted, *fingerprints.values()]}
    # Servers of the judge are started once for both.
    with engine.kept_open():
        with PartsWritten(*tables) as written:
            notes = spread(
                RankJob(config, folder.path, ranker=ranker, **options),
                [path.name for path in sources],
                take,
                stage="rank",
                config=config,
                folder=folder,
                progress=progress,
                engine=engine,
                advance=progress.advance,
                **options,
            )
        if not produced:
            reasons = (stage.dropped + stage.failed).items()
            raise DataError(
                f"{folder.path}: no prompt could be ranked "
                f"({', '.join(f'{count} × {reason}' for reason, count in reasons)}); "
                "each prompt needs at least two different completions"
            )
        told = dict.fromkeys(notes)
        if across is not None:
            judged = compare(across, config, folder, progress, engine)
            counts.merge(judged.counts)
            counts.check(settings.max_failed_fraction, where="rank", journal=engine.journal)
            told |= dict.fromkeys([*judged.notes, judged.note])
            tables.append(folder / JOINT_JUDGMENTS)
    stage.notes += [*counts.failure_notes(), *counts.slot_notes(), *told]
    for role, component in (("judge", settings.judge), ("scorer", settings.scorer)):
        if component is not None and (note := same_family(config.policy, component, role=role)):
            stage.notes.append(note)
    return stage.end(
        taken=taken,
        produced=produced,
        outputs={table.name: table_hash(table) for table in tables},
        engine=engine,
    )


class RankedShard(NamedTuple):
    """Counts of a shard: its rankings, prompts without one, and the judgments."""

    produced: int
    dropped: Counter[str]
    failed: Counter[str]
    counts: JudgeCounts


class RankJob:
    """Ranks the completions of parts of the table, and writes parts of rankings and judgments.

    Args:
        config: The configuration.
        folder: The run folder.
        key: What the rankings depend on beside the prompts.
        ranker: The ranker, if this process has made it already.
    """

    def __init__(
        self, config: RunConfig, folder: Path, *, key: list[Any], ranker: "Ranker | None" = None
    ) -> None:
        self._folder, self._key = folder, key
        self._ranker = configured_ranker(config) if ranker is None else ranker
        self.concurrency = self._ranker.concurrency

    @property
    def notes(self) -> list[str]:
        """Those of the judges."""
        return self._ranker.notes_of_judges()

    run = ask_shards

    def items(self, shard: str) -> Groups:
        """The prompts of a part that can be ranked."""
        path = self._folder / "completions" / shard
        return self._ranker.candidates(grouped_completions(read_part(path)))

    async def work(self, asker: Asker, items: Groups) -> list[Ranked]:
        """The rankings of some prompts."""
        return await self._ranker.rank(asker, items)

    def write(self, number: int, items: Groups, results: list[Ranked]) -> RankedShard:
        """Write the parts; return all that was counted since the shard before."""
        ids = [prompt.id for prompt, _ in items]
        key = shard_key("rank", *self._key, ids)
        rankings = [one.ranking for one in results if one.ranking is not None]
        rows = [ranking.model_dump(mode="json") for ranking in rankings]
        said = [
            judgment_row(answer, id_)
            for id_, one in zip(ids, results, strict=True)
            for answer in one.answers
        ]
        for table, found in (("rankings", rows), (JUDGMENTS, said)):
            write_part(part_path(self._folder / table, number), table, found, key=key)
        ranker = self._ranker
        ranked = RankedShard(len(rankings), ranker.dropped, ranker.failed, ranker.counts)
        ranker.dropped, ranker.failed, ranker.counts = Counter(), Counter(), JudgeCounts()
        return ranked


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
