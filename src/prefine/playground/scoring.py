"""The gold score: how well a text meets the constraints of a prompt, computed without a model."""

import re
from statistics import fmean

from prefine.playground.tasks import Task, parse
from prefine.playground.vocabulary import TONE_OF_ADJECTIVE, TOPIC_OF_NOUN, is_grammatical

Sentence = tuple[str, ...]

_TOKEN = re.compile(r"\w+|[^\w\s]")


def gold_parts(prompt: str, text: str) -> dict[str, float]:
    """Return how well any text meets each constraint of a prompt, in [0, 1].

    Sentences end at a period; words after the last period are one more, unfinished, sentence. Case
    is ignored.

    - `count` (always): 1 for the asked number of sentences, 0.5 for one off, 0 beyond; a repeated
      sentence is one off.
    - `topic` (always): share of sentences that have a noun of the topic and none of another topic.
    - `required`: mean over the required words of 1 / mentions, and 0 for a missing one: used, not
      hammered.
    - `forbidden`: 1 if the forbidden word is absent.
    - `tone`: share of sentences that have an adjective of the tone and none of another tone.
    - `order`: 1 if both words appear, the first one first; or if the text ends with the asked word
      and a period.
    - `form` (always): share of sentences that are finished, grammatical, say no content word twice
      and are new.

    All parts of a text without a word are 0.

    Args:
        prompt: A prompt of this world.
        text: Any text.

    Returns: Part name to value, only the constraints that the prompt has, always in the order
        above.

    Raises:
        ValueError: The prompt is not of this world.
    """
    task = parse(prompt)
    sentences, unfinished = _sentences(text)
    words = [word for sentence in sentences for word in sentence]
    if not any(word.isalnum() for word in words):
        return dict.fromkeys(parts_of(task), 0.0)
    parts = {
        "count": _count(task, sentences),
        "topic": fmean(_is_about(task.topic, sentence) for sentence in sentences),
        "required": fmean(
            [1 / words.count(w) if w in words else 0.0 for w in task.required] or [0]
        ),
        "forbidden": float(task.forbidden not in words),
        "tone": fmean(_has_tone(task.tone, sentence) for sentence in sentences),
        "order": float(_is_ordered(task, words, unfinished)),
        "form": _form(sentences, unfinished),
    }
    return {name: parts[name] for name in parts_of(task)}


def gold(prompt: str, text: str) -> float:
    """Return the gold score of a text, in [0, 1]: the mean of its `gold_parts`."""
    return fmean(gold_parts(prompt, text).values())


def parts_of(task: Task) -> tuple[str, ...]:
    """Return the names of the parts that a task is scored on, in the order of `gold_parts`."""
    asked = {
        "count": True,
        "topic": True,
        "required": task.required,
        "forbidden": task.forbidden,
        "tone": task.tone,
        "order": task.before or task.last,
        "form": True,
    }
    return tuple(name for name, constraint in asked.items() if constraint)


def _sentences(text: str) -> tuple[list[Sentence], bool]:
    """Return the sentences in lower case without their periods; true if the last one lacks its."""
    tokens = _TOKEN.findall(text.lower())
    sentences: list[Sentence] = []
    start = 0
    for place, token in enumerate(tokens):
        if token == ".":
            sentences.append(tuple(tokens[start:place]))
            start = place + 1
    unfinished = start < len(tokens)
    if unfinished:
        sentences.append(tuple(tokens[start:]))
    return sentences, unfinished


def _count(task: Task, sentences: list[Sentence]) -> float:
    # A repeated sentence counts as one off: it must never make up for a missing one.
    repeated = len(sentences) - len(set(sentences))
    return max(0.0, 1.0 - (abs(len(sentences) - task.count) + repeated) / 2)


def _is_about(topic: str, sentence: Sentence) -> bool:
    return {TOPIC_OF_NOUN[word] for word in sentence if word in TOPIC_OF_NOUN} == {topic}


def _has_tone(tone: str | None, sentence: Sentence) -> bool:
    return {TONE_OF_ADJECTIVE[word] for word in sentence if word in TONE_OF_ADJECTIVE} == {tone}


def _is_ordered(task: Task, words: list[str], unfinished: bool) -> bool:
    if task.before is not None:
        first, second = task.before
        return first in words and second in words and words.index(first) < words.index(second)
    return words[-1] == task.last and not unfinished


def _form(sentences: list[Sentence], unfinished: bool) -> float:
    finished = sentences[:-1] if unfinished else sentences
    return len(set(filter(is_grammatical, finished))) / len(sentences)
