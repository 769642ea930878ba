"""The judge of the ranking simulations: a margin of qualities, with noise and a slot bias.

    margin = quality_first - quality_second
             + sigma * (sqrt(1 - order_noise) * pair noise + sqrt(order_noise) * order noise +
             first_slot_bias)

Pair noise is what both orders get wrong together, order noise is drawn anew for each order; both
are standard normal. A hard verdict says first if the margin is above 0; a soft one is P(first) =
sigmoid(3 margin / sigma).
"""

import math
from statistics import NormalDist
from typing import Literal

Verdicts = Literal["hard", "soft"]

SOFTNESS = 3.0
"""Logits of a soft verdict per sigma of margin."""

_NORMAL = NormalDist()


def noise_sd(accuracy: float) -> float:
    """The noise [quality sd] of a judge that is right on two random completions so often.

    Qualities are N(0, 1), so their difference is d ~ N(0, 2); with noise e ~ N(0, sigma^2) the
    verdict is right when d + e has the sign of d: accuracy = 1/2 + arctan(sqrt(2) / sigma) / pi. So
    sigma = sqrt(2) tan(pi (1 - accuracy)), which is sqrt(2) at .75 and 0 at 1. Biases are not in
    it.

    Raises:
        ValueError: The accuracy is not in (0.5, 1].
    """
    if not 0.5 < accuracy <= 1:
        raise ValueError(f"accuracy must be in (0.5, 1], got {accuracy}")
    return 0.0 if accuracy == 1 else math.sqrt(2) * math.tan(math.pi * (1 - accuracy))


def first_slot_logit(bias: float, verdicts: Verdicts) -> float:
    """The log-odds for the first slot between two equals [logit] at a bias [sigma].

    For a judge with noise. Exactly 3 * bias for soft verdicts; logit(Phi(bias)) for hard ones.
    """
    if verdicts == "soft":
        return SOFTNESS * bias
    # Phi at the negative side, so that a large bias does not round to probability 1.
    against = _NORMAL.cdf(-abs(bias))
    return math.copysign(math.log1p(-against) - math.log(max(against, 1e-300)), bias)
