"""Comparisons of answers to different prompts (`rank.across`), once the prompts are ranked."""

from collections.abc import Iterator, Sequence

from prefine.calls.engine import CallEngine
from prefine.config.sections import AcrossConfig
from prefine.errors import ConfigError
from prefine.judging.counts import JudgeCounts
from prefine.judging.protocol import Judge, JudgesAcross, MatchupAcross
from prefine.ranking.across import Meeting, meetings
from prefine.records import Judgment, content_hash
from prefine.run.folder import RunFolder
from prefine.run.rows import grouped_completions, joint_judgment_row, ranking_of
from prefine.run.tables import TableWriter, read_part, shard_key
from prefine.run.view import JOINT_JUDGMENTS
from prefine.stages.shards import in_parts
from prefine.stages.stage_run import Progress


class AcrossPrompts:
    """Asks a judge about (prompt, answer) against (prompt, answer), part by part.

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
        self._judge: JudgesAcross = judge
        self._settings, self._seed = settings, seed
        self._concurrency: int = getattr(judge, "concurrency", 1)
        both = settings.order == "both" or (settings.order == "auto" and judge.first_slot_bias != 0)
        self.orders = 2 if both else 1
        self._asked = self._answered = 0

    def most_comparisons(self, prompts: int) -> int:
        """The most comparisons of so many prompts."""
        most = prompts * self._settings.per_prompt if prompts > 1 else 0
        limit = self._settings.max_comparisons
        return most if limit is None else min(most, limit)

    def most_calls(self, prompts: int) -> int:
        """The most judge calls for so many prompts."""
        return self.orders * self.most_comparisons(prompts)

    async def compare(
        self,
        engine: CallEngine,
        folder: RunFolder,
        names: Sequence[str],
        progress: Progress,
        counts: JudgeCounts,
    ) -> None:
        """Fill `joint_judgments/`, one part for each part of `rankings/`.

        Args:
            engine: Asks, or answers from the journal.
            folder: With completions and rankings.
            names: Of the parts of both.
            progress: Counts comparisons.
            counts: Of the judge's failures, the ranking's included.
        """
        wanted = self._wanted(folder, names)
        progress.start("rank", sum(map(len, wanted)), "comparisons across prompts")

        async def work(matchups: list[MatchupAcross]) -> list[list[Judgment]]:
            shown = [
                one
                for matchup in matchups
                for one in ((matchup, matchup.swapped()) if self.orders == 2 else (matchup,))
            ]
            found = await self._judge.judge_across(engine.scope(), shown) if shown else []
            counts.add(found)
            progress.advance(len(matchups), engine.status)
            return [
                found[start : start + self.orders] for start in range(0, len(found), self.orders)
            ]

        def write(matchups: list[MatchupAcross], found: list[list[Judgment]]) -> None:
            judgments = [judgment for one in found for judgment in one]
            self._asked += len(judgments)
            self._answered += sum(one.p_first is not None for one in judgments)
            key = shard_key("across", [content_hash(*_ids(one)) for one in matchups])
            table.write([joint_judgment_row(one) for one in judgments], key=key)

        shards = (_matchups(folder, name, found) for name, found in zip(names, wanted, strict=True))
        with TableWriter(folder / JOINT_JUDGMENTS, JOINT_JUDGMENTS) as table:
            await in_parts(shards, work, write, concurrency=self._concurrency)

    def note(self) -> str:
        """A line for the manifest: what was asked, and how much of it was answered."""
        return (
            f"{self._asked // self.orders:,} comparisons across prompts, each in "
            f"{'both orders' if self.orders == 2 else 'one order'}: {self._answered:,} of "
            f"{self._asked:,} calls gave a verdict"
        )

    def _wanted(self, folder: RunFolder, names: Sequence[str]) -> list[list[Meeting]]:
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


def _matchups(folder: RunFolder, name: str, found: Sequence[Meeting]) -> list[MatchupAcross]:
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
