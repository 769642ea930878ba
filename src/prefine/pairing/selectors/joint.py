"""Pairs across prompts: a good answer to one prompt against a bad answer to another."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Literal

from prefine.pairing.protocol import Choice, selector
from prefine.records import content_hash

Keep = Literal["merged", "across"]


def joint_as_judged(
    choices: Mapping[str, Sequence[Choice]],
    judged: Mapping[str, Sequence[Choice]],
    *,
    keep: Keep = "merged",
) -> dict[str, Iterator[Choice]]:
    """By prompt, its champion over its losers and, in turns, its answers that a judge preferred.

    Args:
        choices: Those that are wanted within each prompt.
        judged: Those across prompts that a judge decided, by the prompt of the better answer.
        keep: As in `joint`.
    """
    return {
        id_: _taking_turns(inside if keep == "merged" else (), judged.get(id_, ()))
        for id_, inside in choices.items()
    }


@selector(needs={"best"}, pairs_per_prompt=2, makes="joint", judged=joint_as_judged)
def joint(
    choices: Mapping[str, Sequence[Choice]],
    *,
    seed: int,
    keep: Keep = "merged",
) -> dict[str, Iterator[Choice]]:
    """By prompt, its champion over losers of the prompt and, in turns, losers of other prompts.

    The prompts stand in a ring, in the order of a seeded hash; the losers are those of the prompts
    that follow. So a new prompt changes the partner of one other prompt only. Whether an answer is
    good or bad was judged within its own prompt: scores of two prompts have no common zero, so such
    a pair has no gap and no probability. With `rank.across` a judge has compared answers to
    different prompts, and pairs across prompts are those that it decided (`joint_as_judged`).

    Args:
        choices: The choices that are wanted within each prompt, by the prompt's id; one at least.
        seed: Names the ring.
        keep: "merged" takes both kinds in turns, beginning within the prompt; "across" only pairs
            across prompts.

    Source: arXiv:2404.00530, which merges conditional and joint pairs. Deviation: there a judge
        compares two (instruction, answer) pairs; without `rank.across` the standing within each
        prompt decides here, so that no call is needed.
    """
    ring = sorted(choices, key=lambda id_: (content_hash(seed, id_), id_))
    turns = max(map(len, choices.values()), default=0)
    return {id_: _in_turns(choices, ring, place, turns, keep) for place, id_ in enumerate(ring)}


def _in_turns(
    choices: Mapping[str, Sequence[Choice]], ring: list[str], place: int, turns: int, keep: str
) -> Iterator[Choice]:
    inside = choices[ring[place]] if keep == "merged" else ()
    yield from _taking_turns(inside, _across(choices, ring, place, turns))


def _taking_turns(inside: Iterable[Choice], outside: Iterable[Choice]) -> Iterator[Choice]:
    for within, beyond in zip_longest(inside, outside):
        if within is not None:
            yield within
        if beyond is not None:
            yield beyond


def _across(
    choices: Mapping[str, Sequence[Choice]], ring: list[str], place: int, turns: int
) -> Iterator[Choice]:
    """One loser of each other prompt, from the next in the ring on, then a second one of each."""
    chosen = choices[ring[place]][0].chosen
    # Nothing is copied or looked through before it is asked for: a prompt mostly takes one loser of
    # thousands.
    for turn in range(turns):
        for step in range(1, len(ring)):
            id_ = ring[(place + step) % len(ring)]
            if turn < len(choices[id_]):
                yield Choice(chosen, choices[id_][turn].rejected, id_)
