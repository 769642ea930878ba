"""The attention that `transformers` models call when their rows are packed trees."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from prefine.training.batches.packing import Layout
from prefine.training.forward.attention.blockwise import AttentionRule, TreeAttention, visible
from prefine.training.forward.attention.flex import flex_dtype, flex_tree_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TREE = "prefine_tree"
"""The name under which the attention is registered."""

# What attention functions are given in transformers beside scaling, window and soft-cap, and what
# it may be here.
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
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    trees: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    only_scored: bool = False,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row, in the form of `transformers`' AttentionInterface.

    Args:
        module: The attention layer.
        query: [1, heads, T, d].
        key: [1, kv_heads, T, d].
        value: [1, kv_heads, T, d].
        attention_mask: None: the layout says who sees whom.
        trees: The layout of the row.
        scaling: Factor of the scores; None is 1 / sqrt(d).
        sliding_window: How many positions a token sees, itself included.
        softcap: Bound of the scores.
        only_scored: Whether nothing reads what is given to a prompt's tokens but the last one.
        others: What other layers give; refused if it would change the result.

    Returns: The mixed values [1, T, heads, d], and None for the weights.

    Raises:
        NotImplementedError: The layer asks for something that is not done here; training then
            shares no prompts.
    """
    rule = _rule(query, attention_mask, trees, scaling, sliding_window, softcap, others)
    assert trees is not None
    if (dtype := flex_dtype(query)) is not None:
        query, key, value = (rows.to(dtype) for rows in (query, key, value))
        return flex_tree_attention(query, key, value, trees, rule), None
    if query.is_cuda and rule.window is None and rule.softcap is None:
        return _by_tree(query, key, value, trees, rule.scale), None
    # Half precision gains nothing here: the products are small and the sums want float32.
    exact = torch.promote_types(query.dtype, torch.float32)
    # The backward pass of an index would fill a tensor of its own with zeros.
    rows = (t.squeeze(0).to(exact) for t in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        asked = rule._replace(only_scored=only_scored)
        mixed: Tensor = TreeAttention.apply(*rows, trees, asked)  # type: ignore[no-untyped-call]
    return mixed[None].to(query.dtype), None


def dense_tree_attention(
    query: Tensor, key: Tensor, value: Tensor, trees: Layout, rule: AttentionRule
) -> Tensor:
    """The mixed values by one mask over the whole row: quadratic, for tests only."""
    heads = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(heads, dim=1) for t in (key, value))
    scores = query @ key.transpose(2, 3) * rule.scale
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    scores = scores.masked_fill(~visible(trees, rule.window).to(scores.device), float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous()


@contextmanager
def attending_trees(model: "PreTrainedModel") -> Iterator[None]:
    """Let the model's attention be that of packed trees until the end of the block."""
    _register()
    before = model.config._attn_implementation
    model.set_attn_implementation(TREE)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@cache
def _register() -> None:
    """Make the attention known to `transformers`; not above, as importing that takes seconds."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(TREE, tree_attention)
    AttentionMaskInterface.register(TREE, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout takes the mask's place."""


def _rule(
    query: Tensor,
    attention_mask: Tensor | None,
    trees: Layout | None,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
    others: dict[str, Any],
) -> AttentionRule:
    """Scale, window and soft-cap; what else a layer asks for is refused."""
    asked = sorted(
        name for name, value in others.items() if value is not None and name not in _WITHOUT_EFFECT
    )
    if trees is None or attention_mask is not None or len(query) != 1:
        raise NotImplementedError("the layout of the trees does not reach the model's attention")
    if asked:
        raise NotImplementedError(f"the model's attention asks for {', '.join(asked)}")
    return AttentionRule(
        query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window or None, softcap
    )


def _by_tree(query: Tensor, key: Tensor, value: Tensor, trees: Layout, scale: float) -> Tensor:
    """Torch's own fused kernels, a call for each prompt and each completion."""
    mixed = []
    for tree in trees:
        prompt = slice(tree.start, tree.start + tree.prompt)
        q, k, v = (t[:, :, prompt] for t in (query, key, value))
        mixed.append(
            scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        )
        for a, b in tree.branches:
            if a == b:
                continue
            own = slice(a, b)
            k, v = (torch.cat([t[:, :, prompt], t[:, :, own]], dim=2) for t in (key, value))
            bias = causal_lower_right(b - a, k.shape[2])
            mixed.append(
                scaled_dot_product_attention(
                    query[:, :, own], k, v, attn_mask=bias, scale=scale, enable_gqa=True
                )
            )
    return torch.cat(mixed, dim=2).transpose(1, 2).contiguous()
