"""Plackett-Luce likelihood of an order of rewards."""

import torch
from pydantic import NonNegativeFloat

from prefine.losses.protocol import PerItem, declare
from prefine.losses.rewards.protocol import AnswerRewards


@declare(reads="rewards")
def plackett_luce(rewards: AnswerRewards, *, center: NonNegativeFloat = 0.0) -> PerItem:
    """Sum over k of log(sum over j not better than k of exp(r_j)) - r_k, + center * (2 mean r)^2.

    It is -log of the probability that drawing answers without replacement, each with probability
    proportional to exp(r), gives the item's order. Of a pair it is bradley_terry.

    Args:
        rewards: Rewards [B, K] of pairs or lists.
        center: Weight of the centred term, which holds rewards around 0; an order alone leaves a
            constant open. Default: field.
    Returns: Loss per item [B], nats.
    Source: Xia et al. 2008 (ListMLE); the centred term is that of bradley_terry.
    """
    reward = rewards.reward
    # [B, k, j]: an answer stands against itself even behind an item's end, so that no sum is empty.
    against = (rewards.rank[:, None, :] >= rewards.rank[:, :, None]) & rewards.present[:, None, :]
    against |= torch.eye(reward.shape[1], dtype=torch.bool, device=reward.device)
    rest = reward[:, None, :].masked_fill(~against, -torch.inf).logsumexp(-1)
    loss = (rest - reward).masked_fill(~rewards.present, 0).sum(1)
    return loss + center * rewards.off_center() if center else loss
