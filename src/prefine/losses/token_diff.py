"""Which tokens of two answers differ."""

from collections.abc import Collection, Sequence
from difflib import SequenceMatcher


def difference_marks(
    chosen_ids: Sequence[int], rejected_ids: Sequence[int], *, never: Collection[int] = ()
) -> tuple[list[int], list[int]]:
    """1 for each token of chosen and of rejected that the other does not have in its place, else 0.

    Args:
        chosen_ids: Tokens of the chosen answer.
        rejected_ids: Tokens of the rejected answer.
        never: Tokens that are not marked, such as those of stop words.
    Source: arXiv:2408.07471.
    """
    marks = [0] * len(chosen_ids), [0] * len(rejected_ids)
    matcher = SequenceMatcher(None, rejected_ids, chosen_ids, autojunk=False)
    for operation, rejected_start, rejected_end, chosen_start, chosen_end in matcher.get_opcodes():
        if operation == "equal":
            continue
        for ids, own, start, end in (
            (chosen_ids, marks[0], chosen_start, chosen_end),
            (rejected_ids, marks[1], rejected_start, rejected_end),
        ):
            own[start:end] = [int(token not in never) for token in ids[start:end]]
    return marks
