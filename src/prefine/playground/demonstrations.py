"""Imperfect answers to the playground's prompts: what the embedded model is trained on."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

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

FLAW_RATES: Mapping[str, float] = MappingProxyType(
    {
        "count": 0.65,
        "topic": 0.65,
        "required": 0.55,
        "forbidden": 0.5,
        "tone": 0.65,
        "order": 0.55,
        "form": 0.35,
    }
)
"""How often a demonstration violates each constraint, on average over careful and careless answers.

A model trained on such answers has seen each constraint both kept and broken, so its samples of one
prompt differ in quality and preference training has something to sharpen.
"""

CARE = (0.5, 1.5)
"""Each demonstration is careful or careless with even odds: all its flaw rates are multiplied by one of these.

Given the care, the violations are independent of each other.
"""

_SENTENCE_FLAW_RATE = 0.75
"""Where topic or tone is violated, the share of sentences that are off: some answers are half right."""

Slot = tuple[int, int]
"""Sentence, position in it."""


@dataclass
class _Draft:
    """An answer in the making: shapes of word classes, and the words that are already in place."""

    shapes: list[str]
    words: dict[Slot, str] = field(default_factory=dict)

    def free(self, word_class: str) -> list[Slot]:
        """The empty slots of a word class, in reading order."""
        slots = [
            (i, j)
            for i, shape in enumerate(self.shapes)
            for j, letter in enumerate(shape)
            if letter == word_class
        ]
        return [slot for slot in slots if slot not in self.words]

    def place(self, word: str) -> None:
        """Put a word into the first empty slot of its class, duty first; a full draft stays as it is."""
        if slots := self.free(WORD_CLASS[word]):
            self.words[slots[0]] = word


def demonstrate(
    task: Task, rng: random.Random, *, flaw_rates: Mapping[str, float] = FLAW_RATES
) -> str:
    """An answer to a task that breaks each of its constraints at the given rates, more or less by its care.

    Args:
        task: What is asked.
        rng: Source of all choices.
        flaw_rates: Mean probability of breaking each part of the gold score; all 0 gives perfect
            answers.

    Returns: Sentences of the world, separated by spaces.
    """
    care = rng.choice(CARE)
    flaws = frozenset(part for part in parts_of(task) if rng.random() < care * flaw_rates[part])
    sentences = _write(task, flaws, rng)
    # Repetition is a flaw of form: one that happened by chance would make the rates depend on each
    # other.
    while len({tuple(sentence) for sentence in sentences}) < len(sentences):
        sentences = _write(task, flaws, rng)
    if "form" in flaws:
        _spoil_form(sentences, task, rng)
    return " ".join(" ".join([*sentence, "."]) for sentence in sentences)


def _write(task: Task, flaws: frozenset[str], rng: random.Random) -> list[list[str]]:
    """Grammatical sentences with every flaw but that of form: the named words first, then the rest around them."""
    draft = _Draft(_draw_shapes(task, flaws, rng))
    if task.last is not None:
        _place_last(draft, task.last, flaws, rng)
    _place_required(draft, task, flaws, rng)
    if task.before is not None:
        _place_before(draft, task.before, flaws, rng)
    if task.forbidden is not None and "forbidden" in flaws:
        draft.place(task.forbidden)
    _fill_nouns(draft, task, flaws, rng)
    _fill_adjectives(draft, task, flaws, rng)
    verbs = [verb for verb in VERBS if verb not in task.named]
    for slot in draft.free("V"):
        draft.words[slot] = rng.choice(verbs)
    # One determiner, though the grammar has two: the choice would be noise that no constraint
    # depends on.
    for slot in draft.free("D"):
        draft.words[slot] = DETERMINERS[0]
    for slot in draft.free("I"):
        draft.words[slot] = "is"
    return [[draft.words[i, j] for j in range(len(shape))] for i, shape in enumerate(draft.shapes)]


def _draw_shapes(task: Task, flaws: frozenset[str], rng: random.Random) -> list[str]:
    """The shapes of the sentences, as many as asked unless that is a flaw, with room for every named word."""
    off = rng.choices((-1, 1, 2), weights=(5, 4, 1))[0] if "count" in flaws else 0
    shapes = [rng.choice(SHAPES) for _ in range(task.count + off)]
    room, named = "".join(shapes), "".join(WORD_CLASS[word] for word in task.named)
    if room.count("N") <= named.count("N") or room.count("V") < named.count("V"):
        shapes = [rng.choice(ROOMY_SHAPES) for _ in shapes]
    return shapes


def _place_last(draft: _Draft, last: str, flaws: frozenset[str], rng: random.Random) -> None:
    """End the draft with a word; the flaws are that it comes elsewhere, or not at all."""
    if "order" not in flaws:
        draft.shapes[-1] = rng.choice(ROOMY_SHAPES)
        draft.words[len(draft.shapes) - 1, len(draft.shapes[-1]) - 1] = last
    elif rng.random() < 0.5:
        draft.place(last)


def _place_required(draft: _Draft, task: Task, flaws: frozenset[str], rng: random.Random) -> None:
    """Place the required words once each; a flawed answer leaves a word out or says it twice."""
    for word in task.required:
        mentions = rng.choice((0, 0, 2)) if "required" in flaws else 1
        for _ in range(mentions):
            draft.place(word)


def _place_before(
    draft: _Draft, before: tuple[str, str], flaws: frozenset[str], rng: random.Random
) -> None:
    """Place two words in order; the flaws are a swap, which is half of them, and a missing word."""
    first, second = before
    wrong = ((second, first), (second, first), (first,), (second,))
    for word in rng.choice(wrong) if "order" in flaws else before:
        draft.place(word)


def _fill_nouns(draft: _Draft, task: Task, flaws: frozenset[str], rng: random.Random) -> None:
    """Fill the other nouns from the topic, the least used first; where the topic is a flaw, one of them is foreign."""
    used = dict.fromkeys((noun for noun in NOUNS_OF_TOPIC[task.topic] if noun not in task.named), 0)
    foreign = [noun for noun, topic in TOPIC_OF_NOUN.items() if topic != task.topic]
    for sentence in range(len(draft.shapes)):
        slots = [slot for slot in draft.free("N") if slot[0] == sentence]
        is_off = "topic" in flaws and rng.random() < _SENTENCE_FLAW_RATE
        for slot, noun in zip(
            slots, sorted(used, key=lambda noun: (used[noun], rng.random())), strict=False
        ):
            draft.words[slot] = noun
            used[noun] += 1
        if is_off and slots:
            draft.words[rng.choice(slots)] = rng.choice(foreign)


def _fill_adjectives(draft: _Draft, task: Task, flaws: frozenset[str], rng: random.Random) -> None:
    every = (*TONE_OF_ADJECTIVE, *NEUTRAL_ADJECTIVES)
    for slot in draft.free("A"):
        if task.tone is None:
            draft.words[slot] = rng.choice(every)
        elif "tone" in flaws and rng.random() < _SENTENCE_FLAW_RATE:
            draft.words[slot] = rng.choice(
                [word for word in every if TONE_OF_ADJECTIVE.get(word) != task.tone]
            )
        else:
            draft.words[slot] = rng.choice(ADJECTIVES_OF_TONE[task.tone])


def _spoil_form(sentences: list[list[str]], task: Task, rng: random.Random) -> None:
    """Break the form of one sentence: say an earlier one again, lose a determiner, or say a word twice."""
    target = rng.randrange(len(sentences))
    kind = rng.choice(("repeat", "lose", "double"))
    if kind == "repeat" and target > 0 and not set(sentences[target]) & set(task.named):
        sentences[target] = list(sentences[rng.randrange(target)])
    elif kind == "lose":
        del sentences[target][0]
    else:
        position = rng.randrange(1, len(sentences[target]))
        sentences[target].insert(position, sentences[target][position])
