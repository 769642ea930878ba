"""Check that the pairs state what the loss and the regularizer read of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefine.errors import ConfigError, DataError
from prefine.losses.facts import needs_of, per_pair
from prefine.records import PreferencePair
from prefine.training.relations.protocol import NamedLosses

if TYPE_CHECKING:
    from prefine.training.relations.pairs import TokenizedPair


class LossInputCheck:
    """Check pairs one by one, as they are read, against the needs of the losses.

    Args:
        losses: Loss and regularizer.
    """

    def __init__(self, losses: NamedLosses) -> None:
        self._readers = {
            need: " and ".join(name for name, function in losses if need in needs_of(function))
            for need in ("score_gap", "p_chosen", "mismatched")
        }
        self._sorting = next((name for name, function in losses if not per_pair(function)), "")
        self._weight: float | None = None
        self._prompts: set[object] = set()
        self._pairs = self._without_probability = 0

    def add(self, pair: "PreferencePair | TokenizedPair", prompt: object, *, where: str) -> None:
        """Check the next pair.

        Args:
            pair: The pair.
            prompt: Anything that is equal for pairs of one prompt.
            where: The place of the pair, for messages.

        Raises:
            DataError: It states no score gap, which is read.
            ConfigError: It has another weight than the ones before, and the loss sorts the pairs of
                a step.
        """
        self._pairs += 1
        self._without_probability += pair.p_chosen is None
        if len(self._prompts) < 2:
            self._prompts.add(prompt)
        if pair.score_gap is None and (reader := self._readers["score_gap"]):
            raise DataError(
                f"{where}: states no score_gap, which {reader} reads; give all rows the column "
                "score_gap, or score_chosen and score_rejected, make the pairs from rankings with "
                "scores, or choose another one"
            )
        if self._sorting and self._weight not in (None, pair.weight):
            raise ConfigError(
                f"{where}: has weight {pair.weight:g}, one before it {self._weight:g}, and "
                f"{self._sorting} sorts the pairs of a step, so that its values belong to no "
                "single pair; give all pairs the same weight, or choose another loss"
            )
        self._weight = pair.weight

    def finish(self, what: str) -> tuple[str, ...]:
        """Notes on all the pairs that were added.

        Args:
            what: What the pairs are, for messages.

        Raises:
            DataError: No pair states a probability, or all have one prompt, and that is read.
        """
        if not self._pairs:
            return ()
        if len(self._prompts) < 2 and (reader := self._readers["mismatched"]):
            raise DataError(
                f"{what}: all pairs have the same prompt, and {reader} reads answers to other "
                "prompts; choose another train.loss"
            )
        reader = self._readers["p_chosen"]
        if not reader or not self._without_probability:
            return ()
        if self._without_probability == self._pairs:
            raise DataError(
                f"{what}: no pair states p_chosen, which {reader} reads; let the judge give "
                "probabilities, give the rows the column p_chosen, or choose a loss with certain "
                "labels (dpo, sppo_hard)"
            )
        return (
            f"{self._without_probability} of {self._pairs} pairs state no p_chosen and count as "
            f"certain in {reader}",
        )


def check_pairs(
    losses: NamedLosses, pairs: "Sequence[TokenizedPair]", *, what: str = "pairs"
) -> tuple[str, ...]:
    """Notes on pairs that lack what the losses read; `what` they are is for messages.

    Raises:
        DataError: A pair does not state what is read, or all have one prompt and others are read.
        ConfigError: Pairs have different weights, and a function sorts the pairs of a step.
    """
    check = LossInputCheck(losses)
    for pair in pairs:
        check.add(pair, pair.prompt_ids, where=f"pair {pair.id}")
    return check.finish(what)
