"""DPO with another divergence from the reference."""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence"]


@declare(family="divergence", needs=frozenset({"reference"}))
def f_dpo(
    logps: PairLogps,
    *,
    beta: Annotated[float, Field(gt=0)] = 0.1,
    divergence: Divergence = "js_divergence",
) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * (g(a) - g(c))), a and c the log-ratios, g(x) = f'(exp(x)) up to a constant.

    reverse_kl: g(x) = x (DPO). forward_kl: -exp(-x). js_divergence: log sigmoid(x). Exponents end
        at 80, where the
    gradient does, too.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        divergence: Which f-divergence keeps the policy near the reference. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2309.16240.
    """

    def slope(logratio: Tensor) -> Tensor:
        if divergence == "forward_kl":
            return -(-logratio).clamp(max=80).exp()
        return logsigmoid(logratio) if divergence == "js_divergence" else logratio

    return -logsigmoid(beta * (slope(logps.chosen_logratio) - slope(logps.rejected_logratio)))
