"""Attention of one new token by products, beside torch's fused kernel."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from prefine.models.hf.one_token_attention import (
    ONE_TOKEN,
    attend_by_products,
    one_token_attention,
)


class Layer(torch.nn.Module):
    """What a layer tells its attention."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


def inputs(
    rows: int = 5, heads: int = 6, groups: int = 1, queries: int = 1, dtype: Any = torch.float64
) -> tuple[Layer, torch.Tensor, torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(3)

    def some(heads: int, tokens: int, width: int) -> torch.Tensor:
        return torch.randn(rows, heads, tokens, width, generator=drawn, dtype=torch.float64)

    query, key = some(heads, queries, 8), some(heads // groups, 11, 8)
    value = some(heads // groups, 11, 4 if queries == 1 else 8)
    return Layer(groups), query.to(dtype), key.to(dtype), value.to(dtype)


def padded(rows: int, queries: int = 1) -> torch.Tensor:
    seen = torch.ones(rows, 1, queries, 11, dtype=torch.bool)
    for row in range(rows):
        seen[row, :, :, :row] = False
    return seen


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("mask", ["none", "padded"])
@pytest.mark.parametrize("scaling", [None, 0.25])
def test_it_is_the_fused_attention(groups: int, mask: str, scaling: float | None) -> None:
    layer, query, key, value = inputs(groups=groups)
    seen = None if mask == "none" else padded(len(query))
    found, weights = one_token_attention(layer, query, key, value, seen, scaling=scaling)
    expected, _ = sdpa_attention_forward(layer, query, key, value, seen, scaling=scaling)
    assert weights is None
    assert found.shape == expected.shape == (5, 1, 6, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_a_row_has_its_bits_in_every_batch_and_place() -> None:
    layer, query, key, value = inputs(rows=1, dtype=torch.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for rows in (1, 16, 64):
                more = (tensor.expand(rows, -1, -1, -1).contiguous() for tensor in (query, key))
                seen = padded(3)[2:].expand(rows, -1, -1, -1)
                output, _ = one_token_attention(
                    layer, *more, value.expand(rows, -1, -1, -1).contiguous(), seen
                )
                found.extend(output)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize(
    "case", ["two queries", "half precision", "numbers as mask", "bias of positions"]
)
def test_all_else_goes_to_the_fused_attention(case: str) -> None:
    queries = 2 if case == "two queries" else 1
    dtype = torch.bfloat16 if case == "half precision" else torch.float32
    layer, query, key, value = inputs(queries=queries, dtype=dtype)
    mask: torch.Tensor = padded(5, queries)
    others: dict[str, Any] = {}
    if case == "numbers as mask":
        mask = torch.zeros(5, 1, 1, 11).masked_fill(~mask, -torch.inf)
    if case == "bias of positions":
        others["position_bias"] = torch.linspace(0, 1, 11).expand(5, 6, 1, 11)
    found, _ = one_token_attention(layer, query, key, value, mask, **others)
    expected, _ = sdpa_attention_forward(layer, query, key, value, mask, **others)
    assert torch.equal(found, expected)


def test_what_the_fused_attention_refuses_is_refused() -> None:
    layer, query, key, value = inputs()
    with pytest.raises(ValueError, match="softcap"):
        one_token_attention(layer, query, key, value, None, softcap=30.0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_of_its_own_attention_keeps_it(attention: str) -> None:
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=16, attn_implementation=attention,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.arange(6)[None]
    with torch.inference_mode():
        expected = model(ids).logits[:, -1]
        attend_by_products(model)
        read = model(ids[:, :-1], use_cache=True)
        found = model(ids[:, -1:], past_key_values=read.past_key_values).logits[:, -1]
    assert model.config._attn_implementation == {"sdpa": ONE_TOKEN}.get(attention, attention)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
