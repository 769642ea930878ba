"""One person at work: the question that is asked, and the verdict that is journaled."""

from datetime import UTC, datetime
from typing import NamedTuple

from prefine.annotate.questions import Question, Texts, question_id
from prefine.annotate.queues import Order, Pick, Queue
from prefine.annotate.verdict_file import VerdictFile
from prefine.annotate.verdicts import Verdicts
from prefine.judges.human import SKIPPED, HumanVerdict, Scope, answer_key
from prefine.metrics.statistics.intervals import percentage
from prefine.records import Completion, MetricValue, Prompt, content_hash

MOVES_EVERY = 5
"""The agreement that a person sees while at work is that of the last multiple of so many."""


class AskedQuestion(NamedTuple):
    """A question as it is shown: the prompt and the answers in the first and the second place.

    `before` is P(first) of the verdict that is given again, None where it was skipped; `again`
    says that there is one.
    """

    prompt: Prompt
    first: Completion
    second: Completion
    again: bool = False
    before: float | None = None


class Session:
    """The questions of one annotator, one after the other.

    Args:
        questions: All questions of the run.
        texts: Their texts.
        file: The annotator's file.
        scope: Of what the questions are.
        queue: Which are asked, in which order.
        seed: Of the random order.
    """

    def __init__(
        self,
        questions: list[Question],
        texts: Texts,
        file: VerdictFile,
        *,
        scope: Scope,
        queue: Queue,
        seed: int,
    ) -> None:
        self._by_id = {one.id: one for one in questions}
        self._order = Order(questions, seed=seed)
        self._texts, self._file, self._scope, self._queue = texts, file, scope, queue
        self.verdicts = Verdicts(self._by_id, file.rows, scope)
        self._pick = self._next()
        self._steps_back = 0

    def asked(self) -> AskedQuestion | None:
        """Return the question to show; None at the end of the queue.

        Raises:
            DataError: The run has other answers by now.
        """
        question = self._pick.question
        if question is None:
            return None
        prompt, one, other = self._texts.of(question)
        one_first = self._one_first(question)
        first, second = (one, other) if one_first else (other, one)
        given = self.verdicts.given.get(question.id)
        if given is None:
            return AskedQuestion(prompt, first, second)
        p = given.p_one if one_first or given.p_one is None else 1 - given.p_one
        return AskedQuestion(prompt, first, second, again=True, before=p)

    def answer(self, shown: AskedQuestion, p_first: float | None) -> None:
        """Journal the verdict on the question that is shown, and go on to the next.

        Args:
            shown: The question.
            p_first: 1, 0 or .5 for a tie; None skips it.

        Raises:
            LimitError: The disk is full.
        """
        row = HumanVerdict(
            judge=self._file.judge,
            scope=self._scope,
            prompt_id=shown.prompt.id,
            first=shown.first.id,
            second=shown.second.id,
            first_answer=answer_key(shown.first),
            second_answer=answer_key(shown.second),
            p_first=p_first,
            error=SKIPPED if p_first is None else None,
            queue=self._pick.queue,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._file.append([row])
        self.verdicts.add(row)
        self._pick, self._steps_back = self._next(), 0

    def back(self) -> bool:
        """Go back to the question before; its verdict stands until another one is given.

        Returns: False where there is none before.
        """
        if self._steps_back == len(self.verdicts.asked):
            return False
        self._steps_back += 1
        id_ = list(self.verdicts.asked)[-self._steps_back]
        self._pick = Pick(self._by_id[id_], self.verdicts.given[id_].queue)
        return True

    @property
    def judged(self) -> int:
        """The number of questions that have a verdict."""
        return len(self.verdicts.known())

    def agreement(self) -> MetricValue | None:
        """Return how often the run's judge names the same winner; None before there are enough.

        It moves every few verdicts only: after each it would tell what the judge says of the
        answers that were just read, and people would follow.
        """
        known = list(self.verdicts.known().items())
        same = [
            (p > 0.5) - (p < 0.5) == (of_judge > 0.5) - (of_judge < 0.5)
            for id_, p in known[: len(known) - len(known) % MOVES_EVERY]
            if (of_judge := self._by_id[id_].p_one) is not None
        ]
        return percentage("agreement", same) if same else None

    def _next(self) -> Pick:
        """Choose the next question; what the random order passes on the way joins the sample."""
        judged, sampled = self.verdicts.given.keys(), self.verdicts.sampled
        pick = self._order.next(self._queue, judged, sampled, self.verdicts.last_queue)
        if pick.carried:
            carried = {one.id for one in pick.carried}
            rows = {
                id_: row
                for row in self._file.rows
                if row.scope == self._scope
                and (id_ := question_id(row.prompt_id, row.first, row.second)) in carried
            }
            repeated = [
                row.model_copy(update={"queue": "random", "carried": True}) for row in rows.values()
            ]
            self._file.append(repeated)
            for row in repeated:
                self.verdicts.add(row)
        return pick

    def _one_first(self, question: Question) -> bool:
        """Toss a coin for this annotator and question, the same whenever it is asked."""
        return int(content_hash("sides", self._file.judge, question.id), 16) % 2 == 0
