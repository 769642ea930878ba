"""Several references and two prompts: ours against numpy, and what they are in simple cases."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_values import leaves_of, logps, with_tensors
from torch import Tensor

import reference_references as refs
from prefine.config.components import bind
from prefine.errors import ConfigError
from prefine.losses import dpo, ipo, jpo, mixture, mrpo, sigmoid_norm, simpo
from prefine.losses.facts import kind_of, needs_of, options_of, reads_of
from prefine.losses.other_references import OtherReferences, combined
from prefine.losses.protocol import LossFunction, PairLogps, PromptLogps
from prefine.regularizers import nll

MODES: tuple[refs.Mode, ...] = ("harmonic", "geometric", "arithmetic")


def _close(found: Tensor, wanted: Any) -> None:
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-12, atol=1e-12)


# --- several references


def _with_references(k: int, *, apart: float = 3.0) -> tuple[PairLogps, Any, Any]:
    """Pairs with k references, the first theirs, and both sides under all of them [k, B]."""
    values, rng = logps(), np.random.default_rng(k)
    sides = []
    for side in (values.ref_chosen.numpy(), values.ref_rejected.numpy()):
        noise = rng.normal(0, apart, (k - 1, len(side)))
        sides.append(np.concatenate([side[None], np.minimum(side[None] + noise, -0.1)]))
    weights = tuple((np.arange(1.0, k + 1) / np.arange(1.0, k + 1).sum()).tolist())
    others = OtherReferences(
        torch.tensor(sides[0][1:].T), torch.tensor(sides[1][1:].T), weights, weights[::-1]
    )
    return replace(values, other_references=others), *sides


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_mrpo_is_the_published_loss(mode: refs.Mode, k: int, beta: float) -> None:
    values, chosen, rejected = _with_references(k)
    assert values.other_references is not None
    stated = values.other_references.weights
    policy = values.policy_chosen.numpy(), values.policy_rejected.numpy()
    inner = partial(dpo, beta=beta)
    for weights, share in {"stated": stated, "held_out": stated[::-1], "example": None}.items():
        for clip, eta in (("none", None), ("adaptive", 0.1), ("fixed", -0.02), ("adaptive", 0.0)):
            found = mrpo(
                values, loss=inner, mode=mode, weights=weights, clip=clip, eta=abs(eta or 0.0)
            )
            wanted = refs.mrpo(
                *policy, chosen, rejected, beta=beta, mode=mode, weights=share, base=0, eta=eta
            )
            _close(found, wanted)


def test_two_references_exchange_their_weights_as_in_the_authors_code() -> None:
    values, chosen, rejected = _with_references(2)
    policy = values.policy_chosen.numpy(), values.policy_rejected.numpy()
    wanted = refs.mrpo(*policy, chosen, rejected, beta=0.1, base=0, eta=0.1, swap=True)
    _close(mrpo(values, weights="example_swapped"), wanted)
    assert not np.allclose(mrpo(values, weights="example").numpy(), wanted)
    with pytest.raises(ValueError, match="example_swapped is for 2 references, not 3"):
        mrpo(_with_references(3)[0], weights="example_swapped")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", [dpo, ipo, sigmoid_norm])
def test_equal_references_are_one(mode: Any, loss: LossFunction) -> None:
    values, _, _ = _with_references(3, apart=0.0)
    for weights in ("stated", "held_out", "example"):
        _close(mrpo(values, loss=loss, mode=mode, weights=weights), loss(values))
    _close(mrpo(_with_references(1)[0], loss=loss, mode=mode), loss(values))


@pytest.mark.parametrize("mode", MODES)
def test_no_trust_leaves_the_first_reference_and_all_the_weight_one(mode: Any) -> None:
    values, chosen, rejected = _with_references(3)
    _close(mrpo(values, mode=mode, eta=0.0), dpo(values))
    assert values.other_references is not None
    one = replace(values.other_references, weights=(0.0, 0.0, 1.0))
    last = values.changed(
        ref_chosen=torch.tensor(chosen[2]), ref_rejected=torch.tensor(rejected[2])
    )
    _close(mrpo(replace(values, other_references=one), mode=mode, clip="none"), dpo(last))


def test_the_golden_harmonic_reference() -> None:
    weights = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    found = combined(torch.tensor([[-10.0, -12.0]], dtype=torch.float64), weights, "harmonic")
    assert float(found) == pytest.approx(-11.4337808, abs=5e-8)
    # As in float32, where exp(-800) is 0.
    far = torch.tensor([[-800.0, -900.0]])
    found = combined(far, torch.tensor([[0.5, 0.5]]), "harmonic")
    assert float(found) == pytest.approx(-900 + np.log(2), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-800, 0), st.floats(0.01, 1)), min_size=1, max_size=5))
def test_harmonic_geometric_and_arithmetic_means_are_ordered(
    rows: list[tuple[float, float]],
) -> None:
    values, share = torch.tensor(rows, dtype=torch.float64).T
    weights = (share / share.sum())[None]
    found = [float(combined(values[None], weights, mode)) for mode in MODES]
    slack = 1e-12 * (1 + float(values.abs().max()))
    ordered = [float(values.min()), *found, float(values.max())]
    assert all(a <= b + slack for a, b in pairwise(ordered))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weights", ["stated", "example"])
def test_extreme_references_give_finite_values_and_gradients(mode: Any, weights: Any) -> None:
    values, _, _ = _with_references(3, apart=1e4)
    for dtype in (torch.float32, torch.float64):
        others = values.other_references
        assert others is not None
        near = replace(others, chosen=others.chosen.to(dtype), rejected=others.rejected.to(dtype))
        sides = {name: tensor.to(dtype) for name, tensor in leaves_of(values).items()}
        given_ = replace(with_tensors(values, {}), other_references=near)
        for clip in ("none", "adaptive", "fixed"):
            leaves = {name: side.detach().requires_grad_() for name, side in sides.items()}
            found = mrpo(with_tensors(given_, dict(leaves)), mode=mode, weights=weights, clip=clip)
            (slope,) = torch.autograd.grad(found.sum(), leaves["policy_chosen"])
            assert found.isfinite().all() and slope.isfinite().all()


# --- two prompts

PROMPTS = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")


def _joint(*, one_prompt: bool = False) -> PairLogps:
    """Pairs with the values of their prompts, of one or of two."""
    values, rng = logps(), np.random.default_rng(5)
    count = len(values.policy_chosen)
    policy, ref = rng.uniform(-200, -20, (2, 2, count))
    tokens = rng.integers(5, 80, (2, count)).astype(float)
    if one_prompt:
        policy[1], ref[1], tokens[1] = policy[0], ref[0], tokens[0]
    columns = [torch.tensor(column) for column in (*policy, *ref, *tokens)]
    total = float((values.weight * columns[4]).sum())
    return replace(values, prompts=PromptLogps(*columns, total))


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_jpo_is_the_published_loss(beta: float) -> None:
    values = _joint()
    prompts = values.require_prompts()
    sides = [
        side.numpy() for name in PROMPTS for side in (getattr(prompts, name), getattr(values, name))
    ]
    _close(jpo(values, loss=partial(dpo, beta=beta)), refs.jpo(*sides, beta=beta))
    assert options_of(jpo) == {"loss": dpo}
    assert (kind_of(jpo), reads_of(jpo)) == ("local", "joint")
    assert needs_of(jpo) == {"reference", "prompt"}


def test_on_one_prompt_it_is_the_loss_of_the_margin() -> None:
    values = _joint(one_prompt=True)
    for loss in (dpo, partial(dpo, beta=0.7, label_smoothing=0.2), partial(ipo, average="sum")):
        _close(jpo(values, loss=loss), loss(values))


@pytest.mark.parametrize(
    "loss",
    [
        ipo,
        sigmoid_norm,
        simpo,
        partial(mixture, losses=(dpo, partial(nll, reduction="sum")), weights=(1.0, 0.1)),
        partial(mixture, losses=(dpo, partial(nll, reduction="token_mean")), weights=(1.0, 0.1)),
    ],
    ids=["ipo", "sigmoid_norm", "simpo", "nll", "nll-token-mean"],
)
def test_but_not_where_prompt_tokens_count(loss: LossFunction) -> None:
    values = _joint(one_prompt=True)
    assert not torch.isclose(jpo(values, loss=loss), loss(values), rtol=1e-6).any()


def test_averages_are_over_the_tokens_of_prompt_and_answer() -> None:
    values = _joint()
    prompts = values.require_prompts()
    assert prompts.chosen_tokens is not None and prompts.chosen_tokens_in_step is not None
    joint = values.policy_chosen + prompts.policy_chosen
    per_token = joint / (values.chosen_tokens + prompts.chosen_tokens)
    _close(jpo(values, loss=partial(nll, reduction="mean")), -per_token)
    total = values.chosen_tokens_in_step + prompts.chosen_tokens_in_step
    _close(
        jpo(values, loss=partial(nll, reduction="token_mean")),
        -joint * values.pairs_in_step / total,
    )


def test_exchanging_the_sides_negates_the_joint_margin() -> None:
    values = _joint()
    prompts = values.require_prompts()
    other = values.changed(
        policy_chosen=values.policy_rejected,
        policy_rejected=values.policy_chosen,
        ref_chosen=values.ref_rejected,
        ref_rejected=values.ref_chosen,
        prompts=PromptLogps(
            prompts.policy_rejected,
            prompts.policy_chosen,
            prompts.ref_rejected,
            prompts.ref_chosen,
        ),
    )
    of_prompts = (prompts.policy_chosen - prompts.ref_chosen) - (
        prompts.policy_rejected - prompts.ref_rejected
    )
    _close(jpo(values) - jpo(other), -0.1 * (values.margin + of_prompts))


def test_gradients_reach_the_prompts_and_are_finite_at_the_extremes() -> None:
    values = _joint()
    prompts = values.require_prompts()

    def value(*sides: Tensor) -> Tensor:
        return jpo(
            values.changed(
                policy_chosen=sides[0],
                policy_rejected=sides[1],
                prompts=replace(prompts, policy_chosen=sides[2], policy_rejected=sides[3]),
            )
        )

    at = [values.policy_chosen, values.policy_rejected]
    at += [prompts.policy_chosen, prompts.policy_rejected]
    leaves = [side[:5].clone().requires_grad_() for side in at]
    few = values.changed(**{n: t[:5] for n, t in vars(values).items() if isinstance(t, Tensor)})
    values = few
    prompts = replace(
        prompts, **{n: t[:5] for n, t in vars(prompts).items() if isinstance(t, Tensor)}
    )
    assert torch.autograd.gradcheck(value, leaves)
    slopes = torch.autograd.grad(value(*leaves).sum(), leaves)
    assert torch.equal(slopes[0], slopes[2]) and torch.equal(slopes[1], slopes[3])
    for far in (1e4, -1e4):
        moved = [
            (leaf + far * sign).detach().requires_grad_()
            for leaf, sign in zip(leaves, (1, -1, 1, -1), strict=True)
        ]
        found = value(*moved)
        assert found.isfinite().all()
        assert all(s.isfinite().all() for s in torch.autograd.grad(found.sum(), moved))


def test_a_loop_of_its_own_gives_what_is_read() -> None:
    one = torch.tensor([-3.0], dtype=torch.float64)
    prompts = PromptLogps(one, 2 * one, one, one)
    values = PairLogps(one, one, one, one, prompts=prompts)
    assert float(jpo(values)) == pytest.approx(np.log1p(np.exp(-0.3)))
    with pytest.raises(ValueError, match="no chosen_tokens"):
        jpo(values, loss=ipo)
    with pytest.raises(ValueError, match="log-probabilities of the prompts"):
        jpo(replace(logps(), prompts=None))


# --- what is refused


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mrpo", {"loss": {"name": "simpo"}}, "compares with no reference"),
        ("mrpo", {"loss": {"name": "ld_dpo"}}, "'ld_dpo' reads the log-probability of every token"),
        ("mrpo", {"loss": {"name": "beta_dpo"}}, "'beta_dpo' reads the step before its loss"),
        ("mrpo", {"loss": {"name": "mrpo"}}, "'mrpo' reads log-probabilities under further"),
        ("mrpo", {"mode": "quadratic"}, "train.loss.mode"),
        ("mrpo", {"weights": "equal"}, "train.loss.weights"),
        ("mrpo", {"eta": -0.1}, "train.loss.eta"),
        ("jpo", {"loss": {"name": "wpo"}}, "'wpo' reads the log-probability of every token"),
        ("jpo", {"loss": {"name": "kto_pair"}}, "'kto_pair' reads log-ratios of answers to other"),
        ("jpo", {"loss": {"name": "mrpo"}}, "'mrpo' reads log-probabilities under further"),
        ("all_pairs", {"loss": {"name": "mrpo"}}, "loss needs references"),
        ("all_pairs", {"loss": {"name": "jpo"}}, "loss reads joint"),
    ],
)
def test_what_cannot_be_inside_is_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        bind("loss", name, options, where="train.loss")
