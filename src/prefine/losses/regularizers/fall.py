"""The fall of chosen answers, which budgets limit."""

from typing import Literal

from torch import Tensor

from prefine.losses.protocol import LossInputs

Per = Literal["sequence", "token"]
"""The unit of a budget: an answer's summed log-probability, or its mean over the tokens."""


def chosen_fall(logps: LossInputs, per: Per) -> Tensor:
    """Initial minus policy log-probability of each chosen answer [nats, or nats per token].

    The shape is that of the answers; `logps.of_chosen` makes one value per item of them.
    """
    fall = logps.initial_chosen - logps.policy_chosen
    return fall / logps.chosen_tokens if per == "token" else fall
