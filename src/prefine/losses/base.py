"""What every loss and regularizer reads, and how it declares what it needs.

A loss is `(PairLogps, *, hyper_parameters) -> Tensor [B]`: unreduced, one value per pair. The engine averages.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

from jaxtyping import Float
from torch import Tensor

Need = Literal["reference", "initial"]
LossKind = Literal["local", "coupled"]
Reads = Literal["pairs", "joint", "lists"]
LossFunction = Callable[..., Tensor]
F = TypeVar("F", bound=LossFunction)


@dataclass(frozen=True)
class PairLogps:
    """Summed completion log-probabilities of B pairs, in nats, and what goes with them; every tensor is [B].

    `initial_chosen` is the chosen completion's value under the policy at step 0. It equals `ref_chosen` unless
    another model was named as reference. Token counts include the end-of-turn token and exclude the prompt.
    `pairs_in_step` and `chosen_tokens_in_step` are the totals of the whole optimizer step, so that a loss that
    averages over tokens does not depend on the micro-batches.
    """

    policy_chosen: Float[Tensor, " B"]
    policy_rejected: Float[Tensor, " B"]
    ref_chosen: Float[Tensor, " B"]
    ref_rejected: Float[Tensor, " B"]
    initial_chosen: Float[Tensor, " B"]
    chosen_tokens: Float[Tensor, " B"]
    rejected_tokens: Float[Tensor, " B"]
    p_chosen: Float[Tensor, " B"]
    weight: Float[Tensor, " B"]
    pairs_in_step: int
    chosen_tokens_in_step: int

    @property
    def chosen_logratio(self) -> Float[Tensor, " B"]:
        """Log policy - log reference of the chosen completions [B], nats."""
        return self.policy_chosen - self.ref_chosen

    @property
    def rejected_logratio(self) -> Float[Tensor, " B"]:
        """Log policy - log reference of the rejected completions [B], nats."""
        return self.policy_rejected - self.ref_rejected

    @property
    def margin(self) -> Float[Tensor, " B"]:
        """Difference of the two log-ratios [B], nats."""
        return self.chosen_logratio - self.rejected_logratio

    def rows(self, index: slice | Tensor) -> "PairLogps":
        """The same for some of the pairs."""
        tensors = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.type is not int}
        return replace(self, **tensors)


def declare(
    *, kind: LossKind = "local", needs: frozenset[Need] = frozenset(), reads: Reads = "pairs"
) -> Callable[[F], F]:
    """State a loss's facts where it is written.

    Args:
        kind: "local" when a pair's value depends on that pair alone, else "coupled": the engine then
            evaluates it once per step on all pairs.
        needs: Which values of `PairLogps` it reads beyond the policy's.
        reads: "pairs" compares two answers to one prompt; "joint" also answers to two prompts; "lists" whole rankings.
    """

    def attach(function: F) -> F:
        function.kind = kind  # type: ignore[attr-defined]
        function.needs = needs  # type: ignore[attr-defined]
        function.reads = reads  # type: ignore[attr-defined]
        return function

    return attach
