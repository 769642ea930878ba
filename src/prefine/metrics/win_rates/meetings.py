"""Duels between models, added up by prompt and by pair of models."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import Array, Groups, Values
from prefine.metrics.win_rates.win_rates import verdicts

Prompts = Literal["same", "any"]


class Meetings(NamedTuple):
    """What M models did to each other on N prompts.

    Attributes:
        models: Sorted by name [M].
        pairs: Indices i < j of the models that were asked against each other [E, 2].
        wins: Weighted wins of i and of j on each prompt [N, E, 2]; a tie is half of one for both.
        missing: Duels without a verdict.
    """

    models: tuple[str, ...]
    pairs: npt.NDArray[np.intp]
    wins: Array
    missing: int

    def prompts_of(self) -> npt.NDArray[np.integer]:
        """How many prompts each model has a verdict on [M]."""
        counts = np.zeros(len(self.models), dtype=np.intp)
        asked = self.wins.sum(axis=2) > 0
        for m in range(len(self.models)):
            counts[m] = asked[:, (self.pairs == m).any(axis=1)].any(axis=1).sum()
        return counts


def meetings(
    prompt_ids: Groups,
    first: Sequence[str],
    second: Sequence[str],
    p_first: Values,
    *,
    weights: npt.ArrayLike | None,
    prompts: Prompts,
) -> Meetings:
    """Duels [D] added up; the order in which two models were shown no longer matters.

    Raises:
        ValueError: Lengths differ, a duel is of a model with itself or appears twice, a verdict or
            a weight is impossible, none has a verdict, or models were asked on different prompts
            (unless `prompts` is "any").
    """
    p = verdicts(p_first, name="p_first")
    w = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=np.float64)
    ids = np.asarray(prompt_ids)
    if not len(ids) == len(first) == len(second) == len(p) == len(w):
        raise ValueError(
            f"{len(p)} verdicts, but {len(ids)} prompt ids, {len(first)} and {len(second)} "
            f"models, {len(w)} weights"
        )
    bad = np.flatnonzero(~(np.isfinite(w) & (w > 0)))
    if bad.size:
        raise ValueError(f"weights must be positive, got {w[bad[0]]} at index {bad[0]}")
    if not (~np.isnan(p)).any():
        raise ValueError(f"none of {len(p)} duels has a verdict")
    _refuse_repeats(ids, first, second)
    models, index = np.unique(np.asarray([*first, *second], dtype=np.str_), return_inverse=True)
    one, other = index[: len(p)], index[len(p) :]
    names = tuple(str(model) for model in models)
    labels, prompt = np.unique(ids, return_inverse=True)
    if prompts == "same":
        _refuse_other_prompts(names, labels, prompt, one, other)
    low, high = np.minimum(one, other), np.maximum(one, other)
    pairs, pair = np.unique(np.column_stack([low, high]), axis=0, return_inverse=True)
    wins = np.zeros((len(labels), len(pairs), 2))
    known = ~np.isnan(p)
    p_low = np.where(one == low, p, 1 - p)
    for side, share in ((0, p_low), (1, 1 - p_low)):
        np.add.at(wins[:, :, side], (prompt[known], pair.ravel()[known]), (w * share)[known])
    return Meetings(names, pairs, wins, int((~known).sum()))


def _refuse_repeats(
    ids: npt.NDArray[np.generic], first: Sequence[str], second: Sequence[str]
) -> None:
    seen: dict[tuple[object, str, str], int] = {}
    for index, key in enumerate(zip(ids.tolist(), first, second, strict=True)):
        if key[1] == key[2]:
            raise ValueError(f"duel {index} is of {key[1]!r} with itself")
        if key in seen:
            raise ValueError(
                f"duel {index} repeats duel {seen[key]}: {key[1]!r} before {key[2]!r} on prompt "
                f"{key[0]!r}; "
                "average repeated verdicts first, or give them as weights"
            )
        seen[key] = index


def _refuse_other_prompts(
    names: tuple[str, ...],
    labels: npt.NDArray[np.generic],
    prompt: npt.NDArray[np.intp],
    one: npt.NDArray[np.intp],
    other: npt.NDArray[np.intp],
) -> None:
    asked = np.zeros((len(names), len(labels)), dtype=np.bool_)
    asked[one, prompt] = asked[other, prompt] = True
    lacking = np.argwhere(~asked)
    if len(lacking):
        model, which = lacking[0]
        raise ValueError(
            f"{names[model]} was not asked on prompt {labels[which].item()!r}, which others were, "
            f"and {len(lacking)} "
            "such cases there are: compare models on the same prompts"
        )
