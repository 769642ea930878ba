"""Losses of lists: published values, what a list of two is, and what may not change a value."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reference_lists
from prefine.config.components import bind
from prefine.errors import ConfigError
from prefine.losses import (
    ListLogps,
    PairLogps,
    PointLogps,
    all_pairs,
    approx_ndcg,
    best_vs_rest,
    dpo,
    lambda_rank,
    list_mle,
    list_net,
    nca,
    nca_list,
    neural_ndcg,
    simpo,
    sppo,
    sppo_list,
)
from prefine.losses.lists.neural_ndcg import _sorting
from prefine.losses.protocol import LossFunction
from prefine.losses.regularizers.budget import budget
from prefine.losses.regularizers.log_barrier import log_barrier
from prefine.losses.regularizers.nll import nll
from prefine.losses.regularizers.softplus_budget import softplus_budget
from prefine.losses.regularizers.step_budget import step_budget

Reference = Callable[..., float]
LOSSES: dict[str, LossFunction] = {
    "neural_ndcg": neural_ndcg,
    "approx_ndcg": approx_ndcg,
    "lambda_rank": lambda_rank,
    "lambda_rank-raw-sum": partial(lambda_rank, gain="raw", reduction="sum"),
    "list_net": list_net,
    "all_pairs": all_pairs,
    "best_vs_rest": best_vs_rest,
    "sppo_list": sppo_list,
    "nca_list": nca_list,
}


def lists(
    rewards: list[list[float]], labels: list[list[float]], *, reference: float = 0.0
) -> ListLogps:
    """Lists with these log-ratios and scores, best first; ranks are those of the scores."""
    longest = max(map(len, rewards))

    def rows(values: list[list[float]]) -> Tensor:
        return torch.tensor(
            [[*row, *[0.0] * (longest - len(row))] for row in values], dtype=torch.float64
        )

    present = rows([[1.0] * len(row) for row in rewards]) == 1
    ranks = [[1.0 + sorted(set(row), reverse=True).index(one) for one in row] for row in labels]
    ref = torch.full(present.shape, reference, dtype=torch.float64).masked_fill(~present, 0)
    return ListLogps(
        policy=rows(rewards) + ref,
        ref=ref,
        initial=ref,
        tokens=5 * present.double(),
        rank=rows(ranks),
        score=rows(labels),
        present=present,
        weight=torch.ones(len(rewards), dtype=torch.float64),
        lists_in_step=float(len(rewards)),
    )


GOLDEN = lists([[9, 1, 5, 2]], [[5, 4, 3, 2]])


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (partial(neural_ndcg, beta=1, tau=0.01), -0.958474),
        (partial(neural_ndcg, beta=1, tau=0.1), -0.958474),
        (partial(neural_ndcg, beta=1), -0.959187),
        (partial(neural_ndcg, beta=1, tau=10), -0.874410),
        (partial(neural_ndcg, beta=1, tau=1e3), -0.793423),
        (partial(approx_ndcg, beta=1, alpha=1), -0.951983),
        (partial(approx_ndcg, beta=1), -0.958474),
        (partial(approx_ndcg, beta=1, alpha=250), -0.958474),
        (partial(lambda_rank, beta=1, reduction="sum"), 0.1708434),
        (partial(lambda_rank, beta=1), 0.0284739),
    ],
)
def test_published_values_of_a_list_of_four(loss: LossFunction, value: float) -> None:
    assert float(loss(GOLDEN)) == pytest.approx(value, abs=6e-7)


def test_the_sorting_shares_every_place_and_every_answer() -> None:
    shares = _sorting(GOLDEN.logratio, GOLDEN, tau=1.0)[0]
    torch.testing.assert_close(shares.sum(1), torch.ones(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(shares.sum(0), torch.ones(4).double(), rtol=0, atol=1e-3)
    rng = np.random.default_rng(0)
    for size in (2, 3, 5, 8):
        some = lists([rng.normal(0, 3, size).tolist()], [list(range(size, 0, -1))])
        columns = _sorting(some.logratio, some, tau=1.0)[0].sum(0)
        torch.testing.assert_close(columns, torch.ones(size).double(), rtol=0, atol=1e-2)


@pytest.mark.parametrize("labels", [[1.0, 0.0], [1.0, 0.5]])
@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_a_list_of_two_under_ndcg_is_a_bounded_sigmoid(labels: list[float], tau: float) -> None:
    gains = [2**label - 1 for label in labels]
    worth = (gains[0] - gains[1]) * (1 - 1 / np.log2(3)) / (gains[0] + gains[1] / np.log2(3))
    for margin in (0.2, -3.0):
        logps = lists([[margin, 0.0]], [labels])
        sigmoid = 1 / (1 + np.exp(-margin / tau))
        expected = -1 + worth * (1 - sigmoid)
        assert float(neural_ndcg(logps, beta=1, tau=tau)) == pytest.approx(expected, rel=1e-12)
    if labels == [1.0, 0.0]:
        assert float(neural_ndcg(lists([[0.3, 0.1]], [labels]), beta=1)) == pytest.approx(
            -0.8338571, abs=6e-8
        )
        assert float(lambda_rank(lists([[0.3, 0.1]], [labels]), beta=1)) == pytest.approx(
            0.2207553, abs=6e-8
        )


def pair_of(logps: ListLogps, **more: Any) -> PairLogps:
    return PairLogps(
        logps.policy[:, 0], logps.policy[:, 1], logps.ref[:, 0], logps.ref[:, 1], **more
    )


def test_lists_of_two_are_losses_of_pairs() -> None:
    logps = lists([[0.7, -1.1], [-2.0, 3.0]], [[2, 1], [2, 1]], reference=-40)
    pair = pair_of(logps)

    def same(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)

    same(all_pairs(logps, loss=partial(dpo, beta=0.3)), dpo(pair, beta=0.3))
    same(best_vs_rest(logps), dpo(pair))
    # NDCG loses this much when two swap, whatever their places.
    worth = (3 - 1) * (1 - 1 / np.log2(3)) / (3 + 1 / np.log2(3))
    same(lambda_rank(logps, beta=0.3), worth * dpo(pair, beta=0.3))
    certain = pair_of(logps, p_chosen=torch.sigmoid(torch.ones(2).double()))
    same(sppo_list(logps, beta=0.2), sppo(certain, beta=0.2))
    same(nca_list(logps, beta=0.2, scale=1e3), nca(pair, beta=0.2))


def test_values_against_sums_written_out() -> None:
    """Scores and ranks, each option away from its default, in plain Python."""
    rewards, scores = [0.4, -1.3, 2.2], [1.5, 0.5, -0.5]
    logps = lists([rewards], [scores], reference=-7)
    beta, scale = 0.6, 1.7
    r, psi = beta * np.array(rewards), scale * np.array(scores)
    target, policy = (np.exp(x) / np.exp(x).sum() for x in (psi, r))
    expected = -(target * np.log(policy)).sum()
    assert float(list_net(logps, beta=beta, scale=scale)) == pytest.approx(expected, rel=1e-12)

    ranks = scale * np.array([2.0, 1.0, 0.0])
    target = np.exp(ranks) / np.exp(ranks).sum()
    sigmoid = 1 / (1 + np.exp(-r))
    expected = -(target * np.log(sigmoid) + np.log(1 - sigmoid) / 3).sum()
    found = nca_list(logps, beta=beta, labels="ranks", scale=scale)
    assert float(found) == pytest.approx(expected, rel=1e-12)

    wins = 1 / (1 + np.exp(-(psi[:, None] - psi[None])))
    estimated = (wins.sum(1) - 0.5) / 2
    expected = ((np.array(rewards) - (estimated - 0.5) / beta) ** 2).mean()
    assert float(sppo_list(logps, beta=beta, scale=scale)) == pytest.approx(expected, rel=1e-12)

    # In the order of r the answers stand at 2, 3, 1.
    gains, discount = 2**ranks - 1, 1 / np.log2(1 + np.array([2.0, 3.0, 1.0]))
    expected = -sum(
        abs(gains[i] - gains[j])
        * abs(discount[i] - discount[j])
        * np.log(1 / (1 + np.exp(r[j] - r[i])))
        for i, j in ((0, 1), (0, 2), (1, 2))
    )
    raw = partial(lambda_rank, beta=beta, labels="ranks", scale=scale, gain="raw")
    assert float(raw(logps, reduction="sum")) == pytest.approx(expected, rel=1e-12)
    assert float(raw(logps)) == pytest.approx(expected / 3, rel=1e-12)

    place = 1 + np.array([sum(1 / (1 + np.exp(3 * (r[i] - r[j]))) for j in range(3) if j != i)
                          for i in range(3)])  # fmt: skip
    ideal = gains[0] + gains[1] / np.log2(3)
    expected = -(gains / np.log2(1 + place)).sum() / ideal
    found = approx_ndcg(logps, beta=beta, alpha=3, labels="ranks", scale=scale)
    assert float(found) == pytest.approx(expected, rel=1e-12)
    hard = -(gains * discount).sum() / ideal
    found = neural_ndcg(logps, beta=beta, tau=1e-3, labels="ranks", scale=scale)
    assert float(found) == pytest.approx(hard, rel=1e-6)


def test_any_loss_of_pairs_over_the_pairs_of_a_list() -> None:
    rewards = [0.4, -1.3, 2.2, 0.1]
    logps = lists([rewards], [[3, 2, 2, 1]], reference=-7)

    def of(chosen: int, rejected: int) -> float:
        one = [logps.policy[0, place : place + 1] for place in (chosen, rejected)]
        five = torch.full((1,), 5.0, dtype=torch.float64)
        pair = PairLogps(one[0], one[1], chosen_tokens=five, rejected_tokens=five)
        return float(simpo(pair, beta=1.5))

    every = [of(0, 1), of(0, 2), of(0, 3), of(1, 3), of(2, 3)]
    found = all_pairs(logps, loss=partial(simpo, beta=1.5))
    assert float(found) == pytest.approx(np.mean(every), rel=1e-12)
    found = best_vs_rest(logps, loss=partial(simpo, beta=1.5))
    assert float(found) == pytest.approx(np.mean(every[:3]), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_order_neighbours_and_padding_change_nothing(name: str) -> None:
    loss = LOSSES[name]
    first, second = ([0.4, -1.3, 2.2], [3.0, 2.0, 0.5]), ([1.0, -0.4], [0.9, 0.1])
    alone = loss(lists([second[0]], [second[1]], reference=-30))
    both = lists([first[0], second[0]], [first[1], second[1]], reference=-30)
    torch.testing.assert_close(loss(both)[1:], alone, rtol=1e-13, atol=0)
    wild = replace(both, policy=both.policy.masked_fill(~both.present, -1e9))
    torch.testing.assert_close(loss(wild), loss(both), rtol=0, atol=0)
    order = torch.tensor([2, 0, 1])
    moved = {
        key: value[:, order]
        for key, value in vars(both).items()
        if isinstance(value, Tensor) and value.ndim == 2
    }
    one = replace(both, **moved)
    torch.testing.assert_close(loss(one)[:1], loss(both)[:1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_differences_and_extremes_are_finite(name: str) -> None:
    loss = LOSSES[name]
    logps = lists([[0.4, -1.3, 2.2], [1.0, -0.4]], [[3, 2, 0.5], [0.9, 0.1]], reference=-30)
    policy = logps.policy.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda leaf: loss(replace(logps, policy=leaf)), (policy,))
    for size in (1e4, -1e4):
        far = torch.tensor([[0, size, 2 * size], [size, -size, 0]], dtype=torch.float64)
        far = far.masked_fill(~logps.present, 0).requires_grad_()
        values = loss(replace(logps, policy=far))
        (gradient,) = torch.autograd.grad(values.sum(), far)
        assert values.isfinite().all() and gradient.isfinite().all()
        assert (gradient[~logps.present] == 0).all()


@pytest.mark.parametrize("name", ["neural_ndcg", "approx_ndcg", "lambda_rank"])
def test_lists_that_gain_nothing_teach_nothing(name: str) -> None:
    logps = lists([[0.4, -1.3, 2.2]], [[0, -1, -3]])
    policy = logps.policy.clone().requires_grad_()
    value = LOSSES[name](replace(logps, policy=policy))
    (gradient,) = torch.autograd.grad(value.sum(), policy)
    assert float(value.detach()) == 0 and (gradient == 0).all()


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        ("kto", "loss reads labels; give a loss of pairs"),
        ("beta_dpo", "loss reads a whole step of pairs; give one that reads each by itself"),
        ("wpo", "loss needs tokens, vocabulary, which the pairs of a list do not have"),
        ({"name": "rpo", "nll_reduction": "token_mean"}, "a mean over a step; choose sum or mean"),
        ({"name": "dpo", "bta": 1}, r"train\.loss\.loss\.bta"),
    ],
)
def test_losses_of_pairs_that_lists_cannot_feed_are_refused(inner: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        bind("loss", "all_pairs", {"loss": inner}, where="train.loss")


def _win(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    beats = 1 / (1 + np.exp(labels[None] - labels[:, None]))
    return reference_lists.win_probabilities(beats, with_self=False)


def _dpo_lists(name: str, beta: float) -> tuple[LossFunction, Reference]:
    return (
        partial(LOSSES[name], loss=partial(dpo, beta=beta)),
        partial(getattr(reference_lists, name), beta=beta, reduction="mean"),
    )


AGAINST: dict[str, tuple[LossFunction, Reference]] = {}
for _beta, _other in ((0.1, 1.0), (0.7, 0.4)):
    AGAINST |= {
        f"neural_ndcg-{_beta}": (
            partial(neural_ndcg, beta=_beta, tau=_other),
            partial(reference_lists.neural_ndcg, beta=_beta, tau=_other, epsilon=0),
        ),
        f"approx_ndcg-{_beta}": (
            partial(approx_ndcg, beta=_beta, alpha=25 * _other),
            partial(reference_lists.approx_ndcg, beta=_beta, alpha=25 * _other),
        ),
        f"list_mle-{_beta}": (
            partial(list_mle, beta=_beta),
            partial(reference_lists.list_mle, beta=_beta),
        ),
        f"list_net-{_beta}": (
            partial(list_net, beta=_beta),
            partial(reference_lists.list_net, beta=_beta),
        ),
        f"nca_list-{_beta}": (
            partial(nca_list, beta=_beta, scale=1 / _other),
            partial(reference_lists.nca_list, beta=_beta, alpha=_other),
        ),
        f"sppo_list-{_beta}": (
            partial(sppo_list, beta=_beta),
            lambda policy, ref, labels, beta=_beta: reference_lists.sppo_list(
                policy, ref, _win(labels), beta=beta
            ),
        ),
        f"all_pairs-{_beta}": _dpo_lists("all_pairs", _beta),
        f"best_vs_rest-{_beta}": _dpo_lists("best_vs_rest", _beta),
    }
    for _gain in ("normalized", "raw"):
        for _reduction in ("mean", "sum"):
            AGAINST[f"lambda_rank-{_gain}-{_reduction}-{_beta}"] = (
                partial(lambda_rank, beta=_beta, gain=_gain, reduction=_reduction),
                partial(
                    reference_lists.lambda_rank,
                    beta=_beta,
                    normalized=_gain == "normalized",
                    reduction=_reduction,
                ),
            )


@pytest.mark.parametrize("name", AGAINST)
def test_values_are_those_of_the_references(name: str) -> None:
    loss, reference = AGAINST[name]
    rng = np.random.default_rng(7)
    rewards = [rng.normal(0, 4, size).tolist() for size in (2, 5, 3, 8)]
    labels = [sorted(rng.uniform(0.1, 4, len(row)).tolist(), reverse=True) for row in rewards]
    logps = lists(rewards, labels, reference=-40)
    expected = [
        reference(-40 + np.array(row), np.full(len(row), -40.0), np.array(label))
        for row, label in zip(rewards, labels, strict=True)
    ]
    np.testing.assert_allclose(loss(logps).numpy(), expected, rtol=1e-12, atol=1e-12)


HELD: dict[str, LossFunction] = {
    "budget": partial(budget, delta=0.3),
    "budget-token": partial(budget, delta=-0.1, per="token"),
    "step_budget": partial(step_budget, delta=-0.2),
    "softplus_budget": partial(softplus_budget, delta=0.3, sharpness=2.0),
    "log_barrier": partial(log_barrier, delta=0.3, per="token"),
    "nll": nll,
    "nll-mean": partial(nll, reduction="mean"),
}


@pytest.mark.parametrize("name", HELD)
def test_regularizers_hold_the_best_answer_and_good_ones_as_the_chosen_of_a_pair(name: str) -> None:
    """One item of each kind with the same answer: the other answers change nothing."""
    held = HELD[name]
    one = lists([[-0.9, 1.4, -2.0]], [[3, 2, 1]], reference=-30)
    best = {"ref": one.ref[:, 0], "initial": one.initial[:, 0], "weight": one.weight}
    expected = held(
        PairLogps(
            one.policy[:, 0],
            one.policy[:, 1],
            initial_chosen=one.initial[:, 0],
            chosen_tokens=one.tokens[:, 0],
        )
    )
    torch.testing.assert_close(held(one), expected, rtol=0, atol=0)
    good, bad = (
        PointLogps(
            policy=one.policy[:, 0],
            tokens=one.tokens[:, 0],
            desirable=torch.tensor([label], dtype=torch.float64),
            answers_in_step=1.0,
            **best,
        )
        for label in (1.0, 0.0)
    )
    torch.testing.assert_close(held(good), expected, rtol=0, atol=0)
    assert float(held(bad)) == 0


def test_a_budget_up_to_a_rank_is_the_mean_over_its_answers() -> None:
    # Falls of .9, -1.4, 2 and, of equal rank with it, 1.
    one = lists([[-0.9, 1.4, -2.0, -1.0]], [[3, 2, 1, 1]], reference=-30)
    for rank, expected in ((1, 0.6), (2, 0.6 / 2), (3, (0.6 + 1.7 + 0.7) / 4)):
        assert float(budget(one, delta=0.3, up_to_rank=rank)) == pytest.approx(expected, rel=1e-12)
