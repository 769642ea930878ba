"""Attention of one new token for each row, by two products of matrices, on a CPU.

torch's fused kernel divides the keys among threads, so that a row's last bits depend on how many
threads there are and on the rows beside it. A product for each row and head does not, and it takes
no longer where there is one query.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefine.models.hf.architecture import attention_configs

ONE_TOKEN = "prefine_one_token"
"""The name under which the attention is registered."""

# What `transformers` gives attention functions that cannot change the result here.
_WITHOUT_EFFECT = {"position_ids", "cache_position", "is_causal", "use_cache", "sliding_window"}


def one_token_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads queries d"],
    key: Float[Tensor, "rows kv_heads keys d"],
    value: Float[Tensor, "rows kv_heads keys d"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "rows queries heads d"], None]:
    """Attention in the form of `transformers`' AttentionInterface.

    Anything but one query for each row, in single or double precision, goes to torch's own kernel.

    Args:
        module: The attention layer.
        query: After rotary embedding.
        key: After rotary embedding.
        value: The values.
        attention_mask: What a token sees, as a mask of truth values [rows, 1, queries, keys]; None
            is everything.
        dropout: Share of weights left out in training.
        scaling: Factor of the scores; None is 1 / sqrt(d).
        others: What other layers give.

    Returns: The attention output, and None for the weights.
    """
    asked = {name for name, one in others.items() if one is not None and one is not False}
    rows, heads, queries, width = query.shape
    masked = attention_mask is None or (
        attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1
    )
    if queries != 1 or dropout or asked - _WITHOUT_EFFECT or not masked or query.dtype.itemsize < 4:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    # Query heads that share keys are the rows of one product.
    together = query.reshape(rows, key.shape[1], -1, width)
    together = together * (width**-0.5 if scaling is None else scaling)
    scores = together @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill_(~attention_mask, -torch.inf)
    output = scores.softmax(dim=-1) @ value
    return output.reshape(rows, 1, heads, value.shape[-1]), None


def attend_by_products(model: Any) -> None:
    """Let a model on a CPU attend by products where it would have called torch's fused kernel."""
    if model.device.type != "cpu" or not model._can_set_attn_implementation():
        return
    _register()
    # Parts of a model may have attentions of their own, which stay.
    for config in attention_configs(model):
        if config._attn_implementation_internal == "sdpa":
            config._attn_implementation_internal = ONE_TOKEN


@cache
def _register() -> None:
    """Make the attention known to `transformers`; not above, as importing that takes seconds."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(ONE_TOKEN, one_token_attention)
    AttentionMaskInterface.register(ONE_TOKEN, sdpa_mask)
