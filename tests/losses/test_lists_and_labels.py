"""Losses of lists and of labelled answers against numpy, probabilities that sum to one, and dpo."""

import inspect
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from pair_values import logps as pair_logps

from prefine.config.components import TABLES, bind, lookup
from prefine.errors import ConfigError
from prefine.losses import ListLogps, PointLogps, dpo, kto, list_mle
from prefine.losses.facts import kind_of, needs_of, reads_of
from prefine.losses.protocol import LossFunction, declare

Array = np.ndarray[Any, np.dtype[np.float64]]

SIZES = (2, 5, 3, 8)
RANKS = ((1, 2), (1, 2, 3, 4, 5), (1, 1, 2), (1, 2, 2, 3, 4, 4, 4, 5))


def lists(*, seed: int = 0, spread: float = 4.0) -> tuple[ListLogps, list[Array], list[Array]]:
    """Lists of several sizes, two with ties; and each list's log-probabilities without padding."""
    rng = np.random.default_rng(seed)
    policy = [-50 + spread * rng.normal(size=size) for size in SIZES]
    reference = [-50 + spread * rng.normal(size=size) for size in SIZES]

    def rows(values: Any) -> torch.Tensor:
        made = torch.zeros(len(SIZES), max(SIZES), dtype=torch.float64)
        for number, row in enumerate(values):
            made[number, : len(row)] = torch.as_tensor(row)
        return made

    logps = ListLogps(
        policy=rows(policy),
        ref=rows(reference),
        initial=rows(reference),
        tokens=rows([np.full(size, 9.0) for size in SIZES]),
        rank=rows(RANKS),
        score=rows([np.full(size, np.nan) for size in SIZES]),
        present=rows([np.ones(size) for size in SIZES]) == 1,
        weight=torch.ones(len(SIZES), dtype=torch.float64),
        lists_in_step=float(len(SIZES)),
    )
    return logps, policy, reference


def points(*, seed: int = 0, spread: float = 4.0, count: int = 12) -> PointLogps:
    rng = np.random.default_rng(seed)

    def column(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.float64))

    reference = column(-50 + spread * rng.normal(size=count))
    return PointLogps(
        policy=column(-50 + spread * rng.normal(size=count)),
        ref=reference,
        initial=reference,
        tokens=column(np.full(count, 9)),
        desirable=column(np.arange(count) % 3 != 0),
        weight=column(np.ones(count)),
        answers_in_step=float(count),
    )


def plackett_luce(reward: Array, ranks: tuple[int, ...]) -> float:
    """-log of the product of the draws; an answer's rivals are those that are not better."""
    total = 0.0
    for k, rank in enumerate(ranks):
        rivals = [reward[j] for j, other in enumerate(ranks) if other >= rank]
        total += float(np.logaddexp.reduce(rivals)) - reward[k]
    return total


@pytest.mark.parametrize("beta", [None, 0.1, 0.7])
def test_list_mle_is_the_plackett_luce_likelihood(beta: float | None) -> None:
    logps, policy, reference = lists()
    found = list_mle(logps) if beta is None else list_mle(logps, beta=beta)
    expected = [
        plackett_luce((0.1 if beta is None else beta) * (p - r), ranks)
        for p, r, ranks in zip(policy, reference, RANKS, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13)


def test_the_probabilities_of_all_orders_sum_to_one() -> None:
    rng = np.random.default_rng(3)
    reward, total = 3 * rng.normal(size=4), 0.0
    for order in itertools.permutations(range(4)):
        row = torch.as_tensor(reward[list(order)])[None]
        zero, one = torch.zeros_like(row), torch.ones_like(row)
        rank = torch.arange(1.0, 5.0)[None].double()
        made = ListLogps(row, zero, zero, one, rank, zero, one == 1, one[:, 0], 1.0)
        total += float((-list_mle(made, beta=1.0)).exp())
    assert total == pytest.approx(1, rel=1e-12)


def test_a_list_of_two_is_dpo() -> None:
    pairs = pair_logps()

    def both(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return torch.stack([chosen, rejected], dim=1)

    policy = both(pairs.policy_chosen, pairs.policy_rejected)
    made = ListLogps(
        policy=policy,
        ref=both(pairs.ref_chosen, pairs.ref_rejected),
        initial=policy,
        tokens=policy,
        rank=torch.tensor([[1.0, 2.0]], dtype=policy.dtype).expand_as(policy),
        score=policy,
        present=torch.ones_like(policy, dtype=torch.bool),
        weight=pairs.weight,
        lists_in_step=1.0,
    )
    torch.testing.assert_close(list_mle(made, beta=0.3), dpo(pairs, beta=0.3), rtol=1e-12, atol=0)


def test_equally_good_answers_can_be_swapped_and_what_is_behind_a_list_does_not_count() -> None:
    logps, _, _ = lists()
    order = torch.tensor([0, 2, 1, 3, 5, 4, 6, 7])
    swapped = {
        name: value[:, order] if value.ndim == 2 else value
        for name, value in vars(logps).items()
        if isinstance(value, torch.Tensor)
    }
    swapped_logps = ListLogps(**swapped, lists_in_step=4.0)
    # Only the last list has ties at these places.
    assert float(list_mle(swapped_logps)[3]) == pytest.approx(float(list_mle(logps)[3]), rel=1e-13)
    wild = logps.policy.masked_fill(~logps.present, -1e9)
    changed = ListLogps(**{**vars(logps), "policy": wild})
    assert torch.equal(list_mle(changed), list_mle(logps))


@pytest.mark.parametrize(
    "options",
    [{}, {"beta": 0.7}, {"desirable_weight": 1.3}, {"undesirable_weight": 0.4}, {"z0": 1.5}],
)
def test_kto_is_the_published_value(options: dict[str, float]) -> None:
    logps = points()
    given = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0, "z0": 0.0} | options
    expected = []
    for policy, ref, good in zip(
        logps.policy.tolist(), logps.ref.tolist(), logps.desirable.tolist(), strict=True
    ):
        difference = policy - ref - given["z0"]
        if good:
            value = 1 / (1 + np.exp(-given["beta"] * difference))
            expected.append(given["desirable_weight"] * (1 - value))
        else:
            value = 1 / (1 + np.exp(given["beta"] * difference))
            expected.append(given["undesirable_weight"] * (1 - value))
    np.testing.assert_allclose(kto(logps, **options).numpy(), expected, rtol=1e-12)


def test_kto_makes_good_answers_likelier_and_bad_ones_less_likely() -> None:
    logps = points()
    policy = logps.policy.clone().requires_grad_()
    moved = PointLogps(**{**vars(logps), "policy": policy})
    (gradient,) = torch.autograd.grad(kto(moved, z0=0.5).sum(), policy)
    assert torch.equal(gradient < 0, logps.desirable == 1)


def _value(loss: LossFunction, policy: torch.Tensor, logps: Any) -> torch.Tensor:
    return loss(type(logps)(**{**vars(logps), "policy": policy}))


@pytest.mark.parametrize(("loss", "logps"), [(list_mle, lists()[0]), (kto, points())])
def test_gradients_are_finite_differences_and_extremes_are_finite(
    loss: LossFunction, logps: Any
) -> None:
    policy = logps.policy.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda leaf: _value(loss, leaf, logps), (policy,))
    for size in (1e4, -1e4):
        far = logps.policy + size * torch.linspace(-1, 1, logps.policy.numel()).view_as(policy)
        far = far.requires_grad_()
        values = _value(loss, far, logps)
        (gradient,) = torch.autograd.grad(values.sum(), far)
        assert values.isfinite().all() and gradient.isfinite().all()


DEFAULTS = {
    "list_mle": {"beta": 0.1},
    "neural_ndcg": {"beta": 0.1, "tau": 1.0, "labels": "scores", "scale": 1.0},
    "approx_ndcg": {"beta": 0.1, "alpha": 25.0, "labels": "scores", "scale": 1.0},
    "lambda_rank": {
        **{"beta": 0.1, "labels": "scores", "scale": 1.0},
        **{"gain": "normalized", "reduction": "mean"},
    },
    "list_net": {"beta": 0.1, "labels": "scores", "scale": 1.0},
    "all_pairs": {"loss": dpo},
    "best_vs_rest": {"loss": dpo},
    "sppo_list": {"beta": 0.001, "labels": "scores", "scale": 1.0},
    "nca_list": {"beta": 0.01, "labels": "scores", "scale": 1.0},
    "dro": {"tau": 1.0, "labels": "scores", "scale": 1.0},
    "kto": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0, "z0": 0.0},
    "bco_unpaired": {"beta": 0.1},
}


def test_defaults_and_facts_are_those_of_the_table() -> None:
    others = [
        name
        for name in TABLES["loss"]
        if reads_of(lookup("loss", name, where="")) in ("lists", "labels")
    ]
    assert others == [*DEFAULTS]
    for name, options in DEFAULTS.items():
        function = lookup("loss", name, where="")
        parameters = inspect.signature(function).parameters
        assert {key: parameters[key].default for key in options} == options
        kind = "coupled" if name == "bco_unpaired" else "local"
        assert (kind_of(function), needs_of(function)) == (kind, {"reference"})
        for option in [name for name, value in options.items() if isinstance(value, float)]:
            for value in (-1.0,) if option == "z0" else (-1.0, 0.0):
                with pytest.raises(ConfigError, match=option):
                    bind("loss", name, {option: value}, where="train.loss")
            bind("loss", name, {option: 0.0 if option == "z0" else 1e-9}, where="train.loss")


def test_what_lists_and_labels_do_not_have_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ValueError, match="needs: tokens is there for losses of pairs, not lists"):
        declare(reads="lists", needs=frozenset({"tokens", "reference"}))
