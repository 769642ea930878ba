"""The likelihood budget of every token: no single one may fall far, whatever the others do."""

import torch

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="regularizer", needs={"initial", "tokens"})
def token_budget(logps: PairLogps, *, delta: float = 0.1) -> PerPair:
    """Mean over the chosen tokens of max(0, fall of the token - delta).

    fall is the initial minus the policy's log-probability of a token, whatever the reference is. It
    is at least the budget of the mean fall per token.

    Args:
        logps: `tokens` is required.
        delta: How far the log-probability of a token may fall [nats]. Default: ours.
    Returns: Penalty per pair [B], nats per token.
    Source: our reading of arXiv:2411.05875, token by token.
    """
    tokens = logps.require_tokens()
    fall = tokens.initial_chosen - tokens.policy_chosen
    places = torch.arange(fall.shape[1], device=fall.device)
    # Padding has no fall, and would count with a negative delta.
    inside = places < logps.chosen_tokens.unsqueeze(1)
    return torch.where(inside, (fall - delta).relu(), 0.0).sum(dim=1) / logps.chosen_tokens
