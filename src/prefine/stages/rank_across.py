"""Comparisons of answers to different prompts (`rank.across`), once the prompts are ranked.

Prompts meet within a part, so that a part is a shard of its own. Which of the comparisons of all
parts `max_comparisons` allows is known to the process of the command alone, which says it to who
works on a part.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Asker
from prefine.config.sections import AcrossConfig, RunConfig
from prefine.errors import ConfigError
from prefine.judging.choose import make_judge
from prefine.judging.counts import JudgeCounts
from prefine.judging.protocol import Judge, JudgesAcross, MatchupAcross
from prefine.ranking.across import Meeting, meetings
from prefine.records import Judgment, content_hash
from prefine.run.folder import RunFolder
from prefine.run.rows import grouped_completions, joint_judgment_row, ranking_of
from prefine.run.tables import PartsWritten, part_path, parts, read_part, shard_key, write_part
from prefine.run.view import JOINT_JUDGMENTS
from prefine.stages.shards import ask_shards, spread
from prefine.stages.stage_run import Progress


class AcrossPrompts:
    """Asks a judge about (prompt, answer) against (prompt, answer).

    Args:
        settings: The section `rank.across`.
        judge: The judge of the ranking.
        seed: Of the ring in which prompts meet, and of who is shown first.
        where: The judge's config path, for messages.

    Raises:
        ConfigError: The judge cannot compare answers to two prompts.
    """

    def __init__(self, settings: AcrossConfig, judge: Judge, *, seed: int, where: str) -> None:
        if not isinstance(judge, JudgesAcross):
            raise ConfigError(
                f"rank.across: {where} cannot compare answers to two prompts: rewards of two "
                "prompts have no common zero, and a judge of yours needs the method "
                "compare_across(prompt, first, second_prompt, second). Use {name: pairwise, "
                "model: …}, or take rank.across out"
            )
        judge.check_across(where=where)
        self.judge = judge
        self._across: JudgesAcross = judge
        self._settings, self._seed = settings, seed
        self.concurrency: int = getattr(judge, "concurrency", 1)
        both = settings.order == "both" or (settings.order == "auto" and judge.first_slot_bias != 0)
        self.orders = 2 if both else 1

    def most_comparisons(self, prompts: int) -> int:
        """The most comparisons of so many prompts."""
        most = prompts * self._settings.per_prompt if prompts > 1 else 0
        limit = self._settings.max_comparisons
        return most if limit is None else min(most, limit)

    def most_calls(self, prompts: int) -> int:
        """The most judge calls for so many prompts."""
        return self.orders * self.most_comparisons(prompts)

    async def ask(self, asker: Asker, matchups: Sequence[MatchupAcross]) -> list[list[Judgment]]:
        """The judgments of each comparison, in all orders in which it is shown."""
        shown = [
            one
            for matchup in matchups
            for one in ((matchup, matchup.swapped()) if self.orders == 2 else (matchup,))
        ]
        found = await self._across.judge_across(asker, shown) if shown else []
        return [found[start : start + self.orders] for start in range(0, len(found), self.orders)]

    def note(self, asked: int, answered: int) -> str:
        """A line for the manifest: what was asked, and how much of it was answered."""
        return (
            f"{asked // self.orders:,} comparisons across prompts, each in "
            f"{'both orders' if self.orders == 2 else 'one order'}: {answered:,} of "
            f"{asked:,} calls gave a verdict"
        )

    def wanted(self, folder: Path, names: Sequence[str]) -> list[list[Meeting]]:
        """The comparisons of each part; of all of them, the first that `max_comparisons` allows."""
        settings = self._settings
        found = [
            meetings(
                [ranking_of(row) for row in read_part(folder / "rankings" / name)],
                meet=settings.meet,
                per_prompt=settings.per_prompt,
                seed=self._seed,
            )
            for name in names
        ]
        places = sorted(one.place for part in found for one in part)
        limit = settings.max_comparisons
        if limit is None or limit >= len(places):
            return found
        return [[one for one in part if one.place < places[limit]] for part in found]


def across_of(config: RunConfig, judge: Judge) -> AcrossPrompts | None:
    """The comparisons across prompts of section `rank`; None without any.

    Raises:
        ConfigError: The judge cannot make them.
    """
    settings = config.rank
    if settings is None or settings.across is None:
        return None
    return AcrossPrompts(settings.across, judge, seed=settings.seed, where="rank.judge")


class PartToCompare(NamedTuple):
    """A part by its name, and which answers to its prompts are compared."""

    part: str
    meetings: Sequence[Meeting]


class ComparedPart(NamedTuple):
    """Counts of a part: the judge's calls, those that gave a verdict, and the failures."""

    asked: int
    answered: int
    counts: JudgeCounts


class ComparedAcross(NamedTuple):
    """All comparisons: the judge's failures, its notes, and a line on what was asked."""

    counts: JudgeCounts
    notes: Sequence[str]
    note: str


def compare(
    across: AcrossPrompts,
    config: RunConfig,
    folder: RunFolder,
    progress: Progress,
    engine: CallEngine,
) -> ComparedAcross:
    """Fill `joint_judgments/`, one part for each part of `rankings/`.

    Raises:
        PrefineError: As the judge says, or the engine of its limits.
    """
    names = [path.name for path in parts(folder / "rankings")]
    wanted = across.wanted(folder.path, names)
    progress.start("rank", sum(map(len, wanted)), "comparisons across prompts")
    counts, asked, answered = JudgeCounts(), 0, 0

    def take(part: ComparedPart) -> None:
        nonlocal asked, answered
        asked += part.asked
        answered += part.answered
        counts.merge(part.counts)
        written.count += 1

    with PartsWritten(folder / JOINT_JUDGMENTS) as written:
        notes = spread(
            AcrossJob(config, folder.path, across=across),
            map(PartToCompare, names, wanted),
            take,
            stage="rank",
            config=config,
            folder=folder,
            progress=progress,
            engine=engine,
            advance=lambda count: progress.advance(count, engine.status),
        )
    return ComparedAcross(counts, notes, across.note(asked, answered))


class AcrossJob:
    """Makes the comparisons of parts, and writes parts of `joint_judgments/`.

    Args:
        config: The configuration.
        folder: The run folder.
        across: Asks the judge, if this process has made it already.
    """

    def __init__(
        self, config: RunConfig, folder: Path, *, across: AcrossPrompts | None = None
    ) -> None:
        assert config.rank is not None, "checked by the caller"
        if across is None:
            across = across_of(config, make_judge(config.rank.judge, where="rank.judge"))
        assert across is not None, "checked by the caller"
        self._folder, self._across = folder, across
        self.concurrency = across.concurrency

    @property
    def notes(self) -> Sequence[str]:
        """Those of the judge."""
        return tuple(self._across.judge.notes)

    run = ask_shards

    def items(self, shard: PartToCompare) -> list[MatchupAcross]:
        """The comparisons of a part with their texts."""
        return _matchups(self._folder, shard.part, shard.meetings)

    async def work(self, asker: Asker, items: list[MatchupAcross]) -> list[list[Judgment]]:
        """The judgments of some comparisons."""
        return await self._across.ask(asker, items)

    def write(
        self, number: int, items: list[MatchupAcross], results: list[list[Judgment]]
    ) -> ComparedPart:
        """Write the part; return its counts."""
        judgments = [judgment for one in results for judgment in one]
        counts = JudgeCounts()
        counts.add(judgments)
        key = shard_key("across", [content_hash(*_ids(one)) for one in items])
        rows = [joint_judgment_row(one) for one in judgments]
        path = part_path(self._folder / JOINT_JUDGMENTS, number)
        write_part(path, JOINT_JUDGMENTS, rows, key=key)
        return ComparedPart(
            len(judgments), sum(one.p_first is not None for one in judgments), counts
        )


def _matchups(folder: Path, name: str, found: Sequence[Meeting]) -> list[MatchupAcross]:
    """The comparisons of a part with their texts."""

    def sides() -> Iterator[MatchupAcross]:
        answers = {
            (prompt.id, one.id): (prompt, one)
            for prompt, completions in grouped_completions(read_part(folder / "completions" / name))
            for one in completions
        }
        for first, second, _ in found:
            yield MatchupAcross(*answers[first], *answers[second])

    return list(sides()) if found else []


def _ids(matchup: MatchupAcross) -> list[str]:
    return [matchup.prompt.id, matchup.first.id, matchup.second_prompt.id, matchup.second.id]
