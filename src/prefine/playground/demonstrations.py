"""Imperfect answers to the playground's prompts, on which the embedded model is trained."""

import random
from collections.abc import Mapping

from prefine.playground.scoring import parts_of
from prefine.playground.tasks import Task
from prefine.playground.vocabulary import (
    ADJECTIVES_OF_TONE,
    DETERMINERS,
    NEUTRAL_ADJECTIVES,
    NOUNS_OF_TOPIC,
    ROOMY_SHAPES,
    SHAPES,
    TONE_OF_ADJECTIVE,
    TOPIC_OF_NOUN,
    VERBS,
    WORD_CLASS,
)

FLAW_RATES: Mapping[str, float] = {
    "count": 0.65,
    "topic": 0.65,
    "required": 0.55,
    "forbidden": 0.5,
    "tone": 0.65,
    "order": 0.55,
    "form": 0.35,
}
"""The mean rate at which demonstrations violate each constraint.

A model trained on them has seen each constraint both kept and broken, so its samples of one prompt
differ in quality and preference training has something to improve.
"""

CARE = (0.5, 1.5)
"""The flaw rates of a demonstration are all multiplied by one of these, with even odds.

Given this factor, the violations are independent of each other.
"""

_SENTENCE_FLAW_RATE = 0.75
"""The share of sentences that violate topic or tone if the answer does: some are half right."""

Slot = tuple[int, int]
"""A sentence and a position in it."""


def demonstrate(
    task: Task, rng: random.Random, *, flaw_rates: Mapping[str, float] = FLAW_RATES
) -> str:
    """Return an answer to a task, sentences separated by spaces, that breaks constraints at random.

    Args:
        task: The constraints.
        rng: Source of all choices.
        flaw_rates: Mean probability of breaking each part of the gold score; all 0 gives perfect
            answers.
    """
    care = rng.choice(CARE)
    flaws = frozenset(part for part in parts_of(task) if rng.random() < care * flaw_rates[part])
    sentences = _Draft(task, flaws, rng).sentences()
    # A sentence repeated by chance is a flaw of form, which would make the rates dependent.
    while len({tuple(sentence) for sentence in sentences}) < len(sentences):
        sentences = _Draft(task, flaws, rng).sentences()
    if "form" in flaws:
        _spoil_form(sentences, task, rng)
    return " ".join(" ".join([*sentence, "."]) for sentence in sentences)


class _Draft:
    """An answer in the making: the shapes of its sentences, and the words already in place.

    It has every flaw but that of form.
    """

    def __init__(self, task: Task, flaws: frozenset[str], rng: random.Random) -> None:
        self._task, self._flaws, self._rng = task, flaws, rng
        self._shapes = self._draw_shapes()
        self._words: dict[Slot, str] = {}

    def sentences(self) -> list[list[str]]:
        """Return grammatical sentences: place the words that the task names, then the others."""
        self._place_last()
        self._place_required()
        self._place_before()
        if self._task.forbidden is not None and "forbidden" in self._flaws:
            self._place(self._task.forbidden)
        self._fill_nouns()
        self._fill_adjectives()
        verbs = [verb for verb in VERBS if verb not in self._task.named]
        for slot in self._free("V"):
            self._words[slot] = self._rng.choice(verbs)
        # One of the two determiners only: no constraint depends on them, a choice would be noise.
        for slot in self._free("D"):
            self._words[slot] = DETERMINERS[0]
        for slot in self._free("I"):
            self._words[slot] = "is"
        return [
            [self._words[i, j] for j in range(len(shape))] for i, shape in enumerate(self._shapes)
        ]

    def _draw_shapes(self) -> list[str]:
        """Return shapes with room for every named word, in the number asked for or a flawed one."""
        off = 0
        if "count" in self._flaws:
            off = self._rng.choices((-1, 1, 2), weights=(5, 4, 1))[0]
        shapes = [self._rng.choice(SHAPES) for _ in range(self._task.count + off)]
        room = "".join(shapes)
        named = "".join(WORD_CLASS[word] for word in self._task.named)
        if room.count("N") <= named.count("N") or room.count("V") < named.count("V"):
            shapes = [self._rng.choice(ROOMY_SHAPES) for _ in shapes]
        return shapes

    def _free(self, word_class: str) -> list[Slot]:
        """Return the empty slots of a word class, in reading order."""
        return [
            (i, j)
            for i, shape in enumerate(self._shapes)
            for j, letter in enumerate(shape)
            if letter == word_class and (i, j) not in self._words
        ]

    def _place(self, word: str) -> None:
        """Put a word into the first empty slot of its class, if there is one."""
        if slots := self._free(WORD_CLASS[word]):
            self._words[slots[0]] = word

    def _place_last(self) -> None:
        """End with the word `last`; the flaw is that it comes elsewhere, or not at all."""
        last = self._task.last
        if last is None:
            return
        if "order" not in self._flaws:
            self._shapes[-1] = self._rng.choice(ROOMY_SHAPES)
            self._words[len(self._shapes) - 1, len(self._shapes[-1]) - 1] = last
        elif self._rng.random() < 0.5:
            self._place(last)

    def _place_required(self) -> None:
        """Place each required word once; the flaw is to leave one out or to say it twice."""
        for word in self._task.required:
            mentions = self._rng.choice((0, 0, 2)) if "required" in self._flaws else 1
            for _ in range(mentions):
                self._place(word)

    def _place_before(self) -> None:
        """Place two words in order; the flaw is a swap, in half of the cases, or a missing word."""
        if self._task.before is None:
            return
        words: tuple[str, ...] = self._task.before
        if "order" in self._flaws:
            first, second = words
            words = self._rng.choice(((second, first), (second, first), (first,), (second,)))
        for word in words:
            self._place(word)

    def _fill_nouns(self) -> None:
        """Fill in nouns of the topic, the least used first; the flaw is one from another topic."""
        topic, named = self._task.topic, self._task.named
        used = dict.fromkeys((noun for noun in NOUNS_OF_TOPIC[topic] if noun not in named), 0)
        foreign = [noun for noun, other in TOPIC_OF_NOUN.items() if other != topic]
        for sentence in range(len(self._shapes)):
            slots = [slot for slot in self._free("N") if slot[0] == sentence]
            is_off = self._is_off("topic")
            least_used = sorted(used, key=lambda noun: (used[noun], self._rng.random()))
            for slot, noun in zip(slots, least_used, strict=False):
                self._words[slot] = noun
                used[noun] += 1
            if is_off and slots:
                self._words[self._rng.choice(slots)] = self._rng.choice(foreign)

    def _fill_adjectives(self) -> None:
        tone, every = self._task.tone, (*TONE_OF_ADJECTIVE, *NEUTRAL_ADJECTIVES)
        for slot in self._free("A"):
            words = every if tone is None else ADJECTIVES_OF_TONE[tone]
            if self._is_off("tone"):
                words = tuple(word for word in every if TONE_OF_ADJECTIVE.get(word) != tone)
            self._words[slot] = self._rng.choice(words)

    def _is_off(self, part: str) -> bool:
        return part in self._flaws and self._rng.random() < _SENTENCE_FLAW_RATE


def _spoil_form(sentences: list[list[str]], task: Task, rng: random.Random) -> None:
    """Break the form of one sentence: repeat an earlier one, drop a determiner or double a word."""
    target = rng.randrange(len(sentences))
    kind = rng.choice(("repeat", "lose", "double"))
    if kind == "repeat" and target > 0 and not set(sentences[target]) & set(task.named):
        sentences[target] = list(sentences[rng.randrange(target)])
    elif kind == "lose":
        del sentences[target][0]
    else:
        position = rng.randrange(1, len(sentences[target]))
        sentences[target].insert(position, sentences[target][position])
