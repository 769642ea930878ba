"""Length-desensitized DPO: the tokens of the longer answer beyond the shorter one count less."""

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="logistic", needs={"reference", "tokens"})
def ld_dpo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
    apply_to: Literal["both", "policy"] = "both",
) -> PerPair:
    """-log sigmoid(beta * D'), D' = margin of the log-probabilities prefix + alpha * tail.

    The prefix of each answer has min(|w|, |l|) tokens, the tail is the rest.

    Args:
        logps: `tokens` is required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
        alpha: Weight of the tail; 1 is DPO. Default: paper.
        apply_to: "both" weights the tail of the reference's log-probabilities too, "policy" only
            the policy's. Default: ours.
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
