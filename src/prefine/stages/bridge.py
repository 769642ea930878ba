"""Stage `bridge`: rejected answers, rewritten towards the chosen ones, become chosen answers."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from prefine.bridging import outcome as outcomes
from prefine.bridging.protocol import Bridger
from prefine.calls.engine import CallEngine, check_share
from prefine.calls.protocol import AnswerLog, Asker, Failure
from prefine.config.sections import BridgeConfig, RunConfig
from prefine.judging.choose import same_family
from prefine.judging.counts import JudgeCounts
from prefine.judging.protocol import Judge, Matchup
from prefine.models.capabilities import check_model
from prefine.records import Completion, Manifest, PreferencePair, content_hash
from prefine.run.folder import RunFolder
from prefine.run.item_rows import bridged_row, pair_of
from prefine.run.tables import TableWriter, parts, read_part, shard_key, table_hash
from prefine.stages.bridge_options import (
    BridgeCheck,
    judge_component,
    judgments_each,
    section_of,
)
from prefine.stages.bridged import BRIDGED_PAIRS
from prefine.stages.replay import earlier_ids
from prefine.stages.shards import in_parts, until_stopped
from prefine.stages.stage_run import Progress, StageRun, check_judge, chunks

_MOST_FAILURES_AT_FIRST = 20
_IDS_SHOWN = 3


class Bridged(NamedTuple):
    """A pair after the stage, and what became of it (`bridging.outcome`)."""

    pair: PreferencePair
    outcome: str


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `bridged_pairs/`, one part for each part of `pairs/`.

    Raises:
        ConfigError: There is no section `bridge`, or nobody to judge the rewritten answers.
        DataError: The bridger or the judge cannot work on a pair.
        LimitError: More rewritings failed than `max_failed_fraction` allows, or a limit is reached.
    """
    settings = section_of(config)
    check = BridgeCheck(config)
    earlier = earlier_ids(config, "pairs")
    bridging = Bridging(settings, check.bridger, check.judge, leave=earlier)
    bridging.check_models()
    inputs = {"pairs": table_hash(folder / "pairs"), "bridger": bridging.bridger.fingerprint}
    if bridging.judge is not None:
        inputs["judge"] = bridging.judge.fingerprint
    stage = StageRun(folder, "bridge", config, inputs)
    if stage.finished:
        return stage.finished
    stage.asks(bridging.judge)
    stage.begin(settings.seed)
    sources = parts(folder / "pairs")
    taken = 0
    # Everything that bridger and judge may refuse is found before the first call.
    for path in until_stopped(sources, progress):
        for row in read_part(path):
            pair, taken = pair_of(row), taken + 1
            if bridging.unasked(pair) is None:
                check_judge(check, pair.prompt, [pair.rejected])
    calls = taken * (1 + bridging.judgments_each)
    engine = CallEngine(
        folder.journal(),
        stage="bridge",
        max_calls=settings.max_calls,
        max_cost=settings.max_cost,
        most_failures=2 * settings.max_failed_fraction * calls + _MOST_FAILURES_AT_FIRST,
        should_stop=lambda: progress.stopping,
        on_answers=lambda count: progress.advance(0, engine.status),
        on_heartbeat=lambda: stage.note(engine),
    )
    progress.start("bridge", taken, "pairs")

    def shards() -> Iterator[list[PreferencePair]]:
        for path in sources:
            yield [pair_of(row) for row in read_part(path)]

    async def work(pairs: list[PreferencePair]) -> list[Bridged]:
        found = await bridging.bridge(engine.scope(), pairs)
        progress.advance(len(pairs))
        return found

    def write(pairs: list[PreferencePair], found: list[Bridged]) -> None:
        bridging.check_failures(engine.journal)
        key = shard_key("bridge", stage.fingerprinted, inputs, [pair.id for pair in pairs])
        table.write([bridged_row(one.pair, one.outcome) for one in found], key=key)

    with TableWriter(folder / BRIDGED_PAIRS, BRIDGED_PAIRS) as table:
        engine.run(in_parts(shards(), work, write, concurrency=bridging.concurrency))
    produced = bridging.outcomes.pop(outcomes.BRIDGED, 0)
    for reason, count in bridging.outcomes.items():
        (stage.failed if outcomes.is_failure(reason) else stage.dropped)[reason] += count
    stage.notes += bridging.notes()
    found = judge_component(config)
    if found is not None and (
        note := same_family(settings.model, found[0], writer="bridge.model", result="bridged pairs")
    ):
        stage.notes.append(note)
    return stage.end(
        taken=taken,
        produced=produced,
        outputs={BRIDGED_PAIRS: table_hash(folder / BRIDGED_PAIRS)},
        engine=engine,
    )


class Bridging:
    """Rewrites and judges pairs, and counts what became of them.

    Args:
        settings: The section `bridge`.
        bridger: Rewrites.
        judge: Compares a rewriting with the rejected answer; None takes every rewriting.
        leave: Ids of pairs that were bridged, or left as they were, in an earlier round.
    """

    def __init__(
        self,
        settings: BridgeConfig,
        bridger: Bridger,
        judge: Judge | None,
        *,
        leave: Collection[str] = (),
    ) -> None:
        self.bridger, self.judge = bridger, judge
        self.judgments_each = judgments_each(judge, settings)
        self.outcomes: Counter[str] = Counter()
        self._settings, self._leave = settings, leave
        self._judged = JudgeCounts()
        self._failed_ids: list[str] = []

    def check_models(self) -> None:
        """Raise if the model of the bridger or the judge cannot be used."""
        check_model(self.bridger)
        if self.judge is not None:
            check_model(self.judge)

    @property
    def concurrency(self) -> int:
        """The pairs that may ask at a time."""
        if self.judge is None:
            return self.bridger.concurrency
        return min(self.bridger.concurrency, getattr(self.judge, "concurrency", 1))

    def unasked(self, pair: PreferencePair) -> str | None:
        """Return why a pair is not rewritten at all, or None."""
        if pair.id in self._leave:
            return outcomes.OF_EARLIER_ROUND
        return outcomes.unasked(pair, share=self._settings.share, seed=self._settings.seed)

    async def bridge(self, asker: Asker, pairs: Sequence[PreferencePair]) -> list[Bridged]:
        """Each pair after the stage, in order."""
        found: dict[int, str] = {}
        for place, pair in enumerate(pairs):
            if (reason := self.unasked(pair)) is not None:
                found[place] = reason
        asked = [place for place in range(len(pairs)) if place not in found]
        rewritings = await self.bridger.bridge(asker, [pairs[place] for place in asked])
        new: dict[int, Completion] = {}
        for place, rewriting in zip(asked, rewritings, strict=True):
            reason = outcomes.refusal(
                pairs[place],
                rewriting,
                max_length_ratio=self._settings.max_length_ratio,
            )
            if reason is not None:
                found[place] = reason
            else:
                assert not isinstance(rewriting, Failure), "a failure is refused"
                new[place] = rewriting
        chances = await self._chances(asker, [(pairs[place], one) for place, one in new.items()])
        result = dict(enumerate(pairs))
        for (place, rewriting), chance in zip(new.items(), chances, strict=True):
            found[place] = self._verdict(chance)
            if found[place] == outcomes.BRIDGED:
                result[place] = _replaced(pairs[place], rewriting, chance)
        self._count(pairs, found)
        return [Bridged(result[place], found[place]) for place in range(len(pairs))]

    def _verdict(self, chance: float | None) -> str:
        if self.judge is None:
            return outcomes.BRIDGED
        if chance is None:
            return outcomes.NO_VERDICT
        return outcomes.BRIDGED if chance > 0.5 else outcomes.NOT_PREFERRED

    async def _chances(
        self, asker: Asker, rewritten: Sequence[tuple[PreferencePair, Completion]]
    ) -> list[float | None]:
        """P(the rewriting is better than the rejected answer); None without a verdict.

        Of both orders it is the mean. Of one order, a hash says who stands first.
        """
        if self.judge is None or not rewritten:
            return [None] * len(rewritten)
        matchups: list[Matchup] = []
        new_first: list[bool] = []
        for pair, new in rewritten:
            coin = int(content_hash("bridge order", self._settings.seed, pair.id), 16) % 2 == 0
            for first in (True, False) if self.judgments_each == 2 else (coin,):
                sides = (new, pair.rejected) if first else (pair.rejected, new)
                matchups.append(Matchup(pair.prompt, *sides))
                new_first.append(first)
        judgments = await self.judge.judge(asker, matchups)
        self._judged.add(judgments)
        values = [
            one.p_first if one.p_first is None or first else 1 - one.p_first
            for one, first in zip(judgments, new_first, strict=True)
        ]
        return [_mean(found) for found in chunks(values, self.judgments_each)]

    def _count(self, pairs: Sequence[PreferencePair], found: Mapping[int, str]) -> None:
        for place, outcome in sorted(found.items()):
            self.outcomes[outcome] += 1
            if outcomes.is_failure(outcome) and len(self._failed_ids) < _IDS_SHOWN:
                self._failed_ids.append(pairs[place].id)

    def check_failures(self, journal: AnswerLog) -> None:
        """Raise LimitError if a larger share than allowed of the pairs asked about failed."""
        failed = Counter({o: n for o, n in self.outcomes.items() if outcomes.is_failure(o)})
        check_share(
            failed,
            self._failed_ids,
            self.outcomes.total()
            - self.outcomes[outcomes.NOT_IN_SHARE]
            - self.outcomes[outcomes.OF_EARLIER_ROUND],
            self._settings.max_failed_fraction,
            where="bridge",
            what="rewritings",
            journal=journal,
        )

    def notes(self) -> list[str]:
        """Lines for the user on what failed and what turned out while asking."""
        notes = [*self._judged.failure_notes(), *self._judged.slot_notes(), *self.bridger.notes]
        if self.judge is not None:
            notes += [note for note in self.judge.notes if note not in notes]
        return notes


def _mean(chances: Sequence[float | None]) -> float | None:
    """The mean of both orders; None if one of them is missing."""
    known = [chance for chance in chances if chance is not None]
    return fmean(known) if len(known) == len(chances) else None


def _replaced(pair: PreferencePair, rewriting: Completion, chance: float | None) -> PreferencePair:
    """The pair with the rewriting as its chosen answer; no score is known of that."""
    return pair.model_copy(
        update={
            "chosen": rewriting.model_copy(update={"usage": None}),
            "p_chosen": chance,
            "score_gap": None,
            "bridged_from": pair.chosen,
        }
    )
