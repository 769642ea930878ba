"""The gold score: how much of what a prompt asked for a text does, computed without a model."""

import re
from statistics import fmean

from prefine.playground.tasks import Task, parse
from prefine.playground.vocabulary import TONE_OF_ADJECTIVE, TOPIC_OF_NOUN, is_grammatical

Sentence = tuple[str, ...]

_TOKEN = re.compile(r"\w+|[^\w\s]")


def gold_parts(prompt: str, text: str) -> dict[str, float]:
    """How well a text does each thing that a prompt asked for, in [0, 1]; never raises on any text.

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

    A text without a word does nothing that was asked: all its parts are 0.

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
    if not any(word.isalnum() for sentence in sentences for word in sentence):
        return dict.fromkeys(parts_of(task), 0.0)
    words = [word for sentence in sentences for word in sentence]
    parts = {
        "count": _count(task, sentences),
        "topic": fmean(_is_about(task.topic, sentence) for sentence in sentences),
        "required": fmean(1 / max(1, words.count(w)) * (w in words) for w in task.required)
        if task.required
        else 0.0,
        "forbidden": float(task.forbidden not in words),
        "tone": fmean(_has_tone(task.tone, sentence) for sentence in sentences),
        "order": float(_is_ordered(task, words, unfinished)),
        "form": _form(sentences, unfinished),
    }
    return {name: parts[name] for name in parts_of(task)}


def gold(prompt: str, text: str) -> float:
    """The gold score of a text, in [0, 1]: the plain mean of its `gold_parts`."""
    return fmean(gold_parts(prompt, text).values())


def parts_of(task: Task) -> tuple[str, ...]:
    """The names of the parts that a task is scored on, in the order of `gold_parts`."""
    asked = {
        "count": True,
        "topic": True,
        "required": bool(task.required),
        "forbidden": task.forbidden is not None,
        "tone": task.tone is not None,
        "order": task.before is not None or task.last is not None,
        "form": True,
    }
    return tuple(name for name, is_asked in asked.items() if is_asked)


def _sentences(text: str) -> tuple[list[Sentence], bool]:
    """The sentences of a text in lower case without their periods, and whether the last one lacks its period."""
    sentences: list[Sentence] = []
    words: list[str] = []
    for token in _TOKEN.findall(text.lower()):
        if token == ".":
            sentences.append(tuple(words))
            words = []
        else:
            words.append(token)
    if words:
        sentences.append(tuple(words))
    return sentences, bool(words)


def _count(task: Task, sentences: list[Sentence]) -> float:
    # A repetition is one off by itself: saying a sentence again must never pay for a missing one.
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
    good = {
        sentence
        for sentence in (sentences[:-1] if unfinished else sentences)
        if is_grammatical(sentence)
    }
    return len(good) / len(sentences)
