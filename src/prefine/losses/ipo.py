"""Identity preference optimization."""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.losses.base import PairLogps, declare


@declare(needs=frozenset({"reference"}))
def ipo(
    logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 0.1, average: Literal["token", "sum"] = "token"
) -> Float[Tensor, " B"]:
    """(margin - 1 / (2 beta))^2: regression of the margin to a finite optimum.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Regularization strength tau of the paper [1/nat]; the optimal margin is 1 / (2 beta).
        average: "token" divides each side's log-ratio by its own length before the difference (the authors'
            published results), "sum" is the paper's equation as printed.
    Returns: Loss per pair [B], nats squared.
    Source: arXiv:2310.12036, eq. 17.
    """
    margin = logps.margin
    if average == "token":
        margin = logps.chosen_logratio / logps.chosen_tokens - logps.rejected_logratio / logps.rejected_tokens
    return (margin - 1 / (2 * beta)).square()
