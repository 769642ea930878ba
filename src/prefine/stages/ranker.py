"""A strategy at work with its judges: the completions of prompts → rankings."""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from prefine.calls.protocol import Asker
from prefine.config.base import Component
from prefine.config.sections import RunConfig
from prefine.judging.choose import choose_rater, judges_asked, make_judge
from prefine.judging.counts import JudgeCounts
from prefine.judging.protocol import Judge, Matchup
from prefine.models.capabilities import check_model
from prefine.models.protocol import Answered
from prefine.ranking.protocol import (
    Answers,
    Ask,
    Outcome,
    Rate,
    Strategy,
    StrategyFacts,
    facts_of,
)
from prefine.ranking.run import rounds
from prefine.records import (
    Completion,
    DuelRecord,
    Judgment,
    Prompt,
    Ranking,
    Score,
    canonical_json,
    content_hash,
)
from prefine.run.rows import Groups
from prefine.stages.rank_across import across_of
from prefine.stages.stage_run import check_judge

_ONE_COMPLETION = "fewer than two completions"
_ALL_IDENTICAL = "all completions identical"
_NOTHING_FOUND = "failed calls left no champion and no order"


class Ranked(NamedTuple):
    """A prompt's ranking, None where failed calls left nothing, and all that its judges said."""

    ranking: Ranking | None
    answers: list[Judgment | Score]


class Ranker:
    """A strategy with its judges: ranks prompts shard by shard and counts what is left out.

    Args:
        strategy: The configured strategy.
        judge: Answers duels.
        scorer: Gives the ratings that the strategy asks for; None is the judge.
        seed: Decides in which order the strategy meets the completions.
        section: The config path of judge and strategy, for messages.

    Raises:
        ConfigError: There is no such strategy, or it asks for ratings and no judge can give them.
    """

    def __init__(
        self,
        strategy: Component,
        judge: Judge,
        scorer: Judge | None,
        *,
        seed: int,
        section: str = "rank.",
    ) -> None:
        facts = strategy_facts(strategy)
        self.strategy, self.judge, self.scorer = strategy, judge, scorer
        self.rater = choose_rater(
            judge, scorer, strategy=strategy.name, facts=facts, section=section
        )
        self.asked = judges_asked(judge, scorer, facts)
        where, given = "rank.strategy", ("first_slot_bias",)
        self._make: Callable[..., Strategy] = strategy.resolve("strategy", where=where, given=given)
        self._takes_slot_bias = "first_slot_bias" in inspect.signature(self._make).parameters
        self.counts = JudgeCounts()
        self.dropped: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._seed = seed

    def check_models(self) -> None:
        """Raise if the model of a judge cannot be used."""
        for judge in self.asked:
            check_model(judge)

    def check(self, groups: Groups) -> None:
        """Raise DataError if a judge cannot handle some of these completions; nothing is asked."""
        for prompt, completions in groups:
            for judge in self.asked:
                check_judge(judge, prompt, completions)

    def notes(self) -> list[str]:
        """Lines for the user on what failed and what turned out while asking."""
        return [*self.counts.failure_notes(), *self.counts.slot_notes(), *self.notes_of_judges()]

    def notes_of_judges(self) -> list[str]:
        """Lines for the user on what turned out about judges and their models while asking."""
        return [note for judge in self.asked for note in judge.notes]

    def candidates(self, groups: Groups) -> Groups:
        """Each prompt's distinct answers, shuffled by a hash; prompts without two are left out.

        Answers are identical if text and tool calls are, whatever was reasoned before; the first of
        them takes part.
        """
        found: Groups = []
        for prompt, completions in groups:
            distinct = {
                canonical_json([one.message.content, one.message.tool_calls]): one
                for one in reversed(completions)
            }
            if len(distinct) < 2:
                self.dropped[_ONE_COMPLETION if len(completions) < 2 else _ALL_IDENTICAL] += 1
                continue
            order = sorted(
                distinct.values(),
                key=lambda one: content_hash("shuffle", self._seed, prompt.id, one.id),
            )
            found.append((prompt, order))
        return found

    @property
    def concurrency(self) -> int:
        """The prompts that may ask at a time; 1: all prompts of a shard ask together."""
        return min(getattr(judge, "concurrency", 1) for judge in self.asked)

    async def rank(self, asker: Asker, candidates: Groups) -> list[Ranked]:
        """Rank some prompts, in their order, and count those that failed calls left without one.

        Their strategies advance together, round by round: all duels of a round are asked at once,
        and then all its ratings.
        """
        by_id = {prompt.id: (prompt, completions) for prompt, completions in candidates}
        answered: dict[str, list[Judgment | Score]] = {id_: [] for id_ in by_id}

        async def answer(asks: list[tuple[str, Ask]]) -> Answers:
            matchups: list[Matchup] = []
            items: list[Answered] = []
            for id_, ask in asks:
                prompt, completions = by_id[id_]
                if isinstance(ask, Rate):
                    items.append(Answered(prompt, completions[ask.completion]))
                else:
                    matchups.append(
                        Matchup(prompt, completions[ask.first], completions[ask.second])
                    )
            if items and self.rater is None:
                raise TypeError(
                    f"strategy {self.strategy.name!r} asks for a rating, which its declaration "
                    "(asks=…) does not say"
                )
            judgments = await self.judge.judge(asker, matchups) if matchups else []
            rater = self.rater
            scores = await rater.rate(asker, items) if items and rater is not None else []
            self.counts.add(judgments, scores)
            # The answers go back in the order of the asks, which mixes duels and ratings.
            next_judgment, next_score = iter(judgments), iter(scores)
            answers: Answers = []
            for id_, ask in asks:
                found = next(next_score) if isinstance(ask, Rate) else next(next_judgment)
                answered[id_].append(found)
                answers.append(_value(found))
            return answers

        running = rounds(
            {id_: self._start(len(completions)) for id_, (_, completions) in by_id.items()}
        )
        try:
            asks = next(running)
            while True:
                asks = running.send(await answer(asks))
        except StopIteration as end:
            outcomes: dict[str, Outcome] = end.value
        ranked = []
        for id_, answers in answered.items():
            outcome, ranking = outcomes[id_], None
            if outcome.champion is None and outcome.order is None:
                self.failed[_NOTHING_FOUND] += 1
            else:
                ranking = _ranking(*by_id[id_], outcome, answers, self.strategy.name)
            ranked.append(Ranked(ranking, answers))
        return ranked

    def _start(self, completions: int) -> Strategy:
        if self._takes_slot_bias:
            return self._make(completions, first_slot_bias=self.judge.first_slot_bias)
        return self._make(completions)


def configured_ranker(config: RunConfig) -> Ranker:
    """The ranker of section `rank`.

    Raises:
        ConfigError: A name or option is wrong, or the parts do not go together.
    """
    assert config.rank is not None, "checked by the caller"
    settings = config.rank
    judge = make_judge(settings.judge, where="rank.judge")
    scorer = None if settings.scorer is None else make_judge(settings.scorer, where="rank.scorer")
    ranker = Ranker(settings.strategy, judge, scorer, seed=settings.seed)
    if across_of(config, judge) is not None and judge not in ranker.asked:
        ranker.asked.insert(0, judge)
    return ranker


def strategy_facts(strategy: Component) -> StrategyFacts:
    """The declared facts of the configured strategy.

    Raises:
        ConfigError: There is no such strategy, or it does not state its facts.
    """
    return facts_of(strategy.lookup("strategy", where="rank.strategy"))


def _value(answer: Judgment | Score) -> float | None:
    return answer.p_first if isinstance(answer, Judgment) else answer.value


def _ranking(
    prompt: Prompt,
    completions: Sequence[Completion],
    outcome: Outcome,
    answers: Sequence[Judgment | Score],
    strategy: str,
) -> Ranking:
    ids = tuple(completion.id for completion in completions)

    def id_of(index: int | None) -> str | None:
        return None if index is None else ids[index]

    return Ranking(
        prompt_id=prompt.id,
        strategy=strategy,
        completions=ids,
        champion=id_of(outcome.champion),
        worst=id_of(outcome.worst),
        last_loser=id_of(outcome.last_loser),
        order=None if outcome.order is None else tuple(ids[index] for index in outcome.order),
        scores=outcome.scores,
        standard_errors=outcome.standard_errors,
        score_unit=outcome.score_unit,
        duels=tuple(
            DuelRecord(
                first=answer.comparison.first,
                second=answer.comparison.second,
                p_first=answer.p_first,
            )
            for answer in answers
            if isinstance(answer, Judgment)
        ),
        rated=tuple(
            answer.completion_id
            for answer in answers
            if isinstance(answer, Score) and answer.value is not None
        ),
        calls=len(answers),
        failed_calls=sum(_value(answer) is None for answer in answers),
        cyclic_triads=outcome.cyclic_triads,
    )
