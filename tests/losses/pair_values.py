"""Random log-probabilities of pairs for the tests of losses and regularizers."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from prefine.losses.base import LossFunction, PairLogps

PAIRS = 32


def logps(*, seed: int = 0, dtype: torch.dtype = torch.float64) -> PairLogps:
    """B pairs whose six columns all differ, as the engine would pass them."""
    rng = np.random.default_rng(seed)
    chosen_tokens, rejected_tokens = rng.integers(1, 60, (2, PAIRS)).astype(float)
    ref_chosen, ref_rejected = (-rng.gamma(2.0, 0.5, PAIRS) * tokens for tokens in (chosen_tokens, rejected_tokens))
    columns = {
        "policy_chosen": ref_chosen + rng.normal(-1, 4, PAIRS),
        "policy_rejected": ref_rejected + rng.normal(-2, 4, PAIRS),
        "ref_chosen": ref_chosen,
        "ref_rejected": ref_rejected,
        "initial_chosen": ref_chosen + rng.normal(0, 2, PAIRS),
        "chosen_tokens": chosen_tokens,
        "rejected_tokens": rejected_tokens,
        "p_chosen": rng.uniform(0.51, 1, PAIRS),
        "weight": rng.uniform(0.2, 3, PAIRS),
    }
    tensors = {name: torch.tensor(column, dtype=dtype) for name, column in columns.items()}
    return PairLogps(**tensors, pairs_in_step=PAIRS, chosen_tokens_in_step=int(chosen_tokens.sum()))


def shifted(values: PairLogps, **by: float) -> PairLogps:
    """The same with a constant added to some columns."""
    return replace(values, **{name: getattr(values, name) + amount for name, amount in by.items()})


def swapped(values: PairLogps) -> PairLogps:
    """Chosen and rejected exchanged."""
    return replace(
        values,
        policy_chosen=values.policy_rejected,
        policy_rejected=values.policy_chosen,
        ref_chosen=values.ref_rejected,
        ref_rejected=values.ref_chosen,
        chosen_tokens=values.rejected_tokens,
        rejected_tokens=values.chosen_tokens,
    )


def gradient(function: LossFunction, values: PairLogps) -> tuple[Tensor, Tensor]:
    """Gradient of the summed values in the policy's chosen and rejected log-probabilities."""
    leaves = values.policy_chosen.clone().requires_grad_(), values.policy_rejected.clone().requires_grad_()
    total = function(replace(values, policy_chosen=leaves[0], policy_rejected=leaves[1])).sum()
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
