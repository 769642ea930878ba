"""Length-desensitized DPO: what the longer answer says beyond the shorter one counts less."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="logistic", needs=frozenset({"reference", "tokens"}))
def ld_dpo(
    logps: PairLogps,
    *,
    beta: Annotated[float, Field(gt=0)] = 0.1,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
    apply_to: Literal["both", "policy"] = "both",
) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * D'), D' = margin of the log-probabilities prefix + alpha * tail.

    The prefix of each answer has min(|w|, |l|) tokens, the tail is the rest.

    Args:
        logps: `tokens` is required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
        alpha: Weight of the tail; 1 is DPO. Default: paper.
        apply_to: Whether the reference's log-probabilities are cut in the same way. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2409.06411.
    """
    tokens = logps.require_tokens()
    shared = torch.minimum(logps.chosen_tokens, logps.rejected_tokens).unsqueeze(1)

    def cut(values: Tensor) -> Tensor:
        in_prefix = torch.arange(values.shape[1], device=values.device) < shared
        return torch.where(in_prefix, values, alpha * values).sum(dim=1)

    ref_chosen, ref_rejected = logps.ref_chosen, logps.ref_rejected
    if apply_to == "both":
        ref_chosen, ref_rejected = cut(tokens.ref_chosen), cut(tokens.ref_rejected)
    margin = (cut(tokens.policy_chosen) - ref_chosen) - (cut(tokens.policy_rejected) - ref_rejected)
    return -logsigmoid(beta * margin)
