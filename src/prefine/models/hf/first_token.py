"""What a model would write first: one forward pass, the head on the last position only."""

from typing import Any

import torch

from prefine.errors import NumericsError
from prefine.models.hf.generation import padded_length

TOP = 100


@torch.inference_mode()
def first_token_logps(
    model: Any, prompts: list[list[int]], *, pad_id: int
) -> list[dict[int, float]]:
    """The likeliest first tokens after each prompt with their log-probabilities [nat], the likeliest first.

    Args:
        model: A causal language model of transformers, in eval mode.
        prompts: Token ids, padded on the left to one bucket.
        pad_id: Token for padding.

    Raises:
        NumericsError: The logits of a prompt are not finite numbers.
    """
    width = padded_length(max(map(len, prompts)))
    ids = torch.tensor([[pad_id] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor(
        [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device
    )
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=1,
    )
    logps = torch.log_softmax(out.logits[:, -1].float(), dim=-1)
    if bool(torch.isnan(logps).any()):
        raise NumericsError("the judge's logits are not numbers (NaN); its weights are damaged")
    values, tokens = logps.topk(min(TOP, logps.shape[-1]), dim=-1)
    return [
        dict(zip(t, v, strict=True)) for t, v in zip(tokens.tolist(), values.tolist(), strict=True)
    ]
