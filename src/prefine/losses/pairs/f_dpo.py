"""DPO with another divergence from the reference."""

from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence"]


@declare(family="divergence", needs={"reference"})
def f_dpo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    divergence: Divergence = "js_divergence",
) -> PerPair:
    """-log sigmoid(beta * (g(a) - g(c))), g(x) = f'(exp(x)) up to a constant.

    a and c are the log-ratios. reverse_kl: g(x) = x (DPO). forward_kl: -exp(-x). js_divergence: log
    sigmoid(x). Exponents are clamped at 80, where the gradient ends, too.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        divergence: The f-divergence that keeps the policy near the reference. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2309.16240.
    """

    def slope(logratio: Tensor) -> Tensor:
        if divergence == "forward_kl":
            return -(-logratio).clamp(max=80).exp()
        return logsigmoid(logratio) if divergence == "js_divergence" else logratio

    return -logsigmoid(beta * (slope(logps.chosen_logratio) - slope(logps.rejected_logratio)))
