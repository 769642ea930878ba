"""Identity preference optimization."""

from typing import Literal

from pydantic import PositiveFloat

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="regression", needs={"reference"})
def ipo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    average: Literal["token", "sum"] = "token",
) -> PerPair:
    """(d - 1 / (2 beta))^2, d = a / |w| - c / |l|, a and c the log-ratios.

    |w| and |l| are the token counts. With average "sum", d is the margin D = a - c.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Regularization strength tau of the paper [1/nat]; the optimal d is 1 / (2 beta).
            Default: ours.
        average: "token" divides each side's log-ratio by its own length before the difference (the
            authors' published results), "sum" is the paper's equation as printed. Default: paper.
    Returns: Loss per pair [B], nats squared.
    Source: arXiv:2310.12036, eq. 17.
    """
    margin = logps.token_margin if average == "token" else logps.margin
    return (margin - 1 / (2 * beta)).square()
