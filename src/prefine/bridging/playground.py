"""The playground's bridger: mends a rejected answer with sentences of the chosen one.

It sees the prompt and both answers and not the gold score. It reads the prompt as literally as a
careful person who knows no vocabulary: how many sentences, which words, in which order. Tones and
topics it cannot judge; there the rejected answer keeps its own words.
"""

from prefine.bridging.protocol import Revises
from prefine.errors import DataError
from prefine.models.capabilities import provides
from prefine.playground.tasks import Task, parse
from prefine.records import Completion, Prompt, content_hash

_VERSION = 1
"""Raise it when the same answers are rewritten differently."""


@provides(Revises)
class PlaygroundBridger:
    """Rewrites answers of the playground's world without a model, the same way every time.

    Sentences that the prompt rules out (with the forbidden word, unfinished, repeated, or too many)
    are taken out of the rejected answer, and what it lacks (required words, sentences, the asked
    end or order) is taken from the chosen one, sentence by sentence; all others stay.
    """

    label = "playground"
    concurrency = 1

    @property
    def fingerprint(self) -> str:
        """Hash of the version."""
        return content_hash("playground bridger", _VERSION)

    def check(self, prompt: Prompt) -> None:
        """Raise DataError for a prompt that is not of the playground."""
        try:
            parse(prompt.text)
        except ValueError as error:
            raise DataError(
                f"prompt {prompt.id}: {error}. The playground bridger knows no other prompts; name "
                "another bridge.model, or take prompts: {name: playground}"
            ) from error

    def revise(self, prompt: Prompt, chosen: Completion, rejected: Completion) -> str | None:
        """Return the rejected answer, mended with sentences of the chosen one; None: it is fine."""
        found = mended(parse(prompt.text), chosen.text, rejected.text)
        return None if found.split() == rejected.text.split() else found


def mended(task: Task, chosen: str, rejected: str) -> str:
    """Return the rejected text, mended with sentences of the chosen one where the task asks for it.

    Args:
        task: What the prompt asks for.
        chosen: The better text.
        rejected: The text to mend.
    """
    model = _finished(task, chosen)
    kept = _finished(task, rejected)
    for word in _needed(task):
        if not any(word in sentence for sentence in kept):
            kept = _with_word(task, word, kept, model)
    others = [sentence for sentence in model if sentence not in kept]
    while len(kept) < task.count and others:
        kept.append(others.pop(0))
    while len(kept) > task.count and (spare := _spare(task, kept)) is not None:
        del kept[spare]
    return " ".join(" ".join([*sentence, "."]) for sentence in _in_order(task, kept, model))


Sentence = tuple[str, ...]


def _finished(task: Task, text: str) -> list[Sentence]:
    """The finished sentences of a text, each once, without those that have the forbidden word."""
    sentences = [tuple(part.split()) for part in text.lower().split(".")[:-1]]
    distinct = dict.fromkeys(sentence for sentence in sentences if sentence)
    return [sentence for sentence in distinct if task.forbidden not in sentence]


def _needed(task: Task) -> tuple[str, ...]:
    """The words that an answer has to use."""
    ordered = task.before or ((task.last,) if task.last is not None else ())
    return (*task.required, *ordered)


def _with_word(
    task: Task, word: str, kept: list[Sentence], model: list[Sentence]
) -> list[Sentence]:
    """The sentences with the model's one that has a missing word, in place of a spare one."""
    found = next((sentence for sentence in model if word in sentence), None)
    if found is None:
        return kept
    spare = _spare(task, kept) if len(kept) >= task.count else None
    if spare is None:
        return [*kept, found]
    return [*kept[:spare], found, *kept[spare + 1 :]]


def _spare(task: Task, kept: list[Sentence]) -> int | None:
    """The last sentence that has no needed word of its own; None if all are needed."""
    for place in reversed(range(len(kept))):
        rest = [word for other, s in enumerate(kept) if other != place for word in s]
        if all(word in rest for word in _needed(task) if word in kept[place]):
            return place
    return None


def _in_order(task: Task, kept: list[Sentence], model: list[Sentence]) -> list[Sentence]:
    """The sentences in the order that the prompt asks for, as far as moving whole ones does it."""
    if task.last is not None:
        ends = [sentence for sentence in kept if sentence[-1] == task.last]
        ends = ends or [sentence for sentence in model if sentence[-1] == task.last]
        if ends:
            rest = [sentence for sentence in kept if sentence != ends[-1]]
            if len(rest) >= task.count and (spare := _spare(task, rest)) is not None:
                del rest[spare]
            return [*rest, ends[-1]]
    if task.before is not None:
        first, second = task.before
        with_first = [sentence for sentence in kept if first in sentence]
        words = [word for sentence in kept for word in sentence]
        if with_first and second in words and words.index(second) < words.index(first):
            return [with_first[0], *(s for s in kept if s != with_first[0])]
    return kept
