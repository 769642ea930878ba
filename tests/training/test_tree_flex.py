"""FlexAttention on packed trees: what its mask lets through, on a CPU, and the compiled kernel
where CUDA is.
"""

import pytest
import torch
from packed import SHAPES, dense_mask, dense_tree_attention, layout
from torch.nn.attention.flex_attention import flex_attention

from prefine.training.forward.attention.flex import (
    BLOCK,
    block_mask,
    flex_tree_attention,
    padded_length,
)
from prefine.training.forward.attention.interface import tree_attention
from prefine.training.forward.attention.visibility import AttentionRule, visible_ranges

WINDOWS = [None, 1, 9, 150]
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("window", WINDOWS)
def test_the_ranges_of_a_token_are_what_it_sees(name: str, window: int | None) -> None:
    trees, length = layout(SHAPES[name])
    first, stop, own = visible_ranges(trees, length + 3, window)[:, :, None]
    key = torch.arange(length + 3)
    seen = ((key >= first) & (key < stop)) | ((key >= own) & (key <= key[:, None]))
    assert torch.equal(seen[:length, :length], dense_mask(trees, window))
    assert torch.equal(seen[length:].nonzero()[:, 1], key[length:])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("window", WINDOWS)
def test_blocks_are_skipped_or_whole_only_where_they_are(name: str, window: int | None) -> None:
    trees, length = layout(SHAPES[name])
    padded = -(-length // BLOCK) * BLOCK
    mask = block_mask(trees, padded, window, torch.device("cpu"))
    seen = torch.eye(padded, dtype=torch.bool)
    seen[:length, :length] = dense_mask(trees, window)
    counts = seen.view(padded // BLOCK, BLOCK, padded // BLOCK, BLOCK).sum((1, 3))
    assert torch.equal(_listed(mask.full_kv_num_blocks, mask.full_kv_indices), counts == BLOCK**2)
    assert torch.equal(
        _listed(mask.kv_num_blocks, mask.kv_indices), (counts > 0) & (counts < BLOCK**2)
    )


def _listed(count: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The table of blocks that the lists name."""
    found = torch.zeros(numbers.shape[-2:], dtype=torch.bool)
    for row, (many, columns) in enumerate(zip(count[0, 0], numbers[0, 0], strict=True)):
        found[row, columns[:many].long()] = True
    return found


@pytest.mark.parametrize("name", ["mixed", "long"])
@pytest.mark.parametrize(
    "rule",
    [AttentionRule(0.3), AttentionRule(0.3, 9), AttentionRule(0.3, 150, 2.0)],
    ids=["plain", "window", "both"],
)
def test_uncompiled_it_equals_the_dense_mask(name: str, rule: AttentionRule) -> None:
    trees, length = layout(SHAPES[name])
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, length, 16) for heads in (4, 2, 2))
    found = flex_tree_attention(q, k, v, trees, rule, attend=flex_attention)
    torch.testing.assert_close(
        found, dense_tree_attention(q, k, v, trees, rule), rtol=1e-5, atol=1e-5
    )


@on_cuda
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize(
    "rule",
    [AttentionRule(0.1), AttentionRule(0.1, 150), AttentionRule(0.1, 150, 2.0)],
    ids=["plain", "window", "both"],
)
def test_the_compiled_kernel_equals_the_dense_mask(
    name: str, width: int, rule: AttentionRule
) -> None:
    trees, length = layout(SHAPES[name])
    torch.manual_seed(0)
    # As models give them: a view of [1, T, heads, d].
    exact = [
        torch.randn(1, length, heads, width, device="cuda").transpose(1, 2) for heads in (8, 2, 2)
    ]
    upstream = torch.randn(1, length, 8, width, device="cuda")
    given = [rows.bfloat16().requires_grad_() for rows in exact]
    # The reference computes on the same rounded numbers.
    rounded = [rows.detach().float().requires_grad_() for rows in given]
    settings = {"scaling": rule.scale, "sliding_window": rule.window, "softcap": rule.softcap}
    mixed, _ = tree_attention(torch.nn.Module(), *given, None, trees=trees, **settings)
    expected = dense_tree_attention(*rounded, trees, rule)
    upstream = upstream.bfloat16()
    found = [mixed, *torch.autograd.grad(mixed, given, upstream)]
    wanted = [expected, *torch.autograd.grad(expected, rounded, upstream.float())]
    for one, other in zip(found, wanted, strict=True):
        # Probabilities and their gradients are rounded to bfloat16, 2^-9 each at most.
        assert torch.linalg.norm(one.float() - other) <= 0.01 * torch.linalg.norm(other)


@on_cuda
def test_other_layouts_do_not_compile_it_again() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for name in SHAPES:
        trees, length = layout(SHAPES[name])
        q, k, v = (
            torch.randn(1, h, length, 64, device="cuda", dtype=torch.bfloat16) for h in (4, 2, 2)
        )
        flex_tree_attention(q, k, v, trees, AttentionRule(0.1))
    # One for the full row, one for rows of a single block, one for all others.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


def test_rows_that_are_nearly_a_power_of_two_long_become_that() -> None:
    assert padded_length(8192) == padded_length(7700) == (8192, False)
    assert padded_length(7600) == (7680, True)
    assert padded_length(1025) == (1152, True)
    assert padded_length(500) == (512, True)
