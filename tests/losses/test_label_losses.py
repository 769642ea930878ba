"""Losses of labelled answers, and dro, against formulas written without their code."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pair_values import logps as pair_logps
from torch import Tensor

import reference_points
from prefine.config.components import bind
from prefine.errors import ConfigError
from prefine.losses import ListLogps, PointLogps, bco, bco_unpaired, dro, kto, kto_pair
from prefine.losses.controllers import RunningReward
from prefine.losses.facts import kind_of, needs_of
from prefine.losses.protocol import LossFunction, declare

COUNT = 12


def column(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def answers(
    policy: Any, ref: Any, good: Any, *, mismatched: Any = None, weight: Any = None
) -> PointLogps:
    policy, ref = column(policy), column(ref)
    return PointLogps(
        policy=policy,
        ref=ref,
        initial=ref,
        tokens=torch.ones_like(policy),
        desirable=column(good),
        weight=torch.ones_like(policy) if weight is None else column(weight),
        answers_in_step=float(len(policy)),
        mismatched_logratio=None if mismatched is None else column(mismatched),
    )


def drawn(seed: int = 0, *, shift: float = 1.0) -> PointLogps:
    """Answers whose mismatched log-ratios lie around `shift`."""
    rng = np.random.default_rng(seed)
    return answers(
        -50 + 4 * rng.normal(size=COUNT),
        -50 + 4 * rng.normal(size=COUNT),
        np.arange(COUNT) % 3 != 0,
        mismatched=shift + rng.normal(size=COUNT),
        weight=rng.uniform(0.2, 2, COUNT),
    )


KTO = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
MISMATCHED = partial(kto, z0="mismatched")


@pytest.mark.parametrize("shift", [2.0, -2.0], ids=["z0 above 0", "clamped at 0"])
@pytest.mark.parametrize(
    "options", [{}, {"beta": 0.7}, {"desirable_weight": 1.3}, {"undesirable_weight": 0.4}]
)
def test_kto_from_mismatched_answers(options: dict[str, float], shift: float) -> None:
    logps = drawn(shift=shift)
    assert logps.mismatched_logratio is not None
    expected = reference_points.kto(
        logps.policy,
        logps.ref,
        logps.desirable,
        mismatched_logratio=logps.mismatched_logratio,
        **(KTO | options),
    )
    found = MISMATCHED(logps, **options)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert torch.equal(found, kto(logps, **options)) == (shift < 0)


def test_no_gradient_goes_through_z0() -> None:
    logps = drawn()
    other = column(logps.mismatched_logratio).requires_grad_()
    values = MISMATCHED(PointLogps(**{**vars(logps), "mismatched_logratio": other}))
    assert not values.requires_grad


def test_kto_of_both_answers_of_pairs_is_kto_pair() -> None:
    pairs = pair_logps()
    mismatched = torch.full_like(pairs.policy_chosen, 0.7)
    both = answers(
        torch.cat([pairs.policy_chosen, pairs.policy_rejected]),
        torch.cat([pairs.ref_chosen, pairs.ref_rejected]),
        [1.0] * len(mismatched) + [0.0] * len(mismatched),
        mismatched=mismatched,
    )
    options = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.6}
    good, bad = MISMATCHED(both, **options).chunk(2)
    vars(pairs)["mismatched_logratio"] = mismatched
    torch.testing.assert_close((good + bad) / 2, kto_pair(pairs, **options), rtol=1e-12, atol=0)


def test_what_kto_reads_depends_on_its_z0() -> None:
    for z0, kind, needs in (
        (0.0, "local", {"reference"}),
        (0.4, "local", {"reference"}),
        ({"schedule": "linear", "start": 0.1, "end": 1.0}, "local", {"reference"}),
        ("mismatched", "coupled", {"reference", "mismatched"}),
    ):
        bound = bind("loss", "kto", {"z0": z0}, where="train.loss")
        assert (kind_of(bound), needs_of(bound)) == (kind, needs), z0
    for z0, says in (
        ("mismatch", r"train\.loss\.z0: Input should be a valid number \(got 'mismatch'\)"),
        (-0.1, r"train\.loss\.z0: Input should be greater than or equal to 0 \(got -0.1\)"),
    ):
        with pytest.raises(ConfigError, match=says):
            bind("loss", "kto", {"z0": z0}, where="train.loss")
    with pytest.raises(ValueError, match="the loss needs log-ratios of answers to other prompts"):
        MISMATCHED(answers([1.0], [0.0], [1.0]))
    with pytest.raises(ValueError, match="needs: mismatched is there for losses of pairs, not any"):
        declare(reads="any", kind="coupled", needs=frozenset({"mismatched"}))


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_bco_over_steps_of_answers(beta: float) -> None:
    steps = [drawn(seed) for seed in range(3)]
    expected = reference_points.bco_unpaired_run(
        [reference_points.Labelled(one.policy, one.ref, one.desirable) for one in steps], beta=beta
    )
    controller = RunningReward()
    for logps, values in zip(steps, expected, strict=True):
        given = controller.update(logps, {"beta": beta})
        found = bco_unpaired(logps, beta=beta, **given)
        np.testing.assert_allclose(found.numpy(), values, rtol=1e-12)
        again = RunningReward()
        again.load_state_dict(controller.state_dict())
        assert vars(again) == vars(controller)


@pytest.mark.parametrize("delta", [0.0, 0.4, -3.0])
def test_bco_of_both_answers_of_a_pair_is_bco(delta: float) -> None:
    pairs = pair_logps()
    both = answers(
        torch.cat([pairs.policy_chosen, pairs.policy_rejected]),
        torch.cat([pairs.ref_chosen, pairs.ref_rejected]),
        [1.0] * len(pairs.weight) + [0.0] * len(pairs.weight),
    )
    good, bad = bco_unpaired(both, beta=0.3, delta=delta).chunk(2)
    torch.testing.assert_close(good + bad, bco(pairs, beta=0.3, delta=delta), rtol=1e-12, atol=0)


SIZES = (2, 5, 3)


def lists(*, spread: float = 4.0, shift: float = 0.0) -> tuple[ListLogps, list[str]]:
    """Lists of several sizes with scores, and the name of the prompt of each answer."""
    rng = np.random.default_rng(1)

    def rows() -> Tensor:
        made = torch.zeros(len(SIZES), max(SIZES), dtype=torch.float64)
        for number, size in enumerate(SIZES):
            made[number, :size] = column(np.sort(spread * rng.normal(size=size))[::-1].copy())
        return made

    present = torch.arange(max(SIZES)) < torch.tensor(SIZES)[:, None]
    policy, ref, score = rows(), rows(), (rows() + shift).masked_fill(~present, 0)
    rank = (torch.arange(max(SIZES)) + 1.0).double().expand_as(score).masked_fill(~present, 0)
    logps = ListLogps(
        policy=policy,
        ref=ref,
        initial=ref,
        tokens=present.double(),
        rank=rank,
        score=score,
        present=present,
        weight=torch.ones(len(SIZES), dtype=torch.float64),
        lists_in_step=float(len(SIZES)),
    )
    return logps, [name for name, size in zip("abc", SIZES, strict=True) for _ in range(size)]


@pytest.mark.parametrize(
    "options", [{}, {"tau": 0.3}, {"scale": 2.5}, {"labels": "ranks", "tau": 0.7}]
)
def test_dro_is_the_mean_over_the_answers_of_a_prompt(options: dict[str, Any]) -> None:
    logps, prompts = lists()
    below = logps.rank.amax(1, keepdim=True) - logps.rank
    rewards = below if options.get("labels") == "ranks" else logps.score
    of_answers = reference_points.dro_baseline(
        logps.policy[logps.present],
        logps.ref[logps.present],
        options.get("scale", 1.0) * rewards[logps.present],
        prompts,
        tau=options.get("tau", 1.0),
    )
    expected = [part.mean() for part in np.split(of_answers, np.cumsum(SIZES)[:-1])]
    np.testing.assert_allclose(dro(logps, **options).numpy(), expected, rtol=1e-12)
    shifted, _ = lists(shift=7.0)
    if "labels" not in options:
        torch.testing.assert_close(dro(shifted, **options), dro(logps, **options))


def test_dro_is_least_where_log_ratios_are_the_rewards_over_tau() -> None:
    logps, _ = lists()
    there = ListLogps(**{**vars(logps), "policy": logps.ref + logps.score / 0.4})
    torch.testing.assert_close(dro(there, tau=0.4), torch.zeros(3).double(), rtol=0, atol=1e-24)


def _value(loss: LossFunction, policy: Tensor, logps: Any) -> Tensor:
    return loss(type(logps)(**{**vars(logps), "policy": policy}))


CASES: dict[str, tuple[LossFunction, Callable[[], Any]]] = {
    "kto": (partial(kto, z0="mismatched", beta=0.4), drawn),
    "bco_unpaired": (partial(bco_unpaired, beta=0.4, delta=0.3), drawn),
    "dro": (partial(dro, tau=0.4), lambda: lists()[0]),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_finite_differences_and_extremes_are_finite(name: str) -> None:
    loss, made = CASES[name]
    logps = made()
    policy = logps.policy.clone().requires_grad_()
    if name != "dro":
        assert torch.autograd.gradcheck(lambda leaf: _value(loss, leaf, logps), (policy,))
    else:
        # V is held while the gradient is taken; of the sum over the prompt that is no difference.
        assert torch.autograd.gradcheck(lambda leaf: _value(loss, leaf, logps).sum(), (policy,))
    for size in (1e4, -1e4):
        far = logps.policy + size * torch.linspace(-1, 1, logps.policy.numel()).view_as(policy)
        far = far.requires_grad_()
        values = _value(loss, far, logps)
        (gradient,) = torch.autograd.grad(values.sum(), far)
        assert values.isfinite().all() and gradient.isfinite().all()
        if name == "dro":
            assert (gradient[~logps.present] == 0).all()
