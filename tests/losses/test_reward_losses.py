"""The losses of reward models against loops over plain numbers."""

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from prefine.losses.facts import needs_of
from prefine.losses.rewards.bradley_terry import bradley_terry
from prefine.losses.rewards.plackett_luce import plackett_luce
from prefine.losses.rewards.protocol import AnswerRewards

ITEMS = (
    ((0.4, -0.3), (1, 2), (2.0, 0.5)),
    ((1.0, 2.0, -1.5), (1, 2, 2), (3.0, 1.0, 1.0)),
    ((0.1, 0.2, 0.3, 0.4), (1, 2, 3, 4), (4.0, 2.0, 1.0, 0.0)),
)


def batch(items: tuple[tuple[tuple[float, ...], ...], ...] = ITEMS) -> AnswerRewards:
    """Items as a batch, shorter ones filled up with 0."""
    longest = max(len(item[0]) for item in items)

    def column(at: int) -> Tensor:
        rows = [[*item[at], *[0] * (longest - len(item[at]))] for item in items]
        return torch.tensor(rows, dtype=torch.float64)

    present = [[k < len(item[0]) for k in range(longest)] for item in items]
    weight = torch.ones(len(items), dtype=torch.float64)
    return AnswerRewards(column(0), column(1), column(2), torch.tensor(present), weight)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize(("margin", "center"), [(0.0, 0.0), (0.7, 0.0), (0.3, 0.05)])
def test_bradley_terry_is_the_mean_over_ordered_pairs(margin: float, center: float) -> None:
    expected = []
    for reward, rank, score in ITEMS:
        ordered = [(i, j) for i, j in permutations(range(len(rank)), 2) if rank[i] < rank[j]]
        losses = [
            -log_sigmoid(reward[i] - reward[j] - margin * (score[i] - score[j])) for i, j in ordered
        ]
        middle = center * (2 * sum(reward) / len(reward)) ** 2
        expected.append(sum(losses) / len(losses) + middle)
    found = bradley_terry(batch(), margin=margin, center=center).tolist()
    assert found == pytest.approx(expected, abs=1e-12)


def test_of_a_pair_the_losses_are_those_of_the_literature() -> None:
    pair = batch((((0.4, -0.3), (1, 2), (2.0, 0.5)),))
    # -log sigmoid(0.7), and with 0.01 * (0.4 - 0.3)^2.
    assert float(bradley_terry(pair)) == pytest.approx(0.403186048885, abs=1e-12)
    centred = 0.403186048885 + 0.01 * 0.01
    assert float(bradley_terry(pair, center=0.01)) == pytest.approx(centred, abs=1e-12)
    assert float(plackett_luce(pair, center=0.01)) == pytest.approx(centred, abs=1e-12)


def test_plackett_luce_is_the_likelihood_of_drawing_in_this_order() -> None:
    expected = []
    for reward, rank, _ in ITEMS:
        loss = 0.0
        for k in range(len(rank)):
            rest = [math.exp(reward[j]) for j in range(len(rank)) if rank[j] >= rank[k]]
            loss += math.log(sum(rest)) - reward[k]
        expected.append(loss)
    assert plackett_luce(batch()).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_margin_reads_scores_only_where_it_is_set() -> None:
    from functools import partial

    assert needs_of(bradley_terry) == frozenset()
    assert needs_of(partial(bradley_terry, margin=0.5)) == {"score_gap"}
    unknown = batch((((0.4, -0.3), (1, 2), (math.nan, math.nan)),))
    assert float(bradley_terry(unknown)) == pytest.approx(0.403186048885, abs=1e-12)


@pytest.mark.parametrize("loss", [bradley_terry, plackett_luce])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_gradients_are_exact_and_finite_at_extreme_rewards(loss: object, size: float) -> None:
    assert callable(loss)
    rewards = batch()

    def of(reward: Tensor) -> Tensor:
        given = AnswerRewards(reward, rewards.rank, rewards.score, rewards.present, rewards.weight)
        found = loss(given, center=0.1)
        assert isinstance(found, Tensor)
        return found

    leaf = (size * rewards.reward).requires_grad_()
    value = of(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    assert value.isfinite().all() and gradient.isfinite().all()
    # Nothing behind an item's end has a gradient.
    assert not gradient[~rewards.present].any()
    if size == 1.0:
        assert torch.autograd.gradcheck(of, (leaf,))
