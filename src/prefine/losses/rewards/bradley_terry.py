"""Bradley-Terry likelihood of the better answer."""

import torch
from pydantic import NonNegativeFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PerItem, declare
from prefine.losses.rewards.protocol import AnswerRewards


@declare(reads="rewards", needs_if={"margin": {"score_gap"}})
def bradley_terry(
    rewards: AnswerRewards, *, margin: NonNegativeFloat = 0.0, center: NonNegativeFloat = 0.0
) -> PerItem:
    """Mean over pairs of -log sigmoid(r_w - r_l - margin * (s_w - s_l)), + center * (2 mean r)^2.

    The pairs are all those of a better and a worse answer of an item; of a pair the centred term is
    (r_w + r_l)^2.

    Args:
        rewards: Rewards [B, K] of pairs or lists.
        margin: How much farther apart two rewards shall be for each unit by which the judge scored
            the better answer higher; 0 needs no scores. Default: field.
        center: Weight of the centred term, which holds rewards around 0; pairs alone leave a
            constant open. Default: field.
    Returns: Loss per item [B], nats.
    Source: Bradley and Terry 1952; the mean over a list's pairs is eq. 1 of arXiv:2203.02155, the
        margin eq. 2 of arXiv:2307.09288, the centred term arXiv:2312.09244.
    """
    gap = rewards.margin
    if margin:
        gap = gap - margin * (rewards.score[:, :, None] - rewards.score[:, None, :])
    # Where no answer is better than another, a score may be missing: no NaN may reach a gradient.
    gap = torch.where(rewards.better, gap, 0)
    loss = rewards.mean_over_pairs(-logsigmoid(gap))
    return loss + center * rewards.off_center() if center else loss
