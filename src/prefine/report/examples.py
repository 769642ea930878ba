"""The examples of the page: which are shown, by a fixed rule, and which words have changed."""

import random
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from prefine.losses.token_diff import Differences, difference_marks
from prefine.report.data import AnswerExample

T = TypeVar("T")
WIN, LOSS = "largest win", "largest loss"
DISAGREEMENT, RANDOM = "judge against gold", "random"

# Of longer texts, or of texts that share less, marks would say nothing.
MOST_WORDS, _FEWEST_SHARED = 2_000, 0.4
WORD = re.compile(r"\s+|\w+|[^\w\s]")


def choose_examples(
    outcomes: Sequence[AnswerExample], count: int, *, seed: int
) -> tuple[AnswerExample, ...]:
    """Return `count` examples with the reason of each, the reasons taking turns.

    The largest wins and losses are by gold where there is gold, else by the judge; of equal ones
    the judge's P decides, then the id. Judge against gold: the judge prefers one answer, gold the
    other, the surest judge first. Random: of the rest, by the seed.
    """
    known = [one for one in outcomes if _gain(one) is not None]
    shuffled = list(outcomes)
    random.Random(seed).shuffle(shuffled)
    queues: dict[str, list[AnswerExample]] = {
        WIN: _ordered((one for one in known if (_gain(one) or 0) > 0), lambda one: -_strength(one)),
        LOSS: _ordered((one for one in known if (_gain(one) or 0) < 0), _strength),
        DISAGREEMENT: _ordered(
            (one for one in outcomes if _disagree(one)), lambda one: -abs(_lean(one))
        ),
        RANDOM: shuffled,
    }
    return tuple(
        one.model_copy(update={"why": reason}) for one, reason in take_turns(queues, count, key=id)
    )


def take_turns(
    queues: Mapping[str, Sequence[T]], count: int, *, key: Callable[[T], Hashable]
) -> list[tuple[T, str]]:
    """Return `count` of the queued with the name of their queue, the queues taking turns.

    Nothing is taken twice, by its key. What one queue gave stands together.
    """
    chosen: dict[str, list[T]] = {name: [] for name in queues}
    taken: set[Hashable] = set()
    whole = {key(one) for queue in queues.values() for one in queue}
    while len(taken) < min(count, len(whole)):
        for name, queue in queues.items():
            one = next((one for one in queue if key(one) not in taken), None)
            if one is not None and len(taken) < count:
                taken.add(key(one))
                chosen[name].append(one)
    return [(one, name) for name, found in chosen.items() for one in found]


def _ordered(
    found: Iterable[AnswerExample], size: Callable[[AnswerExample], float]
) -> list[AnswerExample]:
    return sorted(found, key=lambda one: (size(one), one.prompt_id, one.prompt))


def _gold_gain(one: AnswerExample) -> float | None:
    if not one.gold_before or not one.gold_after:
        return None
    return fmean(one.gold_after.values()) - fmean(one.gold_before.values())


def _lean(one: AnswerExample) -> float:
    return 0.0 if one.p_after is None else one.p_after - 0.5


def _gain(one: AnswerExample) -> float | None:
    gold = _gold_gain(one)
    return gold if gold is not None else None if one.p_after is None else _lean(one)


def _strength(one: AnswerExample) -> float:
    """The gain; of equal ones, the judge decides."""
    return round(_gain(one) or 0.0, 6) + 1e-7 * _lean(one)


def _disagree(one: AnswerExample) -> bool:
    gold = _gold_gain(one)
    return gold is not None and round(gold, 6) * _lean(one) < 0


def changed_words(
    before: str, after: str, *, differences: Differences = "difflib"
) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Return both texts in pieces, each True where the other text does not have the same words.

    Nothing is marked in long texts and in texts that share few words. "levenshtein" takes the same
    time for texts of one length, "difflib" much longer where words are repeated and few are in
    their place.
    """
    sides = WORD.findall(before), WORD.findall(after)
    numbers: dict[str, int] = {}
    ids = [[numbers.setdefault(word, len(numbers)) for word in words] for words in sides]
    if not all(sides) or max(map(len, sides)) > MOST_WORDS:
        return _whole(before), _whole(after)
    marks = difference_marks(ids[1], ids[0], differences=differences)[::-1]
    shared = sum(
        not mark and not word.isspace() for word, mark in zip(sides[0], marks[0], strict=True)
    )
    least = min(sum(not word.isspace() for word in words) for words in sides)
    if shared < _FEWEST_SHARED * least:
        return _whole(before), _whole(after)
    old, new = (_pieces(words, marked) for words, marked in zip(sides, marks, strict=True))
    return old, new


def _whole(text: str) -> list[tuple[str, bool]]:
    return [(text, False)]


def _pieces(words: Sequence[str], marks: Sequence[int]) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    for word, mark in zip(words, marks, strict=True):
        if found and found[-1][1] == bool(mark):
            found[-1] = (found[-1][0] + word, bool(mark))
        else:
            found.append((word, bool(mark)))
    return found
