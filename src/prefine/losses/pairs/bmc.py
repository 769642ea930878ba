"""BMC: tokens in which the answers differ, and of which the policy is not sure, count more."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.losses.facts import bare, needs_of, parts_of
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import Loss, PairLogps, declare, provided


def _reads_sums(*, loss: Loss) -> None:
    for _, part in parts_of(loss):
        if "tokens" in needs_of(part) or bool(getattr(bare(part), "controlled", ())):
            raise ValueError(
                f"{bare(part).__name__!r} does not read the weighted sums; choose another loss "
                "within bmc"
            )


@declare(
    family="composite", needs=frozenset({"reference", "tokens", "differences"}), check=_reads_sums
)
def bmc(
    logps: PairLogps,
    *,
    loss: Loss = dpo,
    delta: Annotated[float, Field(ge=0)] = 2.0,
    ref_weights: Literal["policy", "own"] = "policy",
) -> Float[Tensor, " B"]:
    """Loss of log-probabilities sum of w * log p, w = 1 + mark * min(1 / p, delta), without gradient through w.

    Args:
        logps: `tokens` with the marks is required, and what the loss needs.
        loss: What reads the weighted sums. Default: paper.
        delta: Largest extra weight of a token; 0 is the loss alone. Default: paper.
        ref_weights: The reference's sums with the "policy"'s weights, or with its "own"
            probabilities'. Default: paper.
    Returns: Loss per pair [B].
    Source: arXiv:2408.07471, eq. 5 and 6.
    """
    tokens = logps.require_tokens()

    def weighted(logp: Tensor, weighing: Tensor, marked: Tensor | None) -> Tensor:
        extra = (-weighing.detach()).exp().clamp(max=delta)
        return (logp * (1 + provided(marked, "differences") * extra)).sum(dim=1)

    own = ref_weights == "own"
    chosen, rejected = tokens.policy_chosen, tokens.policy_rejected
    sums: dict[str, Any] = {
        "policy_chosen": weighted(chosen, chosen, tokens.chosen_marked),
        "policy_rejected": weighted(rejected, rejected, tokens.rejected_marked),
        "ref_chosen": weighted(
            tokens.ref_chosen, tokens.ref_chosen if own else chosen, tokens.chosen_marked
        ),
        "ref_rejected": weighted(
            tokens.ref_rejected, tokens.ref_rejected if own else rejected, tokens.rejected_marked
        ),
    }
    return loss(replace(logps, **sums))
