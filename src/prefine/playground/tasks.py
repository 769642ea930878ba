"""Requests of the playground's world: drawing them, writing them as prompts, reading them back, splitting them."""

import random
import re
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Literal

from prefine.playground.vocabulary import NOUNS_OF_TOPIC, TONES, TOPICS, VERBS

Split = Literal["train", "test"]

COUNTS = (2, 3, 4)


@dataclass(frozen=True)
class Task:
    """What one prompt asks for; every named word is a noun of the topic or a verb, and is named once.

    Attributes:
        count: Number of sentences, one of `COUNTS`.
        topic: Whose nouns the sentences are about.
        required: No, one or two words (in alphabetical order) that the answer uses.
        forbidden: A word that the answer avoids, or None.
        tone: Whose adjectives the sentences use, or None for any.
        before: Two nouns; the answer mentions the first before the second. None for any order.
        last: The noun that the answer ends with, or None. A task has `before` or `last`, never
            both.
    """

    count: int
    topic: str
    required: tuple[str, ...] = ()
    forbidden: str | None = None
    tone: str | None = None
    before: tuple[str, str] | None = None
    last: str | None = None

    def __post_init__(self) -> None:
        """Refuse what the world does not have, so that every task can be rendered and read back."""
        if self.count not in COUNTS or self.topic not in TOPICS or self.tone not in (None, *TONES):
            raise ValueError(f"count, topic or tone is not of this world: {self}")
        nouns = NOUNS_OF_TOPIC[self.topic]
        if any(
            word not in nouns and word not in VERBS
            for word in (*self.required, self.forbidden or nouns[0])
        ):
            raise ValueError(
                f"required and forbidden words must be verbs or nouns of the topic: {self}"
            )
        if any(word not in nouns for word in (*(self.before or ()), self.last or nouns[0])):
            raise ValueError(f"ordered words must be nouns of the topic: {self}")
        if len(self.required) > 2 or any(a >= b for a, b in pairwise(self.required)):
            raise ValueError(f"at most two required words, in alphabetical order: {self}")
        if self.before is not None and self.last is not None:
            raise ValueError(f"a task orders two words or names the last one, not both: {self}")
        if len(set(self.named)) != len(self.named):
            raise ValueError(f"a word may be named once: {self}")

    @property
    def named(self) -> tuple[str, ...]:
        """Every content word that the prompt names."""
        single = tuple(word for word in (self.forbidden, self.last) if word is not None)
        return (*self.required, *single, *(self.before or ()))


def draw_task(rng: random.Random) -> Task:
    """A random task: count and topic always, each other constraint on its own two times out of three or so."""
    topic = rng.choice(TOPICS)
    nouns = rng.sample(NOUNS_OF_TOPIC[topic], 5)
    verbs = rng.sample(VERBS, 3)
    # Ordered words come first from the shuffled nouns, so that the other constraints never name the
    # same one.
    ordered = (nouns.pop(), nouns.pop())
    others = nouns + verbs
    rng.shuffle(others)
    order = rng.choices(("before", "last", None), weights=(3, 3, 2))[0]
    number_required = rng.choices((0, 1, 2), weights=(2, 4, 2))[0]
    return Task(
        count=rng.choice(COUNTS),
        topic=topic,
        required=tuple(sorted(others[:number_required])),
        forbidden=others[-1] if rng.random() < 0.6 else None,
        tone=rng.choice(TONES) if rng.random() < 0.75 else None,
        before=ordered if order == "before" else None,
        last=ordered[0] if order == "last" else None,
    )


def render(task: Task) -> str:
    """The prompt that asks for a task; there are over 10^8 tasks, and no two of them share a prompt."""
    clauses = [f"write {task.count} sentences about {task.topic}"]
    if task.required:
        clauses.append(
            f"use the word{'s' * (len(task.required) - 1)} {' and '.join(task.required)}"
        )
    if task.forbidden is not None:
        clauses.append(f"avoid the word {task.forbidden}")
    if task.tone is not None:
        clauses.append(f"be {task.tone}")
    if task.before is not None:
        clauses.append(f"mention {task.before[0]} before {task.before[1]}")
    if task.last is not None:
        clauses.append(f"end with the word {task.last}")
    return " . ".join(clauses) + " ."


_PROMPT = re.compile(
    r"write (?P<count>[0-9]) sentences about (?P<topic>[a-z]+)"
    r"(?: \. use the words? (?P<required>[a-z]+(?: and [a-z]+)?))?"
    r"(?: \. avoid the word (?P<forbidden>[a-z]+))?"
    r"(?: \. be (?P<tone>[a-z]+))?"
    r"(?: \. mention (?P<before>[a-z]+ before [a-z]+))?"
    r"(?: \. end with the word (?P<last>[a-z]+))? \."
)


def parse(prompt: str) -> Task:
    """The task that a prompt asks for; the inverse of `render`.

    Raises:
        ValueError: The text is not exactly a prompt of this world.
    """
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        raise ValueError(f"not a prompt of the playground's world: {prompt[:200]!r}")
    first, _, second = (match["before"] or "").partition(" before ")
    task = Task(
        count=int(match["count"]),
        topic=match["topic"],
        required=tuple(match["required"].split(" and ")) if match["required"] else (),
        forbidden=match["forbidden"],
        tone=match["tone"],
        before=(first, second) if second else None,
        last=match["last"],
    )
    if render(task) != prompt:
        raise ValueError(
            f"a prompt of the playground's world would read {render(task)!r}, not {prompt[:200]!r}"
        )
    return task


def split_of(prompt: str) -> Split:
    """The side of the split that a prompt is on: a fifth of all texts is "test", by the text's own hash.

    Nothing but the text decides, so no choice of seeds can put a prompt on both sides.
    """
    return (
        "test"
        if sha256(prompt.encode("utf-8", "surrogatepass")).digest()[0] < 256 // 5
        else "train"
    )


def draw_prompts(count: int, *, split: Split, seed: int) -> list[str]:
    """Distinct prompts of one split, the same for the same seed; a larger count only appends.

    Args:
        count: How many prompts.
        split: The side of the split that all of them are on.
        seed: Names the stream; different seeds may share a few prompts of the same split.
    """
    rng = random.Random(f"playground prompts {seed}")
    prompts: dict[str, None] = {}
    while len(prompts) < count:
        prompt = render(draw_task(rng))
        if split_of(prompt) == split:
            prompts.setdefault(prompt)
    return list(prompts)
