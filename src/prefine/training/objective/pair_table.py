"""Per-pair constants of a training, combined each step with the policy's current values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.losses.protocol import PairLogps, PromptLogps, TokenLogps
from prefine.training.forward.token_values import PairTokens, SideLogps
from prefine.training.items import TokenizedPair


class StepTotals(NamedTuple):
    """The divisors of losses that average over the step, each pair counted by its weight."""

    pairs: float
    chosen_tokens: float


@dataclass(frozen=True)
class PairTable:
    """Constants of n pairs: reference and initial log-probabilities, weights; every tensor is [n].

    `score_gap` is NaN where a pair states none. `mismatched_ref` is the reference's mean value of
    another pair's two completions under this pair's prompt; `ref_tokens` are the reference's values
    of single tokens. Both are None if no loss reads them.
    """

    ref_chosen: Float[Tensor, " n"]
    ref_rejected: Float[Tensor, " n"]
    initial_chosen: Float[Tensor, " n"]
    initial_rejected: Float[Tensor, " n"]
    chosen_tokens: Float[Tensor, " n"]
    rejected_tokens: Float[Tensor, " n"]
    p_chosen: Float[Tensor, " n"]
    weight: Float[Tensor, " n"]
    score_gap: Float[Tensor, " n"]
    mismatched_ref: Float[Tensor, " n"] | None = None
    ref_tokens: PairTokens | None = None

    @classmethod
    def of(
        cls,
        examples: Sequence[TokenizedPair],
        *,
        initial: SideLogps,
        reference: SideLogps,
        mismatched_ref: Float[Tensor, " n"] | None = None,
        ref_tokens: PairTokens | None = None,
    ) -> "PairTable":
        """Join examples with their values under the initial policy and the reference."""

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=initial.chosen.dtype, device=initial.chosen.device)

        return cls(
            ref_chosen=reference.chosen,
            ref_rejected=reference.rejected,
            initial_chosen=initial.chosen,
            initial_rejected=initial.rejected,
            chosen_tokens=column([len(example.chosen_ids) for example in examples]),
            rejected_tokens=column([len(example.rejected_ids) for example in examples]),
            # A pair that states no probability was stated as certain.
            p_chosen=column([1.0 if e.p_chosen is None else e.p_chosen for e in examples]),
            weight=column([example.weight for example in examples]),
            score_gap=column([math.nan if e.score_gap is None else e.score_gap for e in examples]),
            mismatched_ref=mismatched_ref,
            ref_tokens=ref_tokens,
        )

    def rows(self, pairs: Int[Tensor, " B"]) -> "PairTable":
        """Return a table of some of the pairs."""
        some: dict[str, Any] = {
            name: value[pairs] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        if self.ref_tokens is not None:
            some["ref_tokens"] = self.ref_tokens.rows(pairs)
        return replace(self, **some)

    def totals(self) -> StepTotals:
        """The totals of a step of all these pairs."""
        return StepTotals(float(self.weight.sum()), float((self.weight * self.chosen_tokens).sum()))

    def join(
        self,
        policy: SideLogps,
        totals: StepTotals,
        *,
        mismatched: Float[Tensor, " n"] | None = None,
        tokens: TokenLogps | None = None,
        prompts: PromptLogps | None = None,
    ) -> PairLogps:
        """Combine the constants with the policy's current values: the input of a loss.

        Args:
            policy: Summed log-probabilities of both sides.
            totals: Those of the whole step.
            mismatched: The counterpart of `mismatched_ref` under the policy.
            tokens: Values of single tokens, if the loss reads them.
            prompts: Values of the prompts, if the loss reads them.
        """
        return PairLogps(
            policy_chosen=policy.chosen,
            policy_rejected=policy.rejected,
            ref_chosen=self.ref_chosen,
            ref_rejected=self.ref_rejected,
            initial_chosen=self.initial_chosen,
            chosen_tokens=self.chosen_tokens,
            rejected_tokens=self.rejected_tokens,
            p_chosen=self.p_chosen,
            weight=self.weight,
            pairs_in_step=totals.pairs,
            chosen_tokens_in_step=totals.chosen_tokens,
            score_gap=self.score_gap,
            mismatched_logratio=None
            if mismatched is None or self.mismatched_ref is None
            else mismatched - self.mismatched_ref,
            tokens=tokens,
            prompts=prompts,
        )
