"""The tasks of the playground's world: drawn, written as prompts, parsed and split."""

import random
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from prefine.playground.vocabulary import NOUNS_OF_TOPIC, TONES, TOPICS, VERBS

Split = Literal["train", "test"]

COUNTS = (2, 3, 4)


@dataclass(frozen=True)
class Task:
    """The constraints of one prompt; every word in them is a noun of the topic or a verb, once.

    Attributes:
        count: Number of sentences, one of `COUNTS`.
        topic: The sentences use nouns of this topic.
        required: Up to two words, in alphabetical order, that the answer uses.
        forbidden: A word that the answer avoids, or None.
        tone: The sentences use adjectives of this tone, or any if None.
        before: Two nouns of which the answer mentions the first before the second, or None.
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
        """Raise ValueError for a task that could not be rendered and parsed again."""
        if self.count not in COUNTS or self.topic not in TOPICS or self.tone not in (None, *TONES):
            raise ValueError(f"count, topic or tone is not of this world: {self}")
        nouns = set(NOUNS_OF_TOPIC[self.topic])
        ordered = {*(self.before or ()), *([self.last] if self.last else [])}
        if not ordered <= nouns:
            raise ValueError(f"ordered words must be nouns of the topic: {self}")
        if not set(self.named) - ordered <= nouns | set(VERBS):
            raise ValueError(
                f"required and forbidden words must be verbs or nouns of the topic: {self}"
            )
        if len(self.required) > 2 or list(self.required) != sorted(set(self.required)):
            raise ValueError(f"at most two required words, in alphabetical order: {self}")
        if self.before is not None and self.last is not None:
            raise ValueError(f"a task orders two words or names the last one, not both: {self}")
        if len(set(self.named)) != len(self.named):
            raise ValueError(f"a word may be named once: {self}")

    @property
    def named(self) -> tuple[str, ...]:
        """All content words of the prompt."""
        single = tuple(word for word in (self.forbidden, self.last) if word is not None)
        return (*self.required, *single, *(self.before or ()))


def draw_task(rng: random.Random) -> Task:
    """Return a random task: count, topic, and each other constraint at about two in three."""
    topic = rng.choice(TOPICS)
    nouns = rng.sample(NOUNS_OF_TOPIC[topic], 5)
    verbs = rng.sample(VERBS, 3)
    # The ordered words are taken out, so that no other constraint names them.
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
    """Return the prompt of a task; each of the more than 10^8 tasks has its own."""
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
    """Return the task of a prompt; the inverse of `render`.

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
    """Return the split of a prompt: "test" for a fifth of all texts, by the hash of the text.

    No choice of seeds can put a prompt into both splits.
    """
    digest = sha256(prompt.encode("utf-8", "surrogatepass")).digest()
    return "test" if digest[0] < 256 // 5 else "train"


def draw_prompts(count: int, *, split: Split, seed: int) -> list[str]:
    """Return distinct prompts of one split, the same for the same seed; a larger count appends.

    Prompts of different seeds may overlap.
    """
    rng = random.Random(f"playground prompts {seed}")
    prompts: dict[str, None] = {}
    while len(prompts) < count:
        prompt = render(draw_task(rng))
        if split_of(prompt) == split:
            prompts.setdefault(prompt)
    return list(prompts)
