"""A sample of held-out answers whose tokens are scored before and after training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from prefine.records import content_hash
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import ItemTokens
from prefine.training.items import TokenizedItem
from prefine.training.reference.scoring import score_tokens

MOST_ANSWERS = 200
"""Answers whose tokens are kept: enough to read, and little beside a training."""


class ScoredItem(NamedTuple):
    """An item with the log-probabilities of its answers' scored tokens [nats].

    `logps` are those after training, `initial_logps` those of the policy at step 0; both have a
    list for each answer, in the order of the item.
    """

    item: TokenizedItem
    logps: list[list[float]]
    initial_logps: list[list[float]]


@dataclass(frozen=True)
class TokenSample:
    """Some items, and the values of their tokens under the policy at step 0.

    Args:
        items: The items.
        initial: Their values.
    """

    items: Sequence[TokenizedItem]
    initial: ItemTokens

    @classmethod
    def of(cls, items: Sequence[TokenizedItem], initial: ItemTokens) -> "TokenSample":
        """Choose from some items, given the values of all of them.

        The choice depends on the items' ids alone, so that trainings that hold out the same items
        keep the same ones. An item with more answers than are kept is never chosen.
        """
        by_hash = sorted(range(len(items)), key=lambda i: content_hash("tokens", items[i].id))
        chosen: list[int] = []
        room = MOST_ANSWERS
        for index in by_hash:
            answers = len(items[index].texts)
            if answers <= room:
                chosen.append(index)
                room -= answers
        chosen.sort()
        indices = torch.tensor(chosen, dtype=torch.long)
        return cls([items[index] for index in chosen], initial.rows(indices))

    def score(self, forward: Forward) -> list[ScoredItem]:
        """Score the items' tokens once more; every process has to call it.

        If memory is short, batches are smaller here only.

        Raises:
            LimitError: There is no memory for an item alone.
        """
        limit = forward.tokens
        try:
            now = score_tokens(forward, self.items)
        finally:
            forward.tokens = limit
        values, initial = iter(_by_answer(now)), iter(_by_answer(self.initial))
        return [
            ScoredItem(
                item, [next(values) for _ in item.texts], [next(initial) for _ in item.texts]
            )
            for item in self.items
        ]


def _by_answer(tokens: ItemTokens) -> list[list[float]]:
    """The log-probabilities of each completion's tokens, without those of prompts."""
    texts = tokens.lengths.shape[1]
    split = torch.split(tokens.values.logps, tokens.lengths.flatten().tolist())
    return [part.tolist() for part in split[::texts]]
