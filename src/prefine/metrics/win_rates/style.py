"""Style of answers: counts of Markdown, and differences between two answers."""

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.values import Array

STYLE_FEATURES = ("length", "headers", "lists", "bolds")
"""The columns of `style_features`."""

_FENCE = re.compile(r"```([^`]*)```")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
# The published patterns begin with ^\s*, which takes time quadratic in the number of blank lines.
# The marker's own line begins with ^, too, so this finds the same ones.
_LISTS = (
    re.compile(r"^[^\S\n]*\d+\.\s", re.MULTILINE),
    re.compile(r"^[^\S\n]*[-*+]\s", re.MULTILINE),
)
_BOLDS = (re.compile(r"\*\*[^*\n]+\*\*"), re.compile(r"__[^_\n]+__"))


class MarkdownCounts(NamedTuple):
    """Numbers of Markdown elements in a text."""

    headers: int
    lists: int
    bolds: int


class StyleCounts(NamedTuple):
    """The style of N answers, [N] each. Tokens are as counted by one tokenizer for all models."""

    tokens: npt.ArrayLike
    headers: npt.ArrayLike
    lists: npt.ArrayLike
    bolds: npt.ArrayLike


def markdown_counts(text: str) -> MarkdownCounts:
    """Headers, list items and bold passages outside of fenced code.

    Source: `add_markdown_info.py` of arena-hard-auto.
    Deviation: the code of a fence is removed where it stands; upstream removes the same characters
        everywhere.
    """
    text = _FENCE.sub("``````", text)
    return MarkdownCounts(
        headers=len(_HEADER.findall(text)),
        lists=sum(len(pattern.findall(text)) for pattern in _LISTS),
        bolds=sum(len(pattern.findall(text)) for pattern in _BOLDS),
    )


def style_features(model: StyleCounts, baseline: StyleCounts) -> Array:
    """The differences of style [N, 4], columns `STYLE_FEATURES`, each in [-1, 1].

    Swapped sides change the sign.

    Length is (t_m - t_b) / (t_m + t_b), 0 if both answers are empty. The others are (r_m - r_b) /
    (r_m + r_b + 1) of the densities r = count / (tokens + 1).

    Raises:
        ValueError: A count is negative or not finite, or numbers of answers differ.
    Source: Arena-Hard v2.0.
    """
    ours, theirs = _counts(model, "model"), _counts(baseline, "baseline")
    if ours.shape != theirs.shape:
        raise ValueError(
            f"{ours.shape[1]} answers of the model, but {theirs.shape[1]} of the baseline"
        )
    total = ours[0] + theirs[0]
    length = (ours[0] - theirs[0]) / np.where(total > 0, total, 1.0)
    density, other = ours[1:] / (ours[0] + 1), theirs[1:] / (theirs[0] + 1)
    return np.column_stack([length, ((density - other) / (density + other + 1)).T])


def _counts(counts: StyleCounts, of: str) -> Array:
    rows = [np.asarray(values, dtype=np.float64) for values in counts]
    if any(row.ndim != 1 or row.shape != rows[0].shape for row in rows):
        raise ValueError(
            f"{of}: tokens, headers, lists and bolds must be [N] each, got "
            f"{[row.shape for row in rows]}"
        )
    stacked = np.stack(rows)
    bad = np.argwhere(~(np.isfinite(stacked) & (stacked >= 0)))
    if len(bad):
        which, index = bad[0]
        raise ValueError(
            f"{of}: {StyleCounts._fields[which]} must be 0 or more, got {stacked[which, index]} "
            f"at index {index}"
        )
    return stacked
