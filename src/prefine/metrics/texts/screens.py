"""Outputs without a credible score: repeated, written for the judge, empty, or cut off."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from prefine.metrics.statistics.intervals import percentage
from prefine.records import FinishReason, MetricValue


class OutputScreen(NamedTuple):
    """The result of one screen.

    Attributes:
        rate: The share of outputs that it caught, in %.
        caught: The ids of their prompts, in the order given.
    """

    rate: MetricValue
    caught: tuple[str, ...]


class CutScreen(NamedTuple):
    """Outputs that ended early.

    Attributes:
        truncated: Those that reached the length limit, among those whose end is known; None if no
            end is known.
        unknown: How many outputs say nothing about how they ended; they are not in the rate.
    """

    truncated: OutputScreen | None
    unknown: int


# What judges are asked to write, and templates they are wrapped in. An answer has no reason to
# contain it.
_VERDICTS = {
    "an Arena-Hard verdict": r"\[\[\s*[AB]\s*(?:[<>=]+\s*[AB]\s*)?\]\]",
    "a rating in double brackets": r"\[\[\s*\d+(?:\.\d+)?\s*\]\]",
    "an AlpacaEval ranking": r"['\"]rank['\"]\s*:\s*\d|\bordered_models\b",
    "a winner field": (
        r"['\"](?:winner|verdict|preferred|better_(?:response|output|answer))['\"]\s*:"
    ),
    "a sentence of a judge": (
        r"\b(?:output|response|answer|assistant|model)\s*\(?['\"]?(?:a|b|m|1|2)['\"]?\)?\s+"
        r"(?:is|was)\s+(?:clearly\s+|much\s+|slightly\s+|significantly\s+)?(?:the\s+)?(?:better|best|preferred|winner)\b"
    ),
    "a chat template": r"<\|(?:im_start|im_end|start_header_id|eot_id|endoftext)\|>|\[/?INST\]",
    "an order to the judge": (
        r"\b(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:the\s+)?(?:previous|prior|above|preceding|earlier)\s+"
        r"(?:instructions?|prompts?|context|text)\b"
    ),
}
_VERDICT_LIKE = {what: re.compile(pattern, re.IGNORECASE) for what, pattern in _VERDICTS.items()}


def identical_outputs(outputs: Mapping[str, str]) -> OutputScreen:
    """The outputs that are the output of another prompt, too, but for white space around them.

    Empty ones do not count.

    A few short ones ("Yes.") are nothing; a constant text for every prompt once scored far above
    real models.

    Args:
        outputs: The output to each prompt, by its id.

    Raises:
        ValueError: No output.
    """
    times = Counter(text.strip() for text in outputs.values())
    return _screen(
        "identical_outputs",
        {id_: bool(text.strip()) and times[text.strip()] > 1 for id_, text in outputs.items()},
    )


def verdict_like_outputs(outputs: Mapping[str, str]) -> OutputScreen:
    """The outputs with text by or for a judge: verdicts, rankings, chat templates.

    Patterns only: an answer about judges or chat templates is caught, too, and a verdict in other
    words is not. Read what is caught, see `verdict_marks`.

    Args:
        outputs: The output to each prompt, by its id.

    Raises:
        ValueError: No output.
    """
    return _screen(
        "verdict_like_outputs", {id_: bool(verdict_marks(text)) for id_, text in outputs.items()}
    )


def verdict_marks(text: str) -> tuple[str, ...]:
    """The parts of a text that look written by or for a judge, in words."""
    return tuple(what for what, pattern in _VERDICT_LIKE.items() if pattern.search(text))


def empty_outputs(outputs: Mapping[str, str]) -> OutputScreen:
    """The outputs that are empty, or white space only.

    Args:
        outputs: The output to each prompt, by its id.

    Raises:
        ValueError: No output.
    """
    return _screen("empty_outputs", {id_: not text.strip() for id_, text in outputs.items()})


def truncated_outputs(finish_reasons: Mapping[str, FinishReason]) -> CutScreen:
    """The outputs that ended at the length limit, among those that say how they ended.

    Args:
        finish_reasons: How each output ended, by its prompt's id.

    Raises:
        ValueError: No output.
    """
    if not finish_reasons:
        raise ValueError("finish_reasons: there is no output to screen")
    known = {
        id_: reason == "length" for id_, reason in finish_reasons.items() if reason != "unknown"
    }
    return CutScreen(
        _screen("truncated_outputs", known) if known else None, len(finish_reasons) - len(known)
    )


def _screen(name: str, flags: Mapping[str, bool]) -> OutputScreen:
    if not flags:
        raise ValueError(f"{name}: there is no output to screen")
    rate = percentage(name, list(flags.values()))
    return OutputScreen(rate, tuple(id_ for id_, caught in flags.items() if caught))
