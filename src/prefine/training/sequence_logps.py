"""Log-probabilities of completions, for training loops that are not ours."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

NOT_SCORED = -100
"""The label of prompts and padding, as in transformers."""


def sequence_logps(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Float[Tensor, " B"]:
    """Return the summed log-probability of the labelled tokens of each sequence [B], nats.

    The sum is in float32 and has a gradient. A sequence without labelled tokens gives 0.

    Args:
        model: A causal language model of transformers, or anything that is called and answers as
            one.
        batch: `input_ids` [B, T], right-padded; `labels` [B, T], the same ids with -100 for prompts
            and padding; `attention_mask` [B, T] where there is padding. Other keys are handed on.

    Raises:
        ValueError: The batch has no `labels`, or they have another shape than `input_ids`.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    labels = batch.get("labels")
    if labels is None or labels.shape != batch["input_ids"].shape:
        found = "none" if labels is None else f"shape {tuple(labels.shape)}"
        raise ValueError(
            f"batch['labels']: expected input_ids with {NOT_SCORED} for prompts and padding, shape "
            f"{tuple(batch['input_ids'].shape)} (got {found})"
        )
    logits = model(**inputs).logits[:, :-1].float()
    losses = cross_entropy(
        logits.transpose(1, 2), labels[:, 1:], ignore_index=NOT_SCORED, reduction="none"
    )
    return -losses.sum(1)
