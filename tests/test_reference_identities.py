"""The references of lists, single answers, several references and two prompts, by themselves:
golden numbers of METHODS.md §4 and §8, identities of §16, extreme margins.
"""

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_lists as lists
import reference_points as points
import reference_references as refs

S = np.array([9.0, 1.0, 5.0, 2.0])
PSI = np.array([5.0, 4.0, 3.0, 2.0])
ZERO4 = np.zeros(4)
finite = st.floats(-60.0, 60.0)


def _close(value: Any, expected: Any) -> None:
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


def _dpo(margin: Any, beta: float) -> Any:
    return np.logaddexp(0.0, -beta * np.asarray(margin, dtype=np.float64))


def _s(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def _rng() -> np.random.Generator:
    return np.random.default_rng(24)


# Golden numbers of METHODS.md.


def test_the_true_ndcg_of_the_golden_list() -> None:
    assert -lists.ndcg(S, PSI) == pytest.approx(-0.9584736, abs=5e-8)


@pytest.mark.parametrize(
    ("tau", "value", "half"),
    [
        (0.01, -0.958474, 5e-7),
        (0.1, -0.958474, 5e-7),
        (1.0, -0.959187, 5e-7),
        (10.0, -0.874410, 5e-7),
        (1e3, -0.793423, 5e-7),
        (1e12, -0.7924365, 5e-8),
    ],
)
def test_golden_neural_ndcg(tau: float, value: float, half: float) -> None:
    assert lists.neural_ndcg(S, ZERO4, PSI, beta=1.0, tau=tau) == pytest.approx(value, abs=half)


def test_the_converged_neural_ndcg_of_the_golden_list() -> None:
    p = lists.sinkhorn(lists.neural_sort(S, tau=1.0), sweeps=20_000)
    value = -float(lists.discounts(4) @ p @ lists.gains(PSI)) / lists.idcg(PSI)
    assert value == pytest.approx(-0.959476, abs=5e-7)


@pytest.mark.parametrize(
    ("alpha", "value"), [(1.0, -0.951983), (25.0, -0.958474), (250.0, -0.958474)]
)
def test_golden_approx_ndcg(alpha: float, value: float) -> None:
    assert lists.approx_ndcg(S, ZERO4, PSI, beta=1.0, alpha=alpha) == pytest.approx(value, abs=5e-7)


def test_golden_lambda_rank() -> None:
    options = dict(beta=1.0, normalized=True)
    total = lists.lambda_rank(S, ZERO4, PSI, reduction="sum", **options)
    assert total == pytest.approx(0.1708434, abs=5e-8)
    mean = lists.lambda_rank(S, ZERO4, PSI, reduction="mean", **options)
    assert mean == pytest.approx(0.0284739, abs=5e-8)


@pytest.mark.parametrize(
    ("labels", "c", "value"),
    [((1.0, 0.0), 0.3690702, -0.8338571), ((1.0, 0.5), 0.1714022, -0.9228406)],
)
def test_golden_neural_ndcg_of_two(labels: tuple[float, float], c: float, value: float) -> None:
    assert _opo_slope(labels) == pytest.approx(c, abs=5e-8)
    found = lists.neural_ndcg((0.3, 0.1), (0.0, 0.0), labels, beta=1.0, tau=1.0)
    assert found == pytest.approx(value, abs=5e-8)


def test_golden_lambda_rank_of_two() -> None:
    value = lists.lambda_rank_of_scores((0.3, 0.1), (1, 0), reduction="sum", normalized=True)
    assert value == pytest.approx(0.2207553, abs=5e-8)


def test_golden_harmonic_reference() -> None:
    found = refs.combined([[-10.0], [-12.0]], [0.5, 0.5], mode="harmonic")
    assert found[0] == pytest.approx(-11.4337808, abs=5e-8)


# NeuralNDCG's matrix and value.


def test_the_golden_matrix_is_doubly_stochastic() -> None:
    p = lists.sinkhorn(lists.neural_sort(S, tau=1.0))
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(p.sum(axis=0), 1.0, rtol=0, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(2, 8))
def test_a_random_matrix_is_doubly_stochastic(seed: int, size: int) -> None:
    p = lists.sinkhorn(lists.neural_sort(np.random.default_rng(seed).normal(size=size), tau=1.0))
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(p.sum(axis=0), 1.0, rtol=0, atol=1e-2)


def test_a_small_tau_sorts() -> None:
    p = lists.sinkhorn(lists.neural_sort(S, tau=1e-3))
    assert p.argmax(axis=1).tolist() == [0, 2, 3, 1]
    assert lists.neural_ndcg(PSI, ZERO4, PSI, beta=1.0, tau=1e-3) == pytest.approx(-1.0, abs=1e-9)


def test_equal_labels_say_nothing() -> None:
    for values in (S, -S, ZERO4):
        value = lists.neural_ndcg_of_scores(values, np.full(4, 2.0), tau=1.0, epsilon=0.0)
        _close(value, -1.0)
        assert lists.all_pairs(values, ZERO4, ZERO4, beta=1.0, reduction="mean") == 0.0
        assert lists.best_vs_rest(values, ZERO4, ZERO4, beta=1.0, reduction="mean") == 0.0


def test_labels_without_gain_count_nothing() -> None:
    assert lists.neural_ndcg(S, ZERO4, ZERO4, beta=1.0, tau=1.0) == 0.0
    assert lists.approx_ndcg(S, ZERO4, ZERO4, beta=1.0, alpha=25.0) == 0.0


# One list of any length.

LIST_LOSSES: dict[str, Callable[..., float]] = {
    "neural_ndcg": lambda p, r, y: lists.neural_ndcg(p, r, y, beta=0.7, tau=0.6),
    "approx_ndcg": lambda p, r, y: lists.approx_ndcg(p, r, y, beta=0.7, alpha=3.0),
    "list_mle": lambda p, r, y: lists.list_mle(p, r, y, beta=0.7),
    "list_net": lambda p, r, y: lists.list_net(p, r, y, beta=0.7),
    "lambda_mean": lambda p, r, y: lists.lambda_rank(
        p, r, y, beta=0.7, reduction="mean", normalized=True
    ),
    "lambda_sum": lambda p, r, y: lists.lambda_rank(
        p, r, y, beta=0.7, reduction="sum", normalized=False, log_base=math.e
    ),
    "all_pairs": lambda p, r, y: lists.all_pairs(p, r, y, beta=0.7, reduction="sum"),
    "best_vs_rest": lambda p, r, y: lists.best_vs_rest(p, r, y, beta=0.7, reduction="mean"),
    "sppo_list": lambda p, r, y: lists.sppo_list(p, r, lists.gains(y) / 40.0, beta=0.7),
    "nca_list": lambda p, r, y: lists.nca_list(p, r, y, beta=0.7, alpha=0.5),
}


@pytest.mark.parametrize("name", LIST_LOSSES)
def test_the_order_of_a_list_does_not_matter(name: str) -> None:
    ref = np.array([-1.0, 0.5, 0.25, -2.0])
    expected = LIST_LOSSES[name](S, ref, PSI)
    for order in map(list, permutations(range(4))):
        # 50 sweeps leave a permuted sum in another order: rounding only.
        found = LIST_LOSSES[name](S[order], ref[order], PSI[order])
        assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", LIST_LOSSES)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_lists_are_finite_at_extreme_margins(name: str, size: float) -> None:
    for policy in (np.array([size, 0, -size, 0]), np.array([-size, 0, size, 1]), np.full(4, size)):
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            assert math.isfinite(LIST_LOSSES[name](policy, ZERO4, PSI))


@pytest.mark.parametrize("name", LIST_LOSSES)
def test_adding_to_every_answer_changes_only_absolute_losses(name: str) -> None:
    same = LIST_LOSSES[name](S + 3.0, ZERO4, PSI) == pytest.approx(
        LIST_LOSSES[name](S, ZERO4, PSI), rel=1e-10
    )
    assert same == (name not in {"sppo_list", "nca_list"})


def test_list_mle_is_a_sequential_softmax() -> None:
    x = 0.7 * S
    expected, left = 0.0, list(x)
    while left:
        expected -= math.log(math.exp(left[0]) / math.fsum(map(math.exp, left)))
        left.pop(0)
    _close(lists.list_mle(S, ZERO4, PSI, beta=0.7), expected)
    total = math.fsum(
        math.exp(-lists.list_mle(S, ZERO4, np.array(order, dtype=float), beta=0.7))
        for order in permutations(range(4))
    )
    _close(total, 1.0)


def test_list_net_is_a_cross_entropy_and_all_pairs_a_sum_of_dpo() -> None:
    x = 0.7 * S
    q = np.exp(PSI) / np.exp(PSI).sum()
    _close(lists.list_net(S, ZERO4, PSI, beta=0.7), -(q @ np.log(np.exp(x) / np.exp(x).sum())))
    pairs = [_dpo(S[i] - S[j], 0.7) for i in range(4) for j in range(i + 1, 4)]
    _close(lists.all_pairs(S, ZERO4, PSI, beta=0.7, reduction="sum"), sum(pairs))
    _close(lists.all_pairs(S, ZERO4, PSI, beta=0.7, reduction="mean"), sum(pairs) / 6)
    _close(lists.best_vs_rest(S, ZERO4, PSI, beta=0.7, reduction="mean"), sum(pairs[:3]) / 3)


def test_sigma_scales_the_scores_of_lambda_rank() -> None:
    options: dict[str, Any] = dict(reduction="sum", normalized=False)
    found = lists.lambda_rank_of_scores(S, PSI, sigma=0.3, **options)
    _close(found, lists.lambda_rank_of_scores(0.3 * S, PSI, **options))


# Lists of two against a pair.


def _opo_slope(labels: tuple[float, float]) -> float:
    high, low = (2.0**label - 1.0 for label in labels)
    return (high - low) * (1.0 - 1.0 / math.log2(3)) / (high + low / math.log2(3))


@settings(max_examples=100, deadline=None)
@given(w=finite, low=finite, rw=finite, rl=finite, beta=st.floats(0.01, 3.0))
def test_lists_of_two_are_dpo(w: float, low: float, rw: float, rl: float, beta: float) -> None:
    policy, ref, labels = (w, low), (rw, rl), (1.0, 0.25)
    dpo = float(_dpo((w - rw) - (low - rl), beta))
    # Scores of size 100 round before they are subtracted.
    near = dict(rel=1e-12, abs=1e-12 * (1.0 + beta * (abs(w) + abs(low) + abs(rw) + abs(rl))))
    assert lists.list_mle(policy, ref, labels, beta=beta) == pytest.approx(dpo, **near)
    for reduction in ("sum", "mean"):
        found = lists.all_pairs(policy, ref, labels, beta=beta, reduction=reduction)
        assert found == pytest.approx(dpo, **near)
        found = lists.best_vs_rest(policy, ref, labels, beta=beta, reduction=reduction)
        assert found == pytest.approx(dpo, **near)
        ranked = lists.lambda_rank(
            policy, ref, labels, beta=beta, reduction=reduction, normalized=True
        )
        assert ranked == pytest.approx(_opo_slope(labels) * dpo, **near)
        plain = lists.lambda_rank(
            policy, ref, labels, beta=beta, reduction=reduction, normalized=False
        )
        gap = (2.0 - 2.0**0.25) * (1.0 - 1.0 / math.log2(3))
        assert plain == pytest.approx(gap * dpo, **near)


@settings(max_examples=100, deadline=None)
@given(d=st.floats(-9.0, 9.0), beta=st.floats(0.05, 1.0), tau=st.floats(0.5, 10.0))
def test_neural_ndcg_of_two_is_affine_in_a_sigmoid(d: float, beta: float, tau: float) -> None:
    labels = (1.5, 0.25)
    s = lists.scores((d, 0.0), (0.0, 0.0), beta=beta)
    right = _s(beta * d / tau)
    _close(lists.neural_sort(s, tau=tau), [[right, 1.0 - right], [1.0 - right, right]])
    found = lists.neural_ndcg_of_scores(s, labels, tau=tau, epsilon=0.0)
    _close(found, -1.0 + _opo_slope(labels) * (1.0 - right))


def test_sppo_and_nca_of_two_are_the_pair_losses() -> None:
    a, c, p, b = 0.75, -1.25, 0.8, 0.5
    win = lists.win_probabilities([[math.nan, p], [1 - p, math.nan]], with_self=False)
    _close(win, [p, 1 - p])
    pair = ((a - (p - 0.5) / b) ** 2 + (c - (0.5 - p) / b) ** 2) / 2
    _close(lists.sppo_list((a, c), (0, 0), win, beta=b), pair)
    half = lists.win_probabilities([[0.5, p], [1 - p, 0.5]], with_self=True)
    _close(half, [(p + 0.5) / 2, (1.5 - p) / 2])
    nca = _dpo(a, b) + (_dpo(-a, b) + _dpo(-c, b)) / 2
    _close(lists.nca_list((a, c), (0, 0), (1.0, 0.0), beta=b, alpha=1e-3), nca)
    _close(lists.nca_list((0, 0), (0, 0), (3.0, 1.0), beta=b, alpha=1.0), 2 * math.log(2))


# Single answers.


def test_kto_on_two_halves_is_its_definition() -> None:
    rng = _rng()
    a, c, other = rng.normal(size=5), rng.normal(size=5), rng.normal(size=7) + 0.4
    z, beta, desirable = max(0.0, other.mean()), 0.6, np.arange(10) < 5
    u = np.concatenate([a, c])
    found = points.kto(
        u,
        np.zeros(10),
        desirable,
        mismatched_logratio=other,
        beta=beta,
        desirable_weight=1.3,
        undesirable_weight=0.4,
    )
    _close(found[:5], [1.3 * (1 - _s(beta * (x - z))) for x in a])
    _close(found[5:], [0.4 * (1 - _s(beta * (z - x))) for x in c])
    pair = (1.3 * (1 - _s(beta * (a[0] - z))) + 0.4 * (1 - _s(beta * (z - c[0])))) / 2
    _close((found[0] + found[5]) / 2, pair)


def test_kto_baseline_is_never_negative() -> None:
    assert points.kto_baseline([-1.0, -2.0]) == 0.0
    assert points.kto_baseline([-1.0, 2.0]) == 0.5


def test_points_at_the_reference() -> None:
    kto = points.kto(
        [-3.0, -4.0],
        [-3.0, -4.0],
        [True, False],
        mismatched_logratio=[0.0, -0.5],
        beta=0.1,
        desirable_weight=1.0,
        undesirable_weight=1.0,
    )
    _close(kto, [0.5, 0.5])
    bco = points.bco_unpaired([-3.0, -4.0], [-3.0, -4.0], [True, False], beta=0.1, delta=0.0)
    _close(bco.sum(), 2 * math.log(2))


def test_bco_runs_over_every_answer() -> None:
    first = points.Labelled([1.0, -1.0, 4.0], [0.0, 0.0, 0.0], [True, False, True])
    second = points.Labelled([2.0], [1.0], [False])
    deltas = points.running_deltas([first, second], beta=0.5)
    _close(deltas, [0.5 * 4 / 3, 0.5 * 5 / 4])
    run = points.bco_unpaired_run([first, second], beta=0.5)
    _close(run[1], [np.logaddexp(0.0, 0.5 - 0.625)])
    _close(run[0][0], np.logaddexp(0.0, -(0.5 - 2 / 3)))
    before = points.bco_unpaired_run([first, second], beta=0.5, current_counts=False)
    _close(before[0][0], np.logaddexp(0.0, -0.5))
    _close(before[1], [np.logaddexp(0.0, 0.5 - 2 / 3)])


def test_dro_with_the_value_of_the_answers() -> None:
    u, r, prompts = np.array([1.0, -2.0, 0.5]), np.array([3.0, 1.0, 7.0]), ["a", "a", "b"]
    zero = np.zeros(3)
    value = points.dro_value(u, zero, r, prompts, tau=0.5)
    _close(value, [2.25, 2.25, 6.75])
    _close(points.dro_baseline(u, zero, r, prompts, tau=0.5), [0.25**2 / 2, 0.25**2 / 2, 0.0])
    # Rewards shifted per prompt leave the loss as it is.
    shifted = points.dro_baseline(u, zero, r + np.array([5.0, 5.0, -3.0]), prompts, tau=0.5)
    _close(shifted, points.dro_baseline(u, zero, r, prompts, tau=0.5))
    _close(points.dro(0.0, 0.0, 3.0, value=1.0, tau=0.5), 2.0)


def test_points_are_finite_at_extreme_margins() -> None:
    policy, ref, labels = np.array([1e4, -1e4, 1e4, -1e4]), np.zeros(4), [True, True, False, False]
    with np.errstate(over="raise", invalid="raise"):
        kto = points.kto(
            policy,
            ref,
            labels,
            mismatched_logratio=[1e4],
            beta=1.0,
            desirable_weight=2.0,
            undesirable_weight=3.0,
        )
        bco = points.bco_unpaired(policy, ref, labels, beta=1.0, delta=0.5)
        dro = points.dro_baseline(policy, ref, [1.0, 0.0, 1.0, 0.0], list("aabb"), tau=1.0)
    _close(kto, [1.0, 2.0, 1.5, 0.0])
    assert np.isfinite(bco).all() and np.isfinite(dro).all()


# Several references.

MODES: tuple[refs.Mode, ...] = ("harmonic", "geometric", "arithmetic")


def _pairs(k: int) -> tuple[Any, Any, Any, Any]:
    rng = _rng()
    return (*rng.uniform(-40, -5, size=(2, 6)), *rng.uniform(-40, -5, size=(2, k, 6)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_equal_references_are_one(mode: refs.Mode, k: int) -> None:
    w, low, refs_w, refs_l = _pairs(1)
    dpo = _dpo((w - refs_w[0]) - (low - refs_l[0]), 0.3)
    same_w, same_l = np.repeat(refs_w, k, axis=0), np.repeat(refs_l, k, axis=0)
    weights = np.arange(1.0, k + 1) / np.arange(1.0, k + 1).sum()
    _close(refs.mrpo(w, low, same_w, same_l, beta=0.3, mode=mode), dpo)
    _close(refs.mrpo(w, low, same_w, same_l, beta=0.3, mode=mode, weights=weights, eta=0.1), dpo)
    _close(refs.multi_dpo(w, low, same_w, same_l, beta=0.3, weights=weights), dpo)


@pytest.mark.parametrize("mode", MODES)
def test_no_trust_leaves_the_base_and_all_the_weight_one_reference(mode: refs.Mode) -> None:
    w, low, refs_w, refs_l = _pairs(3)
    for base in (0, 2):
        dpo = _dpo((w - refs_w[base]) - (low - refs_l[base]), 0.3)
        _close(refs.mrpo(w, low, refs_w, refs_l, beta=0.3, mode=mode, base=base, eta=0.0), dpo)
        one = np.eye(3)[base]
        _close(refs.mrpo(w, low, refs_w, refs_l, beta=0.3, mode=mode, weights=one), dpo)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-800, 0), st.floats(0.01, 1)), min_size=1, max_size=5))
def test_means_of_references_are_ordered(rows: list[tuple[float, float]]) -> None:
    logps, share = np.array(rows).T
    found = [refs.combined(logps[:, None], share / share.sum(), mode=m)[0] for m in MODES]
    assert np.isfinite(found).all()
    slack = 1e-12 * (1.0 + np.abs(logps).max())
    assert found[0] <= found[1] + slack and found[1] <= found[2] + slack
    assert logps.min() - slack <= found[0] and found[2] <= logps.max() + slack


def test_two_references_by_the_formula_of_the_code() -> None:
    l1, l2, alpha = -3.0, -4.5, 0.3
    code = l1 + l2 - math.log(alpha * math.exp(l1) + (1 - alpha) * math.exp(l2))
    _close(refs.combined([[l1], [l2]], [1 - alpha, alpha], mode="harmonic"), [code])
    weights = refs.adaptive_weights([[-3.0], [-4.5]], [[-6.0], [-5.5]], epsilon=1e-6, swap=True)
    _close(weights[:, 0], [1 - 3 / (4 + 1e-6), 3 / (4 + 1e-6)])


def test_adaptive_weights() -> None:
    weights = refs.adaptive_weights([[-3.0, -1.0], [-4.5, -1.0]], [[-6.0, -1.0], [-5.5, -1.0]])
    _close(weights, [[0.75, 0.5], [0.25, 0.5]])
    with pytest.raises(ValueError, match="two references"):
        refs.adaptive_weights(np.zeros((3, 1)), np.zeros((3, 1)), swap=True)


def test_clipping_by_hand() -> None:
    # m_w = -15, m_l = -5: e_w = .075, e_l = .025.
    w, low = refs.clipped([[-20.0], [-10.0]], [[-4.0], [-6.0]], base=1, eta=0.1)
    _close(w, [[-10.75], [-10.0]])
    _close(low, [[-5.85], [-6.0]])
    w, low = refs.clipped([[-20.0], [-10.0]], [[-4.0], [-6.0]], base=1, eta=-0.1)
    _close(w, [[-11.0], [-10.0]])
    _close(low, [[-5.4], [-6.0]])


@pytest.mark.parametrize("mode", MODES)
def test_references_are_finite_at_extreme_margins(mode: refs.Mode) -> None:
    w, low = np.array([-1e4, 0.0]), np.array([0.0, -1e4])
    refs_w, refs_l = np.array([[-800.0, -1e4], [-1e4, 0.0]]), np.array([[0.0, -1e4], [-800.0, 0.0]])
    for eta in (None, 0.1, -0.1):
        found = refs.mrpo(w, low, refs_w, refs_l, beta=1.0, mode=mode, eta=eta)
        assert np.isfinite(found).all()


# Two prompts.


def test_jpo_on_one_prompt_is_dpo() -> None:
    rng = _rng()
    prompt, ref_prompt, a, c, ra, rc = rng.uniform(-50, -1, size=(6, 8))
    joint = (prompt, a, prompt, c, ref_prompt, ra, ref_prompt, rc)
    _close(refs.jpo(*joint, beta=0.4), _dpo((a - ra) - (c - rc), 0.4))
    other = (prompt - 1.0, *joint[1:])
    assert (refs.jpo(*other, beta=0.4) > refs.jpo(*joint, beta=0.4)).all()
    swapped = (*joint[2:4], *other[:2], *joint[6:], *joint[4:6])
    margin = 0.4 * ((a - ra) - (c - rc) - 1.0)
    _close(refs.jpo(*swapped, beta=0.4) - refs.jpo(*other, beta=0.4), margin)


def test_a_length_average_does_not_cancel_the_prompt() -> None:
    prompt, a, c, prompt_tokens, a_tokens, c_tokens = -12.0, -4.0, -6.0, 9, 4, 3
    joint = (prompt + a) / (prompt_tokens + a_tokens) - (prompt + c) / (prompt_tokens + c_tokens)
    assert abs(joint - (a / a_tokens - c / c_tokens)) > 0.1


def test_jpo_is_finite_at_extreme_margins() -> None:
    big, zero = np.array([1e4, -1e4]), np.zeros(2)
    assert np.isfinite(refs.jpo(big, big, zero, zero, zero, zero, big, -big, beta=1.0)).all()
