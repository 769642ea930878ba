"""Which answers to different prompts a judge is asked to compare, once the prompts are ranked."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from prefine.records import Ranking, content_hash

Meet = Literal["best_vs_loser", "best_vs_best", "loser_vs_loser"]


class ContestantIds(NamedTuple):
    """An answer by its id, and that of its prompt."""

    prompt: str
    completion: str


class Meeting(NamedTuple):
    """Two answers to two prompts that are to be compared, in the order in which they are shown.

    `place` is a number that depends on the two and the seed alone: of several meetings, those with
    the smallest places are asked about where not all may be.
    """

    first: ContestantIds
    second: ContestantIds
    place: str


def meetings(
    rankings: Sequence[Ranking], *, meet: Sequence[Meet], per_prompt: int, seed: int
) -> list[Meeting]:
    """The comparisons across prompts, each once, by prompt in the order of a ring.

    The prompts stand in a ring, in the order of a seeded hash, so that a new prompt changes the
    partners of few others. Comparison number j of a prompt is with the one j places behind it, and
    of the kind that has its turn in `meet`. The best is the ranking's champion; the loser its
    worst, without one the last of its order or the lowest score, else one that a hash draws among
    those that lost or tied with others. A prompt without what its turn needs is passed over. Who is
    shown first is a coin of the hash.

    Args:
        rankings: Of the prompts that may meet.
        meet: The kinds, taken in turns.
        per_prompt: How many comparisons each prompt begins; it is met as often by others.
        seed: Names the ring, and draws.

    Source: arXiv:2404.00530 compares random (instruction, answer) pairs. Deviation: answers whose
        standing within their own prompt is known, so that few calls decide the most.
    """
    best = {one.prompt_id: one.champion for one in rankings if one.champion is not None}
    losers = {
        one.prompt_id: loser for one in rankings if (loser := loser_of(one, seed=seed)) is not None
    }
    ids = sorted({*best, *losers}, key=lambda id_: (content_hash("ring", seed, id_), id_))
    found: dict[frozenset[ContestantIds], Meeting] = {}
    for place, id_ in enumerate(ids):
        for number in range(min(per_prompt, len(ids) - 1)):
            other = ids[(place + 1 + number) % len(ids)]
            kind = meet[number % len(meet)]
            one = _side(id_, losers if kind == "loser_vs_loser" else best)
            two = _side(other, best if kind == "best_vs_best" else losers)
            if one is not None and two is not None:
                # In a small ring two prompts may find each other twice.
                found.setdefault(frozenset((one, two)), _shown(one, two, seed))
    return list(found.values())


def loser_of(ranking: Ranking, *, seed: int) -> str | None:
    """The answer that stands for the bad ones of a prompt; None if nothing is known of any."""
    if ranking.worst is not None:
        return ranking.worst
    if ranking.order:
        return ranking.order[-1]
    if ranking.scores is not None:
        scored = dict(zip(ranking.completions, ranking.scores, strict=True))
        return min(scored, key=lambda id_: (scored[id_], id_))
    beaten = {
        id_
        for duel in ranking.duels
        if duel.p_first is not None
        for id_, chance in ((duel.first, duel.p_first), (duel.second, 1 - duel.p_first))
        if chance <= 0.5 and id_ != ranking.champion
    }
    return min(beaten, key=lambda id_: content_hash("loser", seed, id_), default=None)


def _side(prompt: str, answers: Mapping[str, str]) -> ContestantIds | None:
    return ContestantIds(prompt, answers[prompt]) if prompt in answers else None


def _shown(one: ContestantIds, two: ContestantIds, seed: int) -> Meeting:
    """The two in the order of a coin that depends on the two alone."""
    sides = sorted((one, two))
    place = content_hash("meeting", seed, sides)
    first, second = sides if int(place, 16) % 2 else reversed(sides)
    return Meeting(first, second, place)
