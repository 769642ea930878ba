"""Whether training can give a loss what it needs, and the pairs what it reads."""

from collections.abc import Sequence

from prefine.errors import ConfigError, DataError
from prefine.losses.base import NEED_WORDS, LossFunction, Need
from prefine.losses.facts import needs_of, per_pair
from prefine.training.examples import Example

PROVIDED: frozenset[Need] = frozenset({"reference", "initial", "p_chosen", "score_gap", "mismatched"})
"""What this engine computes or reads for a loss."""


def check_needs(function: LossFunction, *, where: str, name: str) -> None:
    """Nothing, if training provides all that a loss or regularizer declares to need.

    Raises:
        ConfigError: It does not; the message says what is missing.
    """
    missing = sorted(needs_of(function) - PROVIDED)
    if missing:
        words = " and ".join(f"{NEED_WORDS[need]} ({need})" for need in missing)
        raise ConfigError(
            f"{where}.name: {name!r} needs {words}, which training does not compute yet; choose another one. As a "
            "function on tensors it works (`prefine.losses`)"
        )


def check_examples(functions: Sequence[LossFunction], examples: Sequence[Example]) -> None:
    """Nothing, if the pairs state what the loss and the regularizer read of them.

    Raises:
        DataError: A pair states no score gap.
        ConfigError: Pairs are weighted, and the values of the loss belong to no single pair.
    """
    if any("score_gap" in needs_of(function) for function in functions):
        without = [example.id for example in examples if example.score_gap is None]
        if without:
            raise DataError(
                f"{len(without)} of {len(examples)} pairs state no score_gap, which the loss reads; the first is "
                f"{without[0]}. Make the pairs from rankings with scores, give them the column score_gap, or choose "
                "another train.loss"
            )
    if not all(map(per_pair, functions)) and len({example.weight for example in examples}) > 1:
        raise ConfigError(
            "train.loss: the pairs have different weights, and this loss sorts the pairs of a step, so that its values "
            "belong to no single pair; choose another one, or give all pairs the same weight"
        )
