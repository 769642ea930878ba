"""BMC: tokens in which the answers differ, and which the policy finds unlikely, count more."""

from dataclasses import replace
from typing import Literal

from pydantic import NonNegativeFloat
from torch import Tensor

from prefine.losses.facts import bare, needs_of, parts_of
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import Loss, PairLogps, PerPair, declare, require
from prefine.losses.token_diff import Differences


def _check_loss(*, loss: Loss) -> None:
    for _, part in parts_of(loss):
        if "tokens" in needs_of(part) or bool(getattr(bare(part), "controlled", ())):
            raise ValueError(f"{bare(part).__name__!r} reads no weighted sums; choose another loss")


@declare(family="composite", needs={"reference", "tokens", "differences"}, check=_check_loss)
def bmc(
    logps: PairLogps,
    *,
    loss: Loss = dpo,
    delta: NonNegativeFloat = 2.0,
    ref_weights: Literal["policy", "own"] = "policy",
    differences: Differences = "difflib",
) -> PerPair:
    """Loss of the weighted sums of w * log p, w = 1 + mark * min(1 / p, delta).

    No gradient flows through w; mark is 1 for a token that the other answer does not have.

    Args:
        logps: `tokens` with the marks is required, and what the loss needs.
        loss: The loss that reads the weighted sums. Default: paper.
        delta: Largest extra weight of a token; 0 is the loss alone. Default: paper.
        ref_weights: The reference's sums with the "policy"'s weights, or with its "own"
            probabilities'. Default: paper.
        differences: The marks: longest common runs ("difflib") or fewest edits ("levenshtein").
            They are made before the loss is called. Default: ours.
    Returns: Loss per pair [B].
    Source: arXiv:2408.07471, eq. 5 and 6.
    """
    tokens = logps.require_tokens()

    def weights(logp: Tensor, marked: Tensor | None) -> Tensor:
        extra = (-logp.detach()).exp().clamp(max=delta)
        return 1 + require(marked, "differences") * extra

    chosen = weights(tokens.policy_chosen, tokens.chosen_marked)
    rejected = weights(tokens.policy_rejected, tokens.rejected_marked)
    ref_chosen, ref_rejected = chosen, rejected
    if ref_weights == "own":
        ref_chosen = weights(tokens.ref_chosen, tokens.chosen_marked)
        ref_rejected = weights(tokens.ref_rejected, tokens.rejected_marked)
    sums = replace(
        logps,
        policy_chosen=(tokens.policy_chosen * chosen).sum(dim=1),
        policy_rejected=(tokens.policy_rejected * rejected).sum(dim=1),
        ref_chosen=(tokens.ref_chosen * ref_chosen).sum(dim=1),
        ref_rejected=(tokens.ref_rejected * ref_rejected).sum(dim=1),
    )
    return loss(sums)
