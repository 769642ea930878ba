"""Joint preference optimization: prompt and answer together, also of two different prompts."""

from typing import Any

from prefine.losses.facts import check_reads_sums
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import Loss, PairLogps, PerPair, declare


def _check_loss(*, loss: Loss) -> None:
    check_reads_sums(loss, beside={"initial", "mismatched", "references"})


@declare(family="composite", needs={"reference", "prompt"}, reads="joint", check=_check_loss)
def jpo(logps: PairLogps, *, loss: Loss = dpo) -> PerPair:
    """Loss of log p(prompt) + log p(answer | prompt) for each side and its own prompt.

    On pairs of one prompt the prompts cancel in every loss of the margin, so that it is the loss
    itself there; they count in one that averages over tokens or reads a side alone, and for a
    regularizer within a mixture, but not for one beside this loss. A prompt's first token is given.

    Args:
        logps: `prompts` is required, and what the loss needs.
        loss: The loss that reads the sums of prompt and answer, and the tokens of both.
            Default: paper.
    Returns: Loss per pair [B].
    Source: arXiv:2404.00530.
    """
    prompts = logps.require_prompts()

    def joint(name: str) -> Any:
        answers, of_prompts = vars(logps).get(name), getattr(prompts, name)
        return None if answers is None or of_prompts is None else answers + of_prompts

    return loss(
        logps.changed(
            **{name: joint(name) for name in vars(prompts)},
        )
    )
