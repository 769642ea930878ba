"""The verdicts of an annotator on the questions of a run, as they stand after all rows."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prefine.annotate.questions import Question, question_id
from prefine.judges.human import HumanVerdict, QueueName, Scope


class Given(NamedTuple):
    """An annotator's last word on a question: P(`one` is better), or None for a skipped one."""

    p_one: float | None
    queue: QueueName


class Verdicts:
    """The verdicts of one annotator.

    Args:
        questions: Of the run, by id.
        rows: The rows of the annotator's file, in their order.
        scope: Of the questions; rows of the other scope do not count.

    Attributes:
        given: The last word on each question that was judged or skipped, by id.
        sampled: Ids of the questions that the random order has come to.
        asked: Ids in the order in which they were last asked.
        outdated: Rows on answers that the run does not have (any more).
    """

    def __init__(
        self, questions: Mapping[str, Question], rows: Iterable[HumanVerdict], scope: Scope
    ) -> None:
        self._questions = questions
        self.given: dict[str, Given] = {}
        self.sampled: set[str] = set()
        self.asked: dict[str, None] = {}
        self.outdated = 0
        for row in rows:
            if row.scope == scope:
                self.add(row)

    def add(self, row: HumanVerdict) -> None:
        """Count one more row."""
        id_ = question_id(row.prompt_id, row.first, row.second)
        question = self._questions.get(id_)
        if question is None:
            self.outdated += 1
            return
        p = row.p_first
        if p is not None and row.first != question.one:
            p = 1 - p
        if row.queue == "random":
            self.sampled.add(id_)
        if not row.carried:
            self.asked.pop(id_, None)
            self.asked[id_] = None
            self.given[id_] = Given(p, row.queue)

    @property
    def last_queue(self) -> QueueName | None:
        """The queue of the question that was asked last."""
        return self.given[next(reversed(self.asked))].queue if self.asked else None

    def known(self) -> dict[str, float]:
        """P(`one` is better) of each question with a verdict."""
        return {id_: one.p_one for id_, one in self.given.items() if one.p_one is not None}
