"""CHES: how alike a pair's answers are to the policy, and the pairs in which they are least so.

Arxiv 2410.08847: the more alike, the more training lowers the likelihood of the chosen answer, too.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.errors import Interrupted
from prefine.training.distributed.processes import gather, own_items
from prefine.training.forward.passes import Forward
from prefine.training.items import TokenizedItem
from prefine.training.memory import retry_smaller_batches, synchronized_oom
from prefine.training.step_sources.share_counts import kept_below


def normalised_ches(
    chosen: Float[Tensor, "n d"],
    rejected: Float[Tensor, "n d"],
    chosen_lengths: Int[Tensor, " n"],
    rejected_lengths: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """The length-normalised centred hidden embedding similarity of each pair's answers.

    ⟨h_w, h_l⟩ / (|y_w| |y_l|) - ‖h_w‖² / |y_w|², with h an answer's summed last hidden states at
    the positions that predict its tokens, and |y| how many these are.

    Args:
        chosen: h of the chosen answers.
        rejected: h of the rejected answers.
        chosen_lengths: |y| of the chosen answers.
        rejected_lengths: |y| of the rejected answers.
    """
    mean_chosen, mean_rejected = (
        sums.double() / lengths.to(sums.device)[:, None]
        for sums, lengths in ((chosen, chosen_lengths), (rejected, rejected_lengths))
    )
    return (mean_chosen * (mean_rejected - mean_chosen)).sum(1)


def ches_of(
    forward: Forward,
    pairs: Sequence[TokenizedItem],
    *,
    should_stop: Callable[[], bool] | None = None,
) -> Float[Tensor, " n"]:
    """The normalised CHES of pairs under a model, in their order.

    Several processes share the work, and all get all values.

    Raises:
        Interrupted: `should_stop` became true.
        LimitError: There is no memory for a pair alone.
    """
    every = range(len(pairs))
    local = own_items(pairs, every)

    def attempt() -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
        found = [(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.double))]
        with synchronized_oom(in_step=forward.in_step):
            forward.model.eval()  # type: ignore[no-untyped-call]
            for batch in forward.passes(forward.cut(pairs, local)):
                if should_stop is not None and should_stop():
                    raise Interrupted("stopped while scoring; the same command resumes")
                sums, lengths = forward.hidden_sums(batch)
                scores = normalised_ches(sums[::2], sums[1::2], lengths[::2], lengths[1::2])
                found.append((batch.items.cpu(), scores.cpu()))
        items, values = zip(*found, strict=True)
        return torch.cat(items).to(forward.device), torch.cat(values).to(forward.device)

    items, values = retry_smaller_batches(
        attempt, forward, lambda: forward.cut(pairs, every), pairs
    )
    return gather(values)[gather(items).argsort()].cpu()


def lowest(
    pairs: Sequence[TokenizedItem], scores: Float[Tensor, " n"], quantile: float
) -> list[TokenizedItem]:
    """The pairs at or below a quantile of their scores, in their order; equal ones by their id."""
    ranked = sorted(range(len(pairs)), key=lambda n: (float(scores[n]), pairs[n].id))
    kept = sorted(ranked[: kept_below(len(pairs), quantile)])
    return [pairs[n] for n in kept]
