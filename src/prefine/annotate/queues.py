"""The order of questions: at random, where the judge is unsure, or where judges disagree."""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple

from prefine.annotate.questions import Question
from prefine.judges.human import QueueName
from prefine.records import content_hash

Queue = Literal["random", "uncertain", "disagree", "mixed"]


class Pick(NamedTuple):
    """The next question, and which queue gave it.

    `carried` are questions that the random order has come to and that were judged before, in
    another queue: they belong to the random sample, or it would lack the very comparisons that the
    other queues prefer.
    """

    question: Question | None
    queue: QueueName
    carried: tuple[Question, ...] = ()


class Order:
    """The questions of a run in the order of each queue.

    Args:
        questions: All of them.
        seed: Of the random order, which also decides between questions that a queue likes equally.
    """

    def __init__(self, questions: Iterable[Question], *, seed: int) -> None:
        self.random = sorted(questions, key=lambda one: content_hash("queue", seed, one.id))
        differing = [one for one in self.random if not one.same]
        self.uncertain = sorted(
            (one for one in differing if one.p_one is not None),
            key=lambda one: abs((one.p_one or 0) - 0.5),
        )
        self.disagree = sorted(
            (one for one in differing if one.disagreement), key=lambda one: -one.disagreement
        )

    def next(
        self,
        queue: Queue,
        judged: Collection[str],
        sampled: Collection[str],
        last: QueueName | None,
    ) -> Pick:
        """Return the next question; none if the queue is at its end.

        Args:
            queue: The queue. `mixed` takes turns between the random order and another queue:
                `disagree`, and at its end `uncertain`.
            judged: Ids of the questions that have a verdict or were skipped.
            sampled: Those of them that the random order has come to.
            last: The queue of the last question.
        """
        if queue == "uncertain":
            return Pick(_first(self.uncertain, judged), "uncertain")
        if queue == "disagree":
            return Pick(_first(self.disagree, judged), "disagree")
        if queue == "mixed" and last == "random":
            if (question := _first(self.disagree, judged)) is not None:
                return Pick(question, "disagree")
            if (question := _first(self.uncertain, judged)) is not None:
                return Pick(question, "uncertain")
        carried: list[Question] = []
        for one in self.random:
            if one.id not in judged:
                return Pick(one, "random", tuple(carried))
            if one.id not in sampled:
                carried.append(one)
        return Pick(None, "random", tuple(carried))


def _first(order: Sequence[Question], judged: Collection[str]) -> Question | None:
    return next((one for one in order if one.id not in judged), None)
