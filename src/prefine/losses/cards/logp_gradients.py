"""Gradients of a loss in the log-probabilities of a pair whose answers both became less likely."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.losses.facts import bare, options_of, reads_of
from prefine.losses.other_references import OtherReferences
from prefine.losses.protocol import (
    ListLogps,
    LossFunction,
    LossInputs,
    PairLogps,
    PointLogps,
    PromptLogps,
    Reads,
    TokenLogps,
)

CHOSEN, REJECTED = -3.0, -7.0
"""Log-ratios of the displaced pair [nats]: its margin is 4, and yet chosen has fallen."""

CHOSEN_TOKENS, REJECTED_TOKENS = 40, 60
REFERENCE = -60.0
"""Log-probability of either answer under the reference, which is the policy at step 0 [nats]."""

P_CHOSEN, SCORE_GAP, MISMATCHED, LOG_SUM_P2 = 0.8, 1.0, 0.0, -1.0
PROMPT, PROMPT_TOKENS = -80.0, 50
"""Further inputs that some losses read; every other token counts as differing, both answers have
one prompt, and a second reference says what the first does."""

# Below this a push is rounding.
_NOTHING = 1e-15


@dataclass(frozen=True)
class LogpGradients:
    """Negative gradients in the two log-probabilities [loss per nat].

    Above 0, gradient descent makes the answer likelier.
    """

    chosen: float
    rejected: float

    @property
    def ratio(self) -> float | None:
        """The overlap of the two gradients from which chosen falls.

        In units of the square of the chosen answer's gradient. Infinite where rejected is not
        pushed, below 0 where chosen falls without any overlap; None where nothing pushes chosen up
        and rejected down.
        """
        if self.rejected < 0:
            return self.chosen / -self.rejected
        return math.inf if self.rejected == 0 and self.chosen > 0 else None


def logp_gradients(function: LossFunction) -> LogpGradients:
    """Return the gradients of the displaced pair, alone in the first step.

    A loss of lists sees a list of the two answers; one of labels sees both, good and bad.

    Args:
        function: A loss or regularizer whose hyper-parameters all have values.
    """
    return at(function, CHOSEN, REJECTED)


def along(function: LossFunction, margin: float) -> LogpGradients:
    """Return them for log-ratios that differ by the margin, with the displaced pair's mean."""
    mean = (CHOSEN + REJECTED) / 2
    return at(function, mean + margin / 2, mean - margin / 2)


def at(function: LossFunction, chosen: float, rejected: float) -> LogpGradients:
    """Return them at any log-ratios; the function's controller, if any, sees the pair before."""
    leaves = tuple(
        torch.tensor([REFERENCE + logratio], dtype=torch.float64, requires_grad=True)
        for logratio in (chosen, rejected)
    )
    pair = inputs_at(reads_of(function), leaves[0], leaves[1])
    given: dict[str, float] = {}
    if controller := getattr(bare(function), "controller", None):
        with torch.no_grad():
            given = controller().update(pair, options_of(function))
    slopes = torch.autograd.grad(
        function(pair, **given).sum(), leaves, allow_unused=True, materialize_grads=True
    )
    push, pull = (0.0 if abs(float(slope)) < _NOTHING else -float(slope) for slope in slopes)
    return LogpGradients(push, pull)


def inputs_at(reads: Reads, policy_chosen: Tensor, policy_rejected: Tensor) -> LossInputs:
    """Return the pair, or the list that has its answers, or the two answers labelled."""
    policy = torch.cat([policy_chosen, policy_rejected])
    reference = torch.full_like(policy, REFERENCE)
    tokens = policy.new_tensor([CHOSEN_TOKENS, REJECTED_TOKENS])
    if reads == "lists":
        return ListLogps(
            policy=policy[None],
            ref=reference[None],
            initial=reference[None],
            tokens=tokens[None],
            rank=policy.new_tensor([[1, 2]]),
            score=policy.new_tensor([[SCORE_GAP, 0]]),
            present=torch.ones(1, 2, dtype=torch.bool),
            weight=policy.new_ones(1),
            lists_in_step=1,
        )
    if reads == "labels":
        return PointLogps(
            policy=policy,
            ref=reference,
            initial=reference,
            tokens=tokens,
            desirable=policy.new_tensor([1, 0]),
            weight=policy.new_ones(2),
            answers_in_step=2,
        )
    return pair_at(policy_chosen, policy_rejected)


def pair_at(policy_chosen: Tensor, policy_rejected: Tensor) -> PairLogps:
    """Return the pair with these log-probabilities [1], divided evenly among an answer's tokens."""

    def one(value: float) -> Tensor:
        return torch.full_like(policy_chosen, value)

    def shared(total: Tensor, count: int) -> Tensor:
        return (total / count).unsqueeze(1).expand(-1, count)

    def alternating(count: int) -> Tensor:
        return (torch.arange(count, dtype=policy_chosen.dtype) % 2).unsqueeze(0)

    reference = one(REFERENCE)
    return PairLogps(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        ref_chosen=reference,
        ref_rejected=reference,
        initial_chosen=reference,
        chosen_tokens=one(CHOSEN_TOKENS),
        rejected_tokens=one(REJECTED_TOKENS),
        p_chosen=one(P_CHOSEN),
        weight=one(1),
        pairs_in_step=1,
        chosen_tokens_in_step=CHOSEN_TOKENS,
        score_gap=one(SCORE_GAP),
        mismatched_logratio=one(MISMATCHED),
        tokens=TokenLogps(
            policy_chosen=shared(policy_chosen, CHOSEN_TOKENS),
            policy_rejected=shared(policy_rejected, REJECTED_TOKENS),
            ref_chosen=shared(reference, CHOSEN_TOKENS),
            ref_rejected=shared(reference, REJECTED_TOKENS),
            chosen_log_sum_p2=shared(one(LOG_SUM_P2 * CHOSEN_TOKENS), CHOSEN_TOKENS),
            rejected_log_sum_p2=shared(one(LOG_SUM_P2 * REJECTED_TOKENS), REJECTED_TOKENS),
            chosen_marked=alternating(CHOSEN_TOKENS),
            rejected_marked=alternating(REJECTED_TOKENS),
        ),
        prompts=PromptLogps(
            policy_chosen=one(PROMPT),
            policy_rejected=one(PROMPT),
            ref_chosen=one(PROMPT),
            ref_rejected=one(PROMPT),
            chosen_tokens=one(PROMPT_TOKENS),
            rejected_tokens=one(PROMPT_TOKENS),
            chosen_tokens_in_step=PROMPT_TOKENS,
        ),
        other_references=OtherReferences(reference[:, None], reference[:, None], (0.5, 0.5)),
        head_norms=torch.ones(2, dtype=policy_chosen.dtype),
    )
