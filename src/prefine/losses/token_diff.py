"""The tokens in which two answers differ."""

from collections.abc import Sequence
from difflib import SequenceMatcher


def difference_marks(
    chosen_ids: Sequence[int], rejected_ids: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return 1 for each token that the other answer does not have in its place, else 0.

    Args:
        chosen_ids: Tokens of the chosen answer.
        rejected_ids: Tokens of the rejected answer.
    Returns: The marks of chosen and of rejected.
    Source: arXiv:2408.07471.
    """
    chosen_marks, rejected_marks = [0] * len(chosen_ids), [0] * len(rejected_ids)
    matcher = SequenceMatcher(None, rejected_ids, chosen_ids, autojunk=False)
    for operation, rejected_start, rejected_end, chosen_start, chosen_end in matcher.get_opcodes():
        if operation == "equal":
            continue
        chosen_marks[chosen_start:chosen_end] = [1] * (chosen_end - chosen_start)
        rejected_marks[rejected_start:rejected_end] = [1] * (rejected_end - rejected_start)
    return chosen_marks, rejected_marks
