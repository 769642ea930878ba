"""Identities between methods (METHODS.md §16 item by item), displacement (§14), optima of losses.

Not here, as no function of ours has it yet: 4 (MRPO, several references), 5 (JPO, pairs over two
prompts, tested where they are built), 6 (OPO, LambdaRank, ListMLE and all-pairs: losses of lists),
9 (SAPO: generates its own rejected answers), and of 12 eps-DPO and TDPO2 (they need the reference's
distribution at every token) and TR-DPO (a moving reference, which belongs to the engine).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from loss_cases import Options, bound, every_case
from pair_values import (
    PAIRS,
    columns,
    gradient,
    leaves_of,
    logps,
    pair_logps,
    shifted,
    swapped,
    with_tensors,
)
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from prefine.losses import (
    alpha_po,
    aot,
    aot_unpaired,
    apo_down,
    apo_zero,
    bco,
    bdpo,
    beta_dpo,
    bmc,
    cal_dpo,
    chi_po,
    cpo,
    discopop,
    dpo,
    dpo_gamma,
    dpo_shift,
    dpop,
    exo,
    f_dpo,
    f_dpo_alpha,
    hinge,
    ipo,
    kto_pair,
    ld_dpo,
    nca,
    odpo,
    orpo,
    r_dpo,
    robust,
    rpo,
    sigmoid_norm,
    simpo,
    slic,
    soft_dpo,
    sppo,
    sppo_hard,
    wpo,
)
from prefine.losses.facts import kind_of
from prefine.losses.protocol import LossFunction, PairLogps
from prefine.losses.regularizers.budget import budget
from prefine.losses.regularizers.nll import nll
from prefine.losses.regularizers.step_budget import step_budget
from prefine.training.objective.objective import Objective

VALUES = logps()
AT_START = replace(
    VALUES,
    policy_chosen=VALUES.ref_chosen,
    policy_rejected=VALUES.ref_rejected,
    initial_chosen=VALUES.ref_chosen,
    mismatched_logratio=torch.zeros(PAIRS, dtype=torch.float64),
)
EQUAL_LENGTHS = replace(VALUES, rejected_tokens=VALUES.chosen_tokens)
ONE_PAIR = pair_logps(columns(pairs=1, seed=5))
BASES = pytest.mark.parametrize("base", [dpo, ipo, simpo, bco], ids=["dpo", "ipo", "simpo", "bco"])


def _close(found: Tensor, expected: Tensor | float, *, atol: float = 1e-12) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64).expand_as(found)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=atol)


@contextmanager
def _naming(which: str) -> Iterator[None]:
    """Name the loss of a failed comparison."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{which}: {error}") from error


def _total(objective: Objective) -> LossFunction:
    return lambda values: objective.value(*objective.terms(values))


# --- METHODS §16


@BASES
@pytest.mark.parametrize(("weight", "delta"), [(0.0, 0.0), (0.7, 1e9)])
@pytest.mark.parametrize("regularizer", [budget, step_budget])
def test_16_01_a_budget_without_weight_or_without_end_is_the_loss_alone(
    base: LossFunction, weight: float, delta: float, regularizer: LossFunction
) -> None:
    """1: BCR(lam=0) = BCR(delta=inf) = base."""
    total = _total(Objective(base, partial(regularizer, delta=delta), weight))
    assert torch.equal(total(VALUES), base(VALUES))
    for found, expected in zip(gradient(total, VALUES), gradient(base, VALUES), strict=True):
        assert torch.equal(found, expected)


def test_16_02_dpop_is_dpo_without_its_penalty_and_no_additive_budget() -> None:
    """2: dpop(lam, delta=0) = DPOP(lam); DPOP(0) = DPO; additive BCR(0) != DPOP."""
    fall = (VALUES.ref_chosen - VALUES.policy_chosen).relu()
    _close(dpop(VALUES, beta=0.3, lam=5.0), -logsigmoid(0.3 * (VALUES.margin - 5.0 * fall)))
    _close(dpop(VALUES, beta=0.3, lam=0.0), dpo(VALUES, beta=0.3))
    _close(dpop(VALUES, beta=0.3, delta=1e9), dpo(VALUES, beta=0.3))
    fallen = shifted(AT_START, policy_chosen=-2.0)
    for lam in (0.1, 1.0, 5.0):
        additive = dpo(fallen, beta=0.3) + lam * budget(fallen, delta=0.0)
        assert not torch.isclose(additive, dpop(fallen, beta=0.3, lam=lam)).any()
    risen = shifted(AT_START, policy_chosen=2.0)
    _close(dpop(risen, beta=0.3), dpo(risen, beta=0.3))
    _close(dpo(risen, beta=0.3) + budget(risen, delta=0.0), dpo(risen, beta=0.3))


@BASES
@pytest.mark.parametrize(("per", "reduction"), [("sequence", "sum"), ("token", "mean")])
def test_16_03_a_budget_that_is_always_exceeded_pushes_like_next_token_regularization(
    base: LossFunction, per: str, reduction: str
) -> None:
    """3: grad BCR(delta=-inf, lam) = grad(base + lam * NLL_sum)."""
    found = gradient(_total(Objective(base, partial(budget, delta=-1e9, per=per), 0.7)), VALUES)
    expected = gradient(_total(Objective(base, partial(nll, reduction=reduction), 0.7)), VALUES)
    for side, wanted in zip(found, expected, strict=True):
        _close(side, wanted)


def test_16_03_and_that_of_rpo() -> None:
    """3: grad BCR(delta=-inf, lam) = grad(base + lam * NLL_sum), which for DPO is RPO."""
    found = gradient(
        lambda values: dpo(values, beta=0.3) + 0.7 * budget(values, delta=-1e9), VALUES
    )
    expected = gradient(
        lambda values: rpo(values, beta=0.3, alpha=0.7, nll_reduction="sum"), VALUES
    )
    for side, wanted in zip(found, expected, strict=True):
        _close(side, wanted)


def test_16_07_sigmoid_norm_of_rso_is_dpo_and_its_hinge_norm_is_the_hinge() -> None:
    """7: RSO sigmoid-norm(gamma) = DPO(beta=gamma); hinge-norm = TRL hinge."""
    gamma = 0.05
    _close(dpo(VALUES, beta=gamma), -logsigmoid(gamma * VALUES.margin))
    _close(hinge(VALUES, beta=gamma), torch.relu(1 - gamma * VALUES.margin))


@pytest.mark.parametrize("base", [dpo, orpo, r_dpo], ids=["dpo", "orpo", "r_dpo"])
@pytest.mark.parametrize("ref_weights", ["policy", "own"])
def test_16_08_bmc_without_differences_or_extra_weight_is_its_base(
    base: LossFunction, ref_weights: Any
) -> None:
    """8: BMC(no diff or delta=0) = base."""
    assert VALUES.tokens is not None
    none = {
        name: torch.zeros_like(getattr(VALUES.tokens, name))
        for name in ("chosen_marked", "rejected_marked")
    }
    alike = replace(VALUES, tokens=replace(VALUES.tokens, **none))
    _close(bmc(alike, loss=base, ref_weights=ref_weights), base(VALUES))
    _close(bmc(VALUES, loss=base, delta=0.0, ref_weights=ref_weights), base(VALUES))
    assert not torch.allclose(bmc(VALUES, loss=base, ref_weights=ref_weights), base(VALUES))


def test_16_10_dpo_gamma_goes_from_cpo_to_dpo() -> None:
    """10: DPO^1 = DPO, DPO^0 = CPO pref."""
    _close(dpo_gamma(VALUES, beta=0.3, gamma=1.0), dpo(VALUES, beta=0.3))
    _close(dpo_gamma(VALUES, beta=0.3, gamma=0.0), cpo(VALUES, beta=0.3, alpha=0.0))


def test_16_11_smoothing_of_nothing_is_dpo_and_robust_is_unbiased() -> None:
    """11: cDPO(0) = rDPO(0) = DPO; E_flip[rDPO] = DPO."""
    plain = -logsigmoid(0.3 * VALUES.margin)
    _close(dpo(VALUES, beta=0.3, label_smoothing=0.0), plain)
    _close(robust(VALUES, beta=0.3, label_smoothing=0.0), plain)
    for e in (0.1, 0.3):
        right = robust(VALUES, beta=0.3, label_smoothing=e)
        wrong = robust(swapped(VALUES), beta=0.3, label_smoothing=e)
        _close((1 - e) * right + e * wrong, plain, atol=1e-11)


AS_DPO: dict[str, Callable[[PairLogps], Tensor]] = {
    "beta_dpo(alpha=0, rho=0)": partial(beta_dpo, beta=0.1, alpha=0.0, rho=0.0),
    "dpo_shift(1)": partial(dpo_shift, beta=0.1, f=1.0),
    "bdpo(lam=1)": partial(bdpo, beta=0.1, lam=1.0),
    "ld_dpo(1)": partial(ld_dpo, beta=0.1, alpha=1.0),
    "ld_dpo(1, policy)": partial(ld_dpo, beta=0.1, alpha=1.0, apply_to="policy"),
    "r_dpo(0)": partial(r_dpo, beta=0.1, alpha=0.0),
    "r_dpo(equal lengths)": lambda values: r_dpo(
        replace(values, chosen_tokens=values.rejected_tokens), beta=0.1
    ),
    "f_dpo(reverse KL)": partial(f_dpo, beta=0.1, divergence="reverse_kl"),
    "f_dpo_alpha(0)": partial(f_dpo_alpha, beta=0.1, alpha=0.0),
    "odpo(0)": partial(odpo, beta=0.1, alpha=0.0),
    "soft_dpo(p=1)": lambda values: soft_dpo(
        replace(values, p_chosen=torch.ones_like(values.p_chosen)), beta=0.1
    ),
    "sigmoid_norm(one token)": lambda values: sigmoid_norm(
        replace(values, chosen_tokens=torch.ones(PAIRS), rejected_tokens=torch.ones(PAIRS)),
        beta=0.1,
    ),
}


def test_16_12_is_dpo() -> None:
    """12: beta-DPO(a=0, rho=0), DPO-Shift(1), BDPO(lam=1), LD-DPO(1), R-DPO(0 or equal
    lengths), f-DPO(KL) = DPO.
    """
    slopes = gradient(partial(dpo, beta=0.1), VALUES)
    for form, function in AS_DPO.items():
        with _naming(form):
            _close(function(VALUES), dpo(VALUES, beta=0.1))
            for side, wanted in zip(gradient(function, VALUES), slopes, strict=True):
                if "ld_dpo" not in form:
                    # LD-DPO pushes the tokens, not their sums.
                    _close(side, wanted)


@pytest.mark.parametrize("sorts", [aot, aot_unpaired])
def test_16_12_aot_of_one_pair_is_dpo(sorts: LossFunction) -> None:
    """12: AOT(B=1) = DPO."""
    _close(sorts(ONE_PAIR, beta=0.3), dpo(ONE_PAIR, beta=0.3))


@pytest.mark.parametrize("case", ["certain", "uniform"])
def test_16_12_wpo_of_a_certain_or_uniform_policy_is_dpo(case: str) -> None:
    """12: WPO(w=1) = DPO."""
    assert VALUES.tokens is not None
    logp = {"certain": 0.0, "uniform": -math.log(50)}[case]
    tokens = {
        name: torch.full_like(getattr(VALUES.tokens, name), logp)
        for name in ("policy_chosen", "policy_rejected", "chosen_log_sum_p2", "rejected_log_sum_p2")
    }
    _close(wpo(replace(VALUES, tokens=replace(VALUES.tokens, **tokens))), dpo(VALUES))


def test_16_13_simpo_without_margin_at_equal_lengths_is_cpo_with_beta_over_length() -> None:
    """13: SimPO(gamma=0, equal lengths n) = CPO pref with beta / n."""
    seven = torch.full((PAIRS,), 7.0, dtype=torch.float64)
    values = replace(VALUES, chosen_tokens=seven, rejected_tokens=seven)
    _close(simpo(values, beta=2.0, gamma=0.0), cpo(values, beta=2.0 / 7, alpha=0.0))


LOG2 = math.log(2)
START: dict[str, tuple[Callable[..., Tensor], float]] = {
    "dpo": (partial(dpo, beta=0.7), LOG2),
    "ipo": (partial(ipo, beta=0.7), 1 / (4 * 0.7**2)),
    "ipo sum": (partial(ipo, beta=0.7, average="sum"), 1 / (4 * 0.7**2)),
    "hinge": (partial(hinge, beta=0.7), 1.0),
    "apo_zero": (partial(apo_zero, beta=0.7), 1.0),
    "apo_down": (partial(apo_down, beta=0.7), 1.0),
    "nca": (partial(nca, beta=0.7), 2 * LOG2),
    "bco": (partial(bco, beta=0.7), 2 * LOG2),
    "kto_pair": (partial(kto_pair, beta=0.7), 0.5),
    "dpop": (partial(dpop, beta=0.7), LOG2),
    "budget": (lambda values: dpo(values, beta=0.7) + budget(values, delta=0.0), LOG2),
    "bdpo": (partial(bdpo, beta=0.7), LOG2),
    "bdpo, lam 0": (partial(bdpo, beta=0.7, lam=0.0), LOG2),
    "dpo_shift": (partial(dpo_shift, beta=0.7), LOG2),
    "f_dpo": (partial(f_dpo, beta=0.7), LOG2),
    "f_dpo_alpha": (partial(f_dpo_alpha, beta=0.7), LOG2),
    "chi_po": (partial(chi_po, beta=0.7), LOG2),
    "robust": (partial(robust, beta=0.7, label_smoothing=0.2), LOG2),
    "soft_dpo": (partial(soft_dpo, beta=0.7), LOG2),
    "sigmoid_norm": (partial(sigmoid_norm, beta=0.7), LOG2),
    "discopop": (partial(discopop, beta=0.7), LOG2 / 2 + 0.5),
    "exo": (partial(exo, beta=0.7, epsilon=0.1), -LOG2 - math.log(0.9 * 0.1) / 2),
    "sppo_hard": (partial(sppo_hard, beta=0.7), 2 * (0.5 / 0.7) ** 2),
    "cal_dpo": (partial(cal_dpo, beta=0.7), LOG2 + (0.5 / 0.7) ** 2),
    "step_budget": (partial(step_budget, delta=0.0), 0.0),
}


def test_16_14_values_at_the_initial_policy() -> None:
    """14: DPO = ln2, IPO = 1/(4b^2), hinge = 1, APO-zero = 1, NCA = BCO = 2 ln2, KTO = .5, DPOP
    = BCR = BDPO = ln2.
    """
    for which, (function, value) in START.items():
        with _naming(which):
            _close(function(AT_START), value)


def test_16_15_exchanging_the_sides_negates_the_margin() -> None:
    """15: swapping (w, l) maps D -> -D for all pairwise-D losses."""
    other, margin = swapped(VALUES), VALUES.margin
    _close(other.margin, -margin)
    # -log s(x) + log s(-x) = -x.
    _close(dpo(VALUES, beta=0.3) - dpo(other, beta=0.3), -0.3 * margin)
    _close(
        robust(VALUES, beta=0.3, label_smoothing=0.2)
        - robust(other, beta=0.3, label_smoothing=0.2),
        -0.3 * margin / 0.6,
        atol=1e-11,
    )
    # A label p for one is 1 - p for the other, and a gap g is -g.
    _close(soft_dpo(VALUES, beta=0.3), soft_dpo(other, beta=0.3))
    assert VALUES.score_gap is not None
    _close(odpo(VALUES, beta=0.3) - odpo(other, beta=0.3), VALUES.score_gap - 0.3 * margin)
    longer = VALUES.chosen_tokens - VALUES.rejected_tokens
    _close(r_dpo(VALUES, beta=0.3) - r_dpo(other, beta=0.3), -0.3 * margin - 0.01 * longer)
    _close(dpo_gamma(VALUES, gamma=1.0) - dpo_gamma(other, gamma=1.0), -0.1 * margin)
    _close(ld_dpo(VALUES, alpha=1.0) - ld_dpo(other, alpha=1.0), -0.1 * margin)
    # (D - c)^2 - (-D - c)^2 = -4 c D.
    _close(
        ipo(VALUES, beta=0.3, average="sum") - ipo(other, beta=0.3, average="sum"),
        -4 / 0.6 * margin,
    )
    _close(ipo(VALUES, beta=0.3) - ipo(other, beta=0.3), -4 / 0.6 * VALUES.token_margin)
    _close(
        sigmoid_norm(VALUES, beta=0.3) - sigmoid_norm(other, beta=0.3), -0.3 * VALUES.token_margin
    )
    gap = (
        VALUES.policy_chosen / VALUES.chosen_tokens
        - VALUES.policy_rejected / VALUES.rejected_tokens
    )
    _close(simpo(VALUES, beta=3.0, gamma=0.0) - simpo(other, beta=3.0, gamma=0.0), -3.0 * gap)
    _close(hinge(VALUES, beta=1e-3) + hinge(other, beta=1e-3), 2.0)
    # KL(p || q) and KL(1 - p || q): only the logarithms of q differ.
    x = 0.3 * margin
    _close(
        exo(VALUES, beta=0.3, epsilon=0.1) - exo(other, beta=0.3, epsilon=0.1),
        -(x.sigmoid() - (-x).sigmoid()) * (math.log(0.9) - math.log(0.1)),
    )


SUMS: dict[str, LossFunction] = {
    **{
        "dpo": dpo,
        "soft_dpo": soft_dpo,
        "odpo": odpo,
        "robust": robust,
        "r_dpo": r_dpo,
        "dpo_gamma": dpo_gamma,
    },
    **{
        "exo": exo,
        "discopop": discopop,
        "hinge": hinge,
        "ipo sum": partial(ipo, average="sum"),
        "aot": aot,
    },
    **{"aot_unpaired": aot_unpaired, "f_dpo(kl)": partial(f_dpo, divergence="reverse_kl")},
    **{"f_dpo_alpha(0)": partial(f_dpo_alpha, alpha=0.0), "beta_dpo": partial(beta_dpo, rho=0.0)},
}
AVERAGES: dict[str, LossFunction] = {"ipo": ipo, "sigmoid_norm": sigmoid_norm, "simpo": simpo}
WITHOUT_REFERENCE: dict[str, LossFunction] = {
    "slic": partial(slic, lam=0.0),
    "cpo": partial(cpo, alpha=0.0),
}
ANCHORED: dict[str, LossFunction] = {
    **{
        "nca": nca,
        "bco": bco,
        "apo_zero": apo_zero,
        "apo_down": apo_down,
        "sppo": sppo,
        "sppo_hard": sppo_hard,
    },
    **{
        "cal_dpo": cal_dpo,
        "kto_pair": kto_pair,
        "bdpo": bdpo,
        "dpo_shift": dpo_shift,
        "dpop": dpop,
        "orpo": orpo,
    },
    **{
        "rpo": rpo,
        "chi_po": partial(chi_po, r_max=1e3),
        "f_dpo": f_dpo,
        "f_dpo_alpha": f_dpo_alpha,
    },
    **{
        "alpha_po": alpha_po,
        "budget": partial(budget, delta=0.0),
        "step_budget": partial(step_budget, delta=-50.0),
    },
    **{"nll": nll},
}
BOTH_POLICY, BOTH_REF = ("policy_chosen", "policy_rejected"), ("ref_chosen", "ref_rejected")


@pytest.mark.parametrize("sides", [BOTH_POLICY, BOTH_REF], ids=["policy", "reference"])
def test_16_16_what_both_sides_gain_cancels(sides: tuple[str, str]) -> None:
    """16: adding k to both lw and ll (or both refs) leaves D-losses unchanged, averaged ones
    only for |w| = |l|.
    """
    by = dict.fromkeys(sides, -3.7)
    for which, function in (SUMS | AVERAGES | WITHOUT_REFERENCE).items():
        values = EQUAL_LENGTHS if which in AVERAGES else VALUES
        with _naming(which):
            _close(function(shifted(values, **by)), function(values), atol=1e-10)
        if which in AVERAGES and not (which == "simpo" and sides == BOTH_REF):
            assert not torch.allclose(function(shifted(VALUES, **by)), function(VALUES)), which


def test_16_16_but_not_where_a_side_counts_by_itself() -> None:
    """16: not NCA/BCO/APO/SPPO/Cal/KTO/BDPO/DPO-Shift/DPOP/ORPO/RPO/chi-PO/f-divergences other
    than KL/BCR.
    """
    moved = shifted(VALUES, policy_chosen=-3.7, policy_rejected=-3.7)
    for which, function in ANCHORED.items():
        assert not torch.allclose(function(moved), function(VALUES)), which


@every_case
def test_16_17_all_are_finite_at_margins_of_1e4(name: str, options: Options) -> None:
    """17: all losses finite and grads finite at |D| = 1e4 (and at log-probabilities of -1e5),
    in float32.
    """
    function = bound(name, options)
    plain = logps(dtype=torch.float32)
    low = dict.fromkeys((*BOTH_POLICY, *BOTH_REF, "initial_chosen"), -1e5)
    for values in (
        shifted(plain, policy_chosen=-1e4),
        shifted(plain, policy_rejected=-1e4),
        shifted(plain, ref_chosen=-1e4),
        shifted(plain, ref_rejected=-1e4),
        shifted(plain, **low),
        shifted(plain, **(low | {"policy_chosen": -1.1e5})),
        shifted(plain, **(low | {"policy_rejected": -1.1e5})),
    ):
        assert function(values).isfinite().all()
        assert all(side.isfinite().all() for side in gradient(function, values))


@every_case
def test_16_18_float32_gradients_are_central_differences(name: str, options: Options) -> None:
    """18: fp32 autograd vs central differences on random inputs; padding changes nothing."""
    function, exact = bound(name, options), pair_logps(columns(pairs=8, longest=6, seed=3))
    low = pair_logps(columns(pairs=8, longest=6, seed=3), dtype=torch.float32)
    assert exact.tokens is not None
    padded = replace(
        exact,
        tokens=replace(
            exact.tokens, **{key: pad(t, (0, 3)) for key, t in vars(exact.tokens).items()}
        ),
    )
    _close(function(padded), function(exact))
    inner = {part["name"] for part in options.get("losses", [])}
    if name in ("wpo", "bmc", "beta_dpo") or "beta_dpo" in inner:
        # Their weights are held constant: see the tests of weights.
        return
    if name == "slope_calibration":
        # It changes slopes and no value: see its own tests.
        return
    leaves = leaves_of(low)
    function(with_tensors(low, dict(leaves))).sum().backward()
    step, rng = 1e-5, np.random.default_rng(0)
    for leaf, tensor in leaves.items():
        if tensor.grad is None:
            continue
        # Along a random direction, as one number per leaf.
        direction = torch.tensor(rng.normal(size=tuple(tensor.shape)))
        ends = [
            function(
                with_tensors(
                    exact, {leaf: leaves_of(exact)[leaf].detach() + sign * step * direction}
                )
            )
            for sign in (1, -1)
        ]
        slope = float((ends[0] - ends[1]).sum()) / (2 * step)
        # Rounding of float32 is amplified by what cancels in a margin, here up to about 100 nats.
        size = float((tensor.grad.double() * direction).abs().sum())
        assert float((tensor.grad.double() * direction).sum()) == pytest.approx(
            slope, abs=1e-4 * size + 1e-7
        )


# --- METHODS §14: the overlap of gradients from which chosen falls is |g_w| / g_l

RATIOS: dict[str, tuple[LossFunction, Callable[[PairLogps], Tensor | float]]] = {
    "dpo": (dpo, lambda v: 1.0),
    "cdpo": (partial(dpo, label_smoothing=0.2), lambda v: 1.0),
    "robust": (robust, lambda v: 1.0),
    "ipo sum": (partial(ipo, beta=0.05, average="sum"), lambda v: 1.0),
    "hinge": (partial(hinge, beta=1e-3), lambda v: 1.0),
    "cpo": (partial(cpo, alpha=0.0), lambda v: 1.0),
    "exo": (exo, lambda v: 1.0),
    "dpop": (partial(dpop, lam=3.0), lambda v: 1 + 3.0),
    "dpo_shift": (partial(dpo_shift, f=0.4), lambda v: 1 / 0.4),
    "simpo": (simpo, lambda v: v.rejected_tokens / v.chosen_tokens),
    "bdpo": (
        partial(bdpo, lam=0.3),
        lambda v: (0.3 * v.rejected_logratio.exp() + 0.7) / (0.3 * v.rejected_logratio.exp()),
    ),
    "rpo": (
        partial(rpo, beta=0.3, alpha=0.5, nll_reduction="mean"),
        lambda v: 1 + 0.5 / (v.chosen_tokens * 0.3 * (-0.3 * v.margin).sigmoid()),
    ),
    "budget exceeded": (
        lambda v: dpo(v, beta=0.3) + 0.5 * budget(v, delta=0.5),
        lambda v: 1 + 0.5 / (0.3 * (-0.3 * v.margin).sigmoid()),
    ),
    "within the budget": (lambda v: dpo(v, beta=0.3) + 0.5 * budget(v, delta=50.0), lambda v: 1.0),
}


def test_14_displacement_ratio() -> None:
    """§14: DPO 1, DPOP 1 + lam, DPO-Shift 1 / f, SimPO |l| / |w|, BDPO, RPO, BCR."""
    # Chosen has fallen, by up to five nats, and rejected further.
    fall = torch.linspace(1, 5, PAIRS, dtype=torch.float64)
    values = replace(
        AT_START,
        policy_chosen=AT_START.ref_chosen - fall,
        policy_rejected=AT_START.ref_rejected - 2 * fall,
    )
    for which, (function, ratio) in RATIOS.items():
        chosen, rejected = gradient(function, values)
        # IPO and EXO push towards a finite margin, which is further away.
        assert (rejected > 0).all(), which
        wanted = torch.as_tensor(ratio(values), dtype=torch.float64)
        with _naming(which):
            _close(-chosen / rejected, wanted, atol=1e-10)


# --- optima and other known points


def _with_ratios(a: float, c: float) -> PairLogps:
    return replace(
        AT_START, policy_chosen=AT_START.ref_chosen + a, policy_rejected=AT_START.ref_rejected + c
    )


@pytest.mark.parametrize(
    ("function", "a", "c"),
    [
        (partial(dpo, beta=0.3, label_smoothing=0.2), math.log(4) / 0.3, 0.0),
        (partial(ipo, beta=0.2, average="sum"), 2.5, 0.0),
        (partial(exo, beta=0.3, epsilon=0.1), math.log(9) / 0.3, 0.0),
        (partial(sppo_hard, beta=0.2), 2.5, -2.5),
        (partial(chi_po, beta=0.3, r_max=0.2), 9.0, -9.0),
    ],
    ids=["cdpo", "ipo", "exo", "sppo_hard", "chi_po clipped"],
)
def test_nothing_is_pushed_at_the_optimum(function: LossFunction, a: float, c: float) -> None:
    for side in gradient(function, _with_ratios(a, c)):
        _close(side, 0.0, atol=1e-11)


def test_zero_at_the_optimum() -> None:
    _close(ipo(_with_ratios(2.5, 0.0), beta=0.2, average="sum"), 0.0)
    _close(exo(_with_ratios(math.log(9) / 0.3, 0.0), beta=0.3, epsilon=0.1), 0.0)
    _close(sppo_hard(_with_ratios(2.5, -2.5), beta=0.2), 0.0)


def test_nca_holds_chosen_where_it_has_doubled() -> None:
    chosen, _ = gradient(partial(nca, beta=0.3), _with_ratios(math.log(2) / 0.3, 1.0))
    _close(chosen, 0.0)


def test_soft_dpo_ends_where_the_policy_says_what_the_judge_said() -> None:
    margin = (VALUES.p_chosen / (1 - VALUES.p_chosen)).log() / 0.3
    values = replace(AT_START, policy_chosen=AT_START.ref_chosen + margin)
    for side in gradient(partial(soft_dpo, beta=0.3), values):
        _close(side, 0.0)


def test_sppo_hard_is_twice_sppo_of_a_certain_label() -> None:
    certain = replace(VALUES, p_chosen=torch.ones(PAIRS, dtype=torch.float64))
    _close(sppo_hard(certain, beta=0.03), 2 * sppo(certain, beta=0.03))


def test_alpha_po_without_bend_is_simpo_and_alpha_of_one_is_forward_kl() -> None:
    _close(alpha_po(VALUES, beta=2.0, alpha=0.0, gamma=0.4), simpo(VALUES, beta=2.0, gamma=0.4))
    _close(
        alpha_po(VALUES, beta=2.0, alpha=1e-7, gamma=0.4),
        simpo(VALUES, beta=2.0, gamma=0.4),
        atol=1e-4,
    )
    _close(f_dpo_alpha(VALUES, alpha=1.0), f_dpo(VALUES, divergence="forward_kl"))


def test_bdpo_keeps_chosen_where_its_loss_is_small() -> None:
    """§13.27: a loss of at most ln 2 says e^a >= lam e^c + 1 - lam."""
    a, c = VALUES.chosen_logratio, VALUES.rejected_logratio
    for lam in (0.0, 0.3, 1.0):
        small = bdpo(VALUES, lam=lam) <= LOG2
        assert small.any() and not small.all()
        assert torch.equal(small, a.exp() >= lam * c.exp() + 1 - lam)


def test_a_small_dpo_loss_says_that_the_policy_ranks_rightly() -> None:
    """§7, Thm 4.1: R = 1 exactly where L_DPO <= -log s(beta log(ref(yl) / ref(yw)))."""
    threshold = -logsigmoid(0.3 * (VALUES.ref_rejected - VALUES.ref_chosen))
    right = VALUES.policy_chosen >= VALUES.policy_rejected
    assert right.any() and not right.all()
    assert torch.equal(dpo(VALUES, beta=0.3) <= threshold, right)
    assert float(-logsigmoid(torch.tensor(3.0, dtype=torch.float64))) == pytest.approx(
        0.0485874, abs=5e-8
    )


def test_sum_and_token_forms_agree_on_answers_of_one_token() -> None:
    one = torch.ones_like(VALUES.chosen_tokens)
    short = replace(
        VALUES, chosen_tokens=one, rejected_tokens=one, chosen_tokens_in_step=5, pairs_in_step=5
    )
    _close(ipo(short, average="token"), ipo(short, average="sum"))
    for reduction in ("mean", "token_mean"):
        _close(nll(short, reduction=reduction), nll(short, reduction="sum"))
    _close(budget(short, delta=0.5, per="token"), budget(short, delta=0.5, per="sequence"))
    _close(
        step_budget(short, delta=-9.0, per="token"), step_budget(short, delta=-9.0, per="sequence")
    )


def test_inside_the_budget_nothing_is_pushed() -> None:
    inside = shifted(AT_START, policy_chosen=-0.9)
    for function in (partial(budget, delta=1.0), partial(step_budget, delta=1.0)):
        chosen, rejected = gradient(function, inside)
        assert not chosen.any() and not rejected.any()


def test_a_budget_of_one_pair_is_that_of_its_step() -> None:
    assert kind_of(budget) == "local" and kind_of(step_budget) == "coupled"
    _close(step_budget(ONE_PAIR, delta=-40.0), budget(ONE_PAIR, delta=-40.0))
