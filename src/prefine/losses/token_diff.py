"""The tokens in which two answers differ."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, TypeAlias

import numpy as np

Differences = Literal["difflib", "levenshtein"]
Marks: TypeAlias = tuple[list[int], list[int]]
"""1 for each token of chosen, and of rejected, that the other answer does not have, else 0."""


def difference_marks(
    chosen_ids: Sequence[int], rejected_ids: Sequence[int], *, differences: Differences = "difflib"
) -> Marks:
    """Return 1 for each token that the other answer does not have in its place, else 0.

    Args:
        chosen_ids: Tokens of the chosen answer.
        rejected_ids: Tokens of the rejected answer.
        differences: "difflib" keeps the longest common runs of tokens, as the paper's code does;
            "levenshtein" keeps what an alignment with the fewest edits keeps, as the paper says.
    Returns: The marks of chosen and of rejected.
    Source: arXiv:2408.07471.
    """
    find = _fewest_edits if differences == "levenshtein" else _longest_runs
    return find(chosen_ids, rejected_ids)


def _longest_runs(chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> Marks:
    chosen_marks, rejected_marks = [0] * len(chosen_ids), [0] * len(rejected_ids)
    matcher = SequenceMatcher(None, rejected_ids, chosen_ids, autojunk=False)
    for operation, rejected_start, rejected_end, chosen_start, chosen_end in matcher.get_opcodes():
        if operation == "equal":
            continue
        chosen_marks[chosen_start:chosen_end] = [1] * (chosen_end - chosen_start)
        rejected_marks[rejected_start:rejected_end] = [1] * (rejected_end - rejected_start)
    return chosen_marks, rejected_marks


def _fewest_edits(chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> Marks:
    """The marks of an alignment with the fewest insertions, deletions and replacements.

    Of several it is one that keeps the most tokens; of those the one that, read from the end, pairs
    tokens before it deletes and deletes before it inserts.
    """
    chosen, rejected = np.asarray(chosen_ids, np.int64), np.asarray(rejected_ids, np.int64)
    rows, columns = len(rejected), len(chosen)
    # cost[i, j] of the first i tokens of rejected and the first j of chosen: the fewest edits, of
    # which one weighs more than all tokens that can be kept, less the tokens kept.
    edit = min(rows, columns) + 1
    cost = np.empty((rows + 1, columns + 1), np.int64)
    inserted = edit * np.arange(columns + 1)
    cost[0] = inserted
    for row in range(1, rows + 1):
        above = cost[row - 1]
        paired = above[:-1] + np.where(chosen == rejected[row - 1], -1, edit)
        cost[row] = above + edit
        np.minimum(cost[row, 1:], paired, out=cost[row, 1:])
        # Insertions: the least of all places before, plus the distance from there.
        cost[row] = np.minimum.accumulate(cost[row] - inserted) + inserted
    chosen_marks, rejected_marks = [1] * columns, [1] * rows
    row, column = rows, columns
    while row and column:
        equal = bool(chosen[column - 1] == rejected[row - 1])
        if cost[row, column] == cost[row - 1, column - 1] + (-1 if equal else edit):
            row, column = row - 1, column - 1
            chosen_marks[column] = rejected_marks[row] = int(not equal)
        elif cost[row, column] == cost[row - 1, column] + edit:
            row -= 1
        else:
            column -= 1
    return chosen_marks, rejected_marks
