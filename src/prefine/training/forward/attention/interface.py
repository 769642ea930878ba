"""The attention function that `transformers` models call when their rows are packed trees."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from prefine.models.hf.architecture import attention_configs
from prefine.training.batches.packing import Layout
from prefine.training.forward.attention.blockwise import TreeAttention
from prefine.training.forward.attention.visibility import AttentionRule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TREE = "prefine_tree"
"""The name under which the attention is registered."""

# What `transformers` gives attention functions that cannot change the result here.
_WITHOUT_EFFECT = {
    "position_ids",
    "cache_position",
    "is_causal",
    "use_cache",
    "dropout",
    "output_attentions",
}


def tree_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads T d"],
    key: Float[Tensor, "1 kv_heads T d"],
    value: Float[Tensor, "1 kv_heads T d"],
    attention_mask: Tensor | None,
    *,
    trees: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    only_scored: bool = False,
    **others: Any,
) -> tuple[Float[Tensor, "1 T heads d"], None]:
    """Attention over one packed row, in the form of `transformers`' AttentionInterface.

    Args:
        module: The attention layer.
        query: After rotary embedding.
        key: After rotary embedding.
        value: The values.
        attention_mask: None: the layout says which tokens see each other.
        trees: The layout of the row.
        scaling: Factor of the scores; None is 1 / sqrt(d).
        sliding_window: The number of positions that a token sees, itself included.
        softcap: Bound of the scores.
        only_scored: Nothing reads the output of a prompt's tokens but the last one.
        others: What other layers give; refused if it would change the result.

    Returns: The attention output, and None for the weights.

    Raises:
        NotImplementedError: The layer asks for something that is not supported; training then
            shares no prompts.
    """
    if trees is None or attention_mask is not None or len(query) != 1:
        raise NotImplementedError("the layout of the trees does not reach the model's attention")
    asked = {name for name, value in others.items() if value is not None} - _WITHOUT_EFFECT
    if asked:
        raise NotImplementedError(f"the model's attention asks for {', '.join(sorted(asked))}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rule = AttentionRule(scale, sliding_window or None, softcap)
    # Three ways: one fused kernel per row on CUDA in half precision; torch's own kernels on CUDA
    # where these can do it; products of blocks everywhere else.
    if query.is_cuda:
        from prefine.training.forward.attention.flex import flex_dtype, flex_tree_attention

        if (dtype := flex_dtype(query)) is not None:
            query, key, value = (rows.to(dtype) for rows in (query, key, value))
            return flex_tree_attention(query, key, value, trees, rule), None
        if rule.window is None and softcap is None:
            return tree_by_tree_attention(query, key, value, trees, scale), None
    # Half precision gains nothing here: the products are small and the sums want float32.
    exact = torch.promote_types(query.dtype, torch.float32)
    # Not by an index, whose backward pass would fill a tensor of its own with zeros.
    rows = (t.squeeze(0).to(exact) for t in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        output: Tensor = TreeAttention.apply(  # type: ignore[no-untyped-call]
            *rows, trees, rule._replace(only_scored=only_scored)
        )
    return output[None].to(query.dtype), None


def tree_by_tree_attention(
    query: Float[Tensor, "1 heads T d"],
    key: Float[Tensor, "1 kv_heads T d"],
    value: Float[Tensor, "1 kv_heads T d"],
    trees: Layout,
    scale: float,
) -> Float[Tensor, "1 T heads d"]:
    """Attention by torch's own fused kernels, a call for each prompt and each completion."""
    outputs = []
    for tree in trees:
        prompt = slice(tree.start, tree.start + tree.prompt_length)
        q, k, v = (t[:, :, prompt] for t in (query, key, value))
        outputs.append(
            scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        )
        for start, stop in tree.branches:
            if start == stop:
                continue
            branch = slice(start, stop)
            k, v = (torch.cat([t[:, :, prompt], t[:, :, branch]], dim=2) for t in (key, value))
            bias = causal_lower_right(stop - start, k.shape[2])
            outputs.append(
                scaled_dot_product_attention(
                    query[:, :, branch], k, v, attn_mask=bias, scale=scale, enable_gqa=True
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


@contextmanager
def attending_trees(model: "PreTrainedModel") -> Iterator[None]:
    """Let the model attend to packed trees until the end of the block."""
    _register()
    # Put back one by one: parts of a model, such as a vision tower, may have attentions of their
    # own, and a model that cannot be set leaves some of them set.
    before = [(part, part._attn_implementation_internal) for part in attention_configs(model)]
    try:
        model.set_attn_implementation(TREE)
        yield
    finally:
        for part, implementation in before:
            part._attn_implementation_internal = implementation


@cache
def _register() -> None:
    """Make the attention known to `transformers`; not above, as importing that takes seconds."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(TREE, tree_attention)
    # The layout takes the mask's place.
    AttentionMaskInterface.register(TREE, lambda *_, **__: None)
