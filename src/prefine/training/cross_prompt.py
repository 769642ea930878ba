"""Answers to other prompts: their log-ratios show how far the policy is from the reference."""

from collections.abc import Sequence
from dataclasses import replace

from prefine.errors import DataError
from prefine.training.items import TokenizedPair


def cross_prompt_pairs(examples: Sequence[TokenizedPair]) -> list[TokenizedPair]:
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
    # First find the partners from the last pair to the first, then a second time around the
    # circle: pair i takes pair i + 1, or that pair's own partner if the two share a prompt,
    # because the partner is known by then.
    count = len(examples)
    partners = [0] * count
    for index in [*reversed(range(count)), *reversed(range(count))]:
        neighbour = (index + 1) % count
        same = examples[neighbour].prompt_ids == examples[index].prompt_ids
        partners[index] = partners[neighbour] if same else neighbour
    return [
        replace(
            example,
            id=f"{example.id} with the answers of {examples[partner].id}",
            chosen_ids=examples[partner].chosen_ids,
            rejected_ids=examples[partner].rejected_ids,
            rejected_prompt_ids=None,
        )
        for example, partner in zip(examples, partners, strict=True)
    ]
