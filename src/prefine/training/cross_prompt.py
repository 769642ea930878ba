"""Answers to other prompts, whose log-ratio tells how far the policy is from the reference."""

from collections.abc import Sequence
from dataclasses import replace

from prefine.errors import DataError
from prefine.training.items import TokenizedPair


def mismatched_examples(examples: Sequence[TokenizedPair]) -> list[TokenizedPair]:
    """Each prompt with the two completions of the next pair (in a circle) that has another prompt.

    Partners are fixed for the whole training, so that the reference scores each once.

    Raises:
        DataError: All pairs have the same prompt.
    """
    if len({example.prompt_ids for example in examples}) < 2:
        raise DataError(
            "all pairs have the same prompt, and the loss reads answers to other prompts; choose "
            "another train.loss"
        )
    # From the last to the first, twice around: the next pair with another prompt than pair i is
    # pair i + 1, or that pair's own next if the two share a prompt.
    count = len(examples)
    following = [0] * count
    for index in [*reversed(range(count)), *reversed(range(count))]:
        neighbour = (index + 1) % count
        same = examples[neighbour].prompt_ids == examples[index].prompt_ids
        following[index] = following[neighbour] if same else neighbour
    return [
        replace(
            example,
            id=f"{example.id} with the answers of {examples[other].id}",
            chosen_ids=examples[other].chosen_ids,
            rejected_ids=examples[other].rejected_ids,
            rejected_prompt_ids=None,
        )
        for example, other in zip(examples, following, strict=True)
    ]
