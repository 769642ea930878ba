"""Tree attention in blocks against one dense mask over the row, values and gradients."""

import pytest
import torch
from packed import SHAPES, dense_mask, dense_tree_attention, layout
from torch import nn

from prefine.training.batches.packing import Tree
from prefine.training.forward.attention import blockwise
from prefine.training.forward.attention.interface import tree_attention, tree_by_tree_attention
from prefine.training.forward.attention.visibility import AttentionRule, visible


def _inputs(length: int, *, heads: int = 4, kv_heads: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    # As models give them: a view of [1, T, heads, d].
    return [
        torch.randn(1, length, n, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for n in (heads, kv_heads, kv_heads)
    ]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kept", [512, 0], ids=["kept", "computed-again"])
@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"sliding_window": 9},
        {"softcap": 1.5},
        {"sliding_window": 150, "softcap": 2.0},
        {"scaling": 0.7},
    ],
    ids=["plain", "window", "soft-cap", "both", "scale"],
)
def test_blocks_equal_the_dense_mask(
    name: str, rule: dict[str, float], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "KEPT_KEYS", kept)
    trees, length = layout(SHAPES[name])
    inputs = _inputs(length)
    upstream = torch.randn(1, length, 4, 8, dtype=torch.float64)
    blocks, _ = tree_attention(nn.Module(), *inputs, None, trees=trees, **rule)
    as_rule = AttentionRule(
        rule.get("scaling", 8**-0.5), rule.get("sliding_window"), rule.get("softcap")
    )
    dense = dense_tree_attention(*inputs, trees, as_rule)
    found = [[mixed, *torch.autograd.grad(mixed, inputs, upstream)] for mixed in (blocks, dense)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("window", [None, 9])
def test_what_nothing_reads_may_be_left_out(name: str, window: int | None) -> None:
    """Where only a prompt's last token and the completions are read, these are the same, and so
    are all gradients.
    """
    trees, length = layout(SHAPES[name])
    read = [at for tree in trees for at in range(tree.start + tree.prompt_length - 1, tree.stop)]
    inputs = _inputs(length)
    upstream = torch.randn(1, len(read), 4, 8, dtype=torch.float64)
    found = []
    for only_scored in (False, True):
        mixed, _ = tree_attention(
            nn.Module(), *inputs, None, trees=trees, sliding_window=window, only_scored=only_scored
        )
        found.append([mixed[:, read], *torch.autograd.grad(mixed[:, read], inputs, upstream)])
        left_out = int((mixed == 0).all(-1).all(-1).sum())
    long = (tree for tree in trees if tree.stop - tree.start > blockwise.QUERIES)
    assert left_out >= sum(tree.prompt_length - 1 for tree in long)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", SHAPES)
def test_torchs_own_kernels_tree_by_tree_equal_the_dense_mask(name: str) -> None:
    trees, length = layout(SHAPES[name])
    inputs = _inputs(length)
    expected = dense_tree_attention(*inputs, trees, AttentionRule(0.3))
    found = tree_by_tree_attention(*inputs, trees, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("window", [None, 9])
def test_neighbouring_trees_have_the_part_of_the_mask_that_is_theirs(
    name: str, window: int | None
) -> None:
    trees, _ = layout(SHAPES[name])
    own = slice(trees[-1].start, trees[-1].stop)
    assert torch.equal(visible(trees, window), dense_mask(trees, window))
    assert torch.equal(visible(trees[-1:], window), dense_mask(trees, window)[own, own])


def test_siblings_and_other_trees_are_never_seen() -> None:
    seen = visible((Tree(0, 2, ((2, 3), (3, 5))), Tree(5, 1, ((6, 7),))))
    expected = ["1000000", "1100000", "1110000", "1101000", "1101100", "0000010", "0000011"]
    assert ["".join(str(int(x)) for x in row) for row in seen] == expected
    near = visible((Tree(0, 2, ((2, 3), (3, 5))),), window=2)
    # The second completion's first token is one position after the prompt's end, wherever it stands
    # in the row.
    assert ["".join(str(int(x)) for x in row) for row in near] == [
        "10000",
        "11000",
        "01100",
        "01010",
        "00011",
    ]


def test_what_would_change_the_result_is_refused() -> None:
    trees, length = layout(SHAPES["mixed"])
    inputs = _inputs(length)
    with pytest.raises(NotImplementedError, match="asks for s_aux"):
        tree_attention(nn.Module(), *inputs, None, trees=trees, s_aux=torch.zeros(4))
    with pytest.raises(NotImplementedError, match="layout of the trees does not reach"):
        tree_attention(nn.Module(), *inputs, None)
