"""The reference formulas themselves: known values, gradients by central differences, identities
of METHODS.md §16.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import reference
from losses.hostile_pairs import HOSTILE
from reference import Array, Columns, Grad, TokenColumns


def _rows(*rows: list[float]) -> Array:
    return np.array([[*row, *[0.0] * (4 - len(row))] for row in rows])


# fmt: off
TOKENS = TokenColumns(
    policy_chosen=_rows([-0.5, -1.25, -0.125], [-2.0, -0.75, -1.5, -0.375], [-0.0625, -3.0]),
    policy_rejected=_rows([-1.0, -0.25, -3.5, -0.5], [-0.875, -1.125], [-2.25, -1.75, -0.5]),
    ref_chosen=_rows([-0.75, -1.0, -0.25], [-1.5, -1.0, -0.5, -0.625], [-0.5, -2.0]),
    ref_rejected=_rows([-0.5, -0.75, -2.0, -1.0], [-1.25, -0.5], [-1.5, -2.5, -1.25]),
    initial_chosen=_rows([-0.25, -1.125, -0.125], [-1.0, -1.25, -0.375, -0.375], [-0.75, -2.0]),
    chosen_log_sum_p2=_rows([-0.625, -0.875, -0.25], [-1.25, -0.5, -1.0, -0.5], [-0.125, -2.0]),
    rejected_log_sum_p2=_rows([-0.75, -0.375, -1.5, -0.625], [-0.5, -0.75], [-1.375, -1.0, -0.25]),
    chosen_marked=_rows([1, 0, 1], [0, 1, 1, 0], [1, 1]), rejected_marked=_rows([0, 1, 1, 0], [1,
    0], [1, 0, 1]),
)
# a = .125, -1, -.5625; c = -1, -.25, .75; D = 1.125, -.75, -1.3125; the step is larger than these
# three pairs.
THREE = Columns(
    policy_chosen=TOKENS.policy_chosen.sum(axis=1),
    policy_rejected=TOKENS.policy_rejected.sum(axis=1),
    ref_chosen=TOKENS.ref_chosen.sum(axis=1), ref_rejected=TOKENS.ref_rejected.sum(axis=1),
    initial_chosen=np.array([-1.5, -3.0, -2.75]), chosen_tokens=np.array([3.0, 4, 2]),
    rejected_tokens=np.array([4.0, 2, 3]), p_chosen=np.array([0.75, 0.9375, 0.625]),
    weight=np.array([1, 0.5, 2]),
    score_gap=np.array([1.5, 0.25, -0.5]), mismatched_logratio=np.array([0.5, -0.25, 1.25]),
    pairs_in_step=6, chosen_tokens_in_step=20, tokens=TOKENS,
)
# Values of THREE, by mpmath at 60 digits from the text of METHODS.md, not from reference.py.
GOLDEN: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("dpo", dict(beta=0.3, label_smoothing=0.0),
        [0.538568394353686, 0.811962002049704, 0.909278149039775]),
    ("dpo", dict(beta=0.7, label_smoothing=0.2),
        [0.532492723023349, 0.884711754672993, 1.0707702055112]),
    ("soft_dpo", dict(beta=0.7), [0.571867723023349, 0.956899254672993, 0.909988955511198]),
    ("odpo", dict(beta=0.7, alpha=0.5, scale="linear"),
        [0.674572951511228, 1.07005533570272, 1.082413815631]),
    ("odpo", dict(beta=0.7, alpha=0.5, scale="log"),
        [0.442912091507209, 0.612603618916001, 0.00250302056528665]),
    ("robust", dict(beta=0.7, label_smoothing=0.2),
        [0.112492723023349, 1.16471175467299, 1.5607702055112]),
    ("ipo", dict(beta=0.3, average="token"), [1.890625, 3.21006944444444, 4.83083767361111]),
    ("ipo", dict(beta=0.3, average="sum"), [0.293402777777778, 5.84027777777778, 8.87543402777778]),
    ("hinge", dict(beta=0.7), [0.2125, 1.525, 1.91875]),
    ("slic", dict(delta=2.0, lam=0.3), [0.5625, 6.0125, 1.48125]),
    ("simpo", dict(beta=2.5, gamma=0.4), [0.237022337754278, 1.16464156665746, 0.960517012273419]),
    ("cpo", dict(beta=0.7, alpha=0.3, nll_reduction="mean"),
        [0.277509307203913, 2.33211802290587, 0.770959640012234]),
    ("rpo", dict(beta=0.7, alpha=0.3, nll_reduction="token_mean"),
        [0.543742723023349, 1.40596175467299, 1.5301452055112]),
    ("orpo", dict(lam=0.3), [0.708231072058069, 1.40185885387856, 1.7452614820085]),
    ("dpop", dict(beta=0.7, lam=5.0, delta=0.75),
        [0.374992723023349, 1.62041740991845, 1.2545202055112]),
    ("apo_zero", dict(beta=0.7), [0.809951173860232, 1.12454908493109, 1.22550129686745]),
    ("apo_down", dict(beta=0.7), [0.834566773774397, 0.9601284161272, 1.11760223256472]),
    ("cal_dpo", dict(beta=0.3), [1.69174041402609, 5.69589878389268, 6.95557541088822]),
    ("nca", dict(beta=0.7), [1.22087388443685, 1.60951428865971, 1.66189810089616]),
    ("exo", dict(beta=0.7, epsilon=0.05), [0.350787727415151, 1.24148621462778, 1.55813166760375]),
    ("bco", dict(beta=0.7, delta=0.4), [1.1488901873861, 1.83375353518535, 1.92439154198487]),
    ("discopop", dict(beta=0.7, tau=0.3), [0.449577894983055, 1.09345539842503, 1.31044437030064]),
    ("aot", dict(beta=0.7), [0.989711754672993, 1.01742323754209, 0.498134547514375]),
    ("aot_unpaired", dict(beta=0.7), [0.693147180559945, 0.808491737883657, 0.935634547514375]),
    ("sppo", dict(beta=0.3), [0.264756944444444, 3.75173611111111, 1.15993923611111]),
    ("sppo_hard", dict(beta=0.3), [2.82118055555556, 9.11805555555556, 10.8094618055556]),
    ("r_dpo", dict(beta=0.7, alpha=0.2), [0.441935142035039, 0.757599035317169, 1.40143553505694]),
    ("ld_dpo", dict(beta=0.7, alpha=0.3, apply_to="both"),
        [0.304624405566676, 0.77499476215205, 1.0062853321878]),
    ("ld_dpo", dict(beta=0.7, alpha=0.3, apply_to="policy"),
        [0.458242994110027, 0.515528149039775, 1.43554108371323]),
    ("dpo_shift", dict(beta=0.7, f=0.6), [0.471252034583882, 1.03426253014403, 1.10904117099303]),
    ("bdpo", dict(beta=0.7, lam=0.3), [0.582671198954578, 1.07132715709891, 1.03494219140423]),
    ("bdpo", dict(beta=0.7, lam=0.0), [0.650353906662749, 1.10318604888546, 0.909278149039775]),
    ("f_dpo", dict(beta=0.7, divergence="forward_kl"),
        [0.244229201553833, 1.31617248238528, 1.23964831238103]),
    ("f_dpo", dict(beta=0.7, divergence="js_divergence"),
        [0.483028049512762, 0.878185822784556, 0.936300928342097]),
    ("f_dpo_alpha", dict(beta=0.7, alpha=0.4),
        [0.328061885225341, 1.08764056095799, 1.23769602475952]),
    ("chi_po", dict(beta=0.7, r_max=0.4), [0.253607704122474, 1.17984242543996, 1.1675859731798]),
    ("sigmoid_norm", dict(beta=2.5), [0.393602186601773, 0.861554862270668, 1.56317626927977]),
    ("alpha_po", dict(beta=2.5, alpha=0.4, gamma=0.2),
        [0.0919477265973963, 1.17202553884606, 0.879425940395032]),
    ("dpo_gamma", dict(beta=0.7, gamma=0.3),
        [0.140693516009469, 1.65566348421901, 0.501576627065867]),
    ("kto_pair", dict(beta=0.7, desirable_weight=1.5, undesirable_weight=0.8),
        [0.527628101002463, 0.704254699068469, 0.725816974730283]),
    ("beta_dpo", dict(beta=0.7, alpha=0.6, gap_mean=0.2, kept=[True, False, True]),
        [0.630750509683643, 0.0, 1.71226242123861]),
    ("wpo_weight", dict(), [0.581777814209808, 0.487361076713619, 0.334958042925295]),
    ("bmc_sums", dict(delta=2.0, ref_weights="policy"),
        [(-2.84100419198342, -9.125, -9.12903090368237), (-12.5710063541719, -3.75,
        -9.82436063535006),
         (-3.5198280662918, -6.625, -7.03224722945893), (-9.21301906251581, -4.25,
         -10.3109015883752)]),
    ("bmc_sums", dict(delta=2.0, ref_weights="own"),
        [(-2.84100419198342, -9.125, -9.12903090368237), (-12.5710063541719, -3.75,
        -9.82436063535006),
         (-3.82100635417194, -6.44936063535006, -7.32436063535006), (-9.75, -4.25, -10.75)]),
    ("nll", dict(reduction="sum"), [1.875, 4.625, 3.0625]),
    ("nll", dict(reduction="mean"), [0.625, 1.15625, 1.53125]),
    ("nll", dict(reduction="token_mean"), [0.5625, 1.3875, 0.91875]),
    ("budget", dict(delta=0.25, per="sequence"), [0.125, 1.375, 0.0625]),
    ("budget", dict(delta=0.125, per="token"), [0.0, 0.28125, 0.03125]),
    ("step_budget", dict(delta=0.25, per="sequence"),
        [0.267857142857143, 0.267857142857143, 0.267857142857143]),
    ("step_budget", dict(delta=0.125, per="token"),
        [0.0580357142857143, 0.0580357142857143, 0.0580357142857143]),
    ("softplus_budget", dict(delta=-1.0, sharpness=4.0, per="sequence"),
        [1.37601961081764, 2.62500688401756, 1.31380844953794]),
    ("softplus_budget", dict(delta=0.25, sharpness=2.5, per="token"),
        [0.219621944908267, 0.362965248159243, 0.233124190753884]),
    ("token_budget", dict(delta=0.125), [0.0416666666666667, 0.46875, 0.4375]),
    ("token_budget", dict(delta=-0.25), [0.375, 0.71875, 0.625]),
    ("log_barrier", dict(delta=1.0, t=2.0, per="sequence"),
        [0.235001814622868, 2.44314718055995, 0.187346724720705]),
    ("log_barrier", dict(delta=0.25, t=5.0, per="token"),
        [0.415888308335967, 1.62502516497364, 0.473424722826323]),
    ("flex_dpo", dict(beta_chosen=0.7, beta_rejected=0.3),
        [0.518050442347861, 1.05370067827652, 1.04963414854913]),
    ("rainbow_po", dict(beta=2.5, alpha=0.25, gamma=0.4),
        [0.269986630393558, 1.08396417262069, 1.09693154198108]),
    ("aipo", dict(beta=0.7, alpha=0.6, lam=0.3),
        [0.96249476215205, 0.917360845282518, 2.65154203122485]),
]
# One pair far out or close to a zero: (lw, ll, rw, rl, |w|, |l|), no score gap; by mpmath at 5,000
# digits.
FAR: list[tuple[str, dict[str, Any], tuple[float, ...], float]] = [
    ("dpo", dict(beta=0.3, label_smoothing=0.0), (-5.0, -7.0, -5.0, -207.0, 4, 6), 60.0),
    ("dpo", dict(beta=0.3, label_smoothing=0.1), (-5.0, -7.0, -5.0, -10007.0, 4, 6), 2700.0),
    ("robust", dict(beta=0.3, label_smoothing=0.1), (-5.0, -10007.0, -5.0, -7.0, 4, 6), -375.0),
    ("nca", dict(beta=0.3), (-10005.0, -7.0, -5.0, -10007.0, 4, 6), 4500.0),
    ("nca", dict(beta=0.01), (-5.0, -7.0, -5.0, -7.0625, 4, 6), 1.38645063553395),
    ("exo", dict(beta=1.0, epsilon=0.25), (-1.0, -1.0, -2.125, -1.0, 4, 6), 6.47036251565818e-5),
    ("exo", dict(beta=0.3, epsilon=0.001), (-10005.0, -7.0, -5.0, -7.0, 4, 6), 6.90775527898214),
    ("orpo", dict(lam=0.3), (-1e-12, -1e-09, -5.0, -7.0, 1, 1), 0.00029985010077536),
    ("orpo", dict(lam=0.3), (-100000.0, -0.001, -5.0, -7.0, 4, 6), 32502.6098294241),
    ("discopop", dict(beta=0.05, tau=0.05), (-10005.0, -7.0, -5.0, -7.0, 4, 6), 500.0),
    ("discopop", dict(beta=0.05, tau=1.0), (-505.0, -7.0, -5.0, -7.0, 4, 6), 25.9999999996528),
    ("bdpo", dict(beta=0.3, lam=0.5), (-5.0, -7.0, -10005.0, -10007.0, 4, 6), 0.594570489507942),
    ("bdpo", dict(beta=0.3, lam=0.5), (-5.0, -10007.0, -5.0, -7.0, 4, 6), 0.594570489507942),
    ("f_dpo", dict(beta=0.3, divergence="forward_kl"),
        (-10005.0, -7.0, -5.0, -7.0, 4, 6), 1.66218671531805e+34),
    ("f_dpo", dict(beta=0.3, divergence="js_divergence"),
        (-10005.0, -10008.0, -5.0, -7.0, 4, 6), 0.554355244468527),
    ("f_dpo_alpha", dict(beta=0.3, alpha=1e-08),
        (-5.0, -7.0, -10005.0, -10007.5, 4, 6), 0.770948986571361),
    ("f_dpo_alpha", dict(beta=0.3, alpha=0.5),
        (-10005.0, -7.0, -5.0, -7.0, 4, 6), 3.32437343063611e+34),
    ("chi_po", dict(beta=0.01, r_max=5.0), (-5.0, -7.0, -15.0, -10.0, 4, 6), 5.71876138156614e-5),
    ("chi_po", dict(beta=0.01, r_max=5.0),
        (-10005.0, -7.0, -5.0, -10007.0, 4, 6), 20.0000000020612),
    ("alpha_po", dict(beta=2.5, alpha=0.25, gamma=0.1),
        (-100000.0, -7.0, -5.0, -7.0, 4, 6), 5.54062238439351e+35),
    ("odpo", dict(beta=0.3, alpha=0.5, scale="log"),
        (-5.0, -7.0, -5.0, -7.0, 4, 6), 0.000999500333083533),
]
# fmt: on
LOSSES = {
    name: {key: value for key, value in given.items() if key != "kept"} for name, given, _ in GOLDEN
}


def _values(name: str, columns: Columns, **given: Any) -> Array:
    if name.startswith("beta_dpo") and "kept" not in given:
        given["kept"] = np.arange(columns.weight.size) % 2 == 0
    if "kept" in given:
        given["kept"] = np.asarray(given["kept"])
    return np.asarray(getattr(reference, name)(columns, **given))


def _arrays(columns: Columns) -> dict[str, Array]:
    return {name: value for name, value in vars(columns).items() if isinstance(value, np.ndarray)}


def _one(
    lw: float, ll: float, rw: float, rl: float, chosen_tokens: float = 4, rejected_tokens: float = 6
) -> Columns:
    column = {
        "policy_chosen": lw,
        "policy_rejected": ll,
        "ref_chosen": rw,
        "ref_rejected": rl,
        "initial_chosen": rw,
    }
    column |= {
        "chosen_tokens": chosen_tokens,
        "rejected_tokens": rejected_tokens,
        "p_chosen": 0.75,
        "weight": 1.0,
    }
    column |= {"score_gap": 0.0, "mismatched_logratio": 0.0}
    arrays = {name: np.array([value], dtype=np.float64) for name, value in column.items()}
    return Columns(**arrays, pairs_in_step=1, chosen_tokens_in_step=int(chosen_tokens))


def _random(pairs: int) -> Columns:
    rng = np.random.default_rng(0)
    chosen_tokens, rejected_tokens = rng.integers(1, 60, (2, pairs)).astype(np.float64)
    ref_chosen = -rng.gamma(2.0, 0.5, pairs) * chosen_tokens
    ref_rejected = -rng.gamma(2.0, 0.5, pairs) * rejected_tokens
    return Columns(
        policy_chosen=ref_chosen + rng.normal(0.0, 3.0, pairs),
        policy_rejected=ref_rejected + rng.normal(0.0, 3.0, pairs),
        ref_chosen=ref_chosen,
        ref_rejected=ref_rejected,
        initial_chosen=ref_chosen,
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
        p_chosen=rng.uniform(0.5, 1.0, pairs),
        weight=rng.uniform(0.1, 2.0, pairs),
        score_gap=rng.normal(0.0, 2.0, pairs),
        mismatched_logratio=rng.normal(1.0, 3.0, pairs),
        pairs_in_step=pairs,
        chosen_tokens_in_step=int(chosen_tokens.sum()),
    )


PAIRS = _random(64)
AT_START = replace(PAIRS, policy_chosen=PAIRS.ref_chosen, policy_rejected=PAIRS.ref_rejected)


def _close(found: Any, expected: Any, about: str, *, rtol: float, atol: float = 0.0) -> None:
    """Compare, naming the formula and its options where they differ."""
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=about)


def test_values_worked_out_with_sixty_digits() -> None:
    # The expected values have 15 digits.
    for name, given, expected in GOLDEN:
        _close(_values(name, THREE, **given), expected, f"{name} {given}", rtol=1e-14)


def test_values_far_out() -> None:
    # Near the zero of exo its argument, known to 1e-16, is 1/40.
    for name, given, pair, value in FAR:
        _close(_values(name, _one(*pair), **given), [value], f"{name} {given} {pair}", rtol=2e-14)


def test_every_formula_has_a_value_worked_out() -> None:
    formulas = {
        name
        for name, value in vars(reference).items()
        if "columns" in getattr(value, "__annotations__", {})
    }
    assert {
        name for name in formulas if not name.startswith("_") and not name.endswith("_grad")
    } == set(LOSSES)


# fmt: off
GRADS: list[tuple[str, dict[str, Any]]] = [
    ("dpo", dict(beta=0.1, label_smoothing=0.0)), ("dpo", dict(beta=0.7, label_smoothing=0.2)),
    ("ipo", dict(beta=0.1, average="token")), ("ipo", dict(beta=0.7, average="sum")),
    ("simpo", dict(beta=2.0, gamma=0.0)), ("simpo", dict(beta=10.0, gamma=3.0)),
    ("nll", dict(reduction="sum")),
        ("nll", dict(reduction="mean")), ("nll", dict(reduction="token_mean")),
    ("budget", dict(delta=1.5, per="sequence")), ("budget", dict(delta=0.0, per="sequence")),
    ("budget", dict(delta=0.05, per="token")),
        ("bco", dict(beta=0.1, delta=0.0)), ("bco", dict(beta=0.7, delta=0.4)),
    ("kto_pair", dict(beta=0.1, desirable_weight=1.0, undesirable_weight=1.0)),
    ("kto_pair", dict(beta=0.7, desirable_weight=1.5, undesirable_weight=0.8)),
]
# fmt: on


def _central_difference(name: str, given: dict[str, Any]) -> Grad:
    step, sides = 1e-5, []
    for side in ("policy_chosen", "policy_rejected"):
        up = replace(PAIRS, **{side: getattr(PAIRS, side) + step})
        down = replace(PAIRS, **{side: getattr(PAIRS, side) - step})
        sides.append((_values(name, up, **given) - _values(name, down, **given)) / (2.0 * step))
    return Grad(*sides)


def test_gradient_is_the_central_difference() -> None:
    # Rounding: an argument of size 200 is known to 3e-14, divided by 2e-5, times the slope;
    # truncation is below that.
    for name, given in GRADS:
        gradient = _values(f"{name}_grad", PAIRS, **given)
        expected = np.stack(_central_difference(name, given))
        _close(gradient, expected, f"{name} {given}", rtol=1e-7, atol=1e-8)
        assert np.any(gradient[0] != 0), name


def test_gradient_of_beta_dpo_holds_the_beta_of_the_batch() -> None:
    kept, margin = np.arange(64) % 3 > 0, reference._margin(PAIRS)
    given = {"beta": 0.3, "alpha": 0.6, "gap_mean": 0.2}
    b = 0.3 * (1 + 0.6 * (margin[kept].mean() - 0.2))
    expected = (
        np.where(kept, _central_difference("dpo", {"beta": b, "label_smoothing": 0.0}), 0.0)
        * 64
        / kept.sum()
    )
    np.testing.assert_allclose(
        _values("beta_dpo_grad", PAIRS, **given, kept=kept), expected, rtol=1e-7, atol=1e-8
    )


def test_everything_is_finite_on_hostile_pairs() -> None:
    calls = [(name, {k: v for k, v in given.items() if k != "kept"}) for name, given, _ in GOLDEN]
    calls += [(f"{name}_grad", given) for name, given in GRADS]
    calls += [("beta_dpo_grad", LOSSES["beta_dpo"]), ("bdpo", {"beta": 0.1, "lam": 1.0})]
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for case, columns in HOSTILE.items():
            for name, given in calls:
                assert np.all(np.isfinite(_values(name, columns, **given))), f"{name} {case}"


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pairs_could_be_real(case: str) -> None:
    columns, tokens = HOSTILE[case], HOSTILE[case].tokens
    for side in ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected"):
        np.testing.assert_array_equal(getattr(tokens, side).sum(axis=1), getattr(columns, side))
        assert np.all(getattr(tokens, side) <= 0)
    for side in ("chosen", "rejected"):
        log_sum_p2, logps = getattr(tokens, f"{side}_log_sum_p2"), getattr(tokens, f"policy_{side}")
        assert np.all(log_sum_p2 <= 0)
        assert np.all(log_sum_p2 >= 2 * logps - 1e-15)
        padding = np.arange(logps.shape[1]) >= getattr(columns, f"{side}_tokens")[:, None]
        assert not np.any(
            np.stack([log_sum_p2, logps, getattr(tokens, f"{side}_marked")])[:, padding]
        )
    assert {value.shape for value in _arrays(columns).values()} == {(columns.pairs_in_step,)}


FOUR = np.full(3, 4.0)
SINGLE = replace(THREE, **{name: value[:1] for name, value in _arrays(THREE).items()})


def test_is_dpo() -> None:
    equal_to_dpo: list[tuple[str, dict[str, Any], Columns]] = [
        ("soft_dpo", {}, replace(THREE, p_chosen=np.ones(3))),
        ("odpo", dict(alpha=0.0, scale="log"), THREE),
        ("robust", dict(label_smoothing=0.0), THREE),
        ("rpo", dict(alpha=0.0, nll_reduction="sum"), THREE),
        ("dpop", dict(lam=0.0, delta=0.0), THREE),
        ("dpop", dict(lam=5.0, delta=1.0), THREE),  # No fall beyond 1.
        ("r_dpo", dict(alpha=0.0), THREE),
        ("r_dpo", dict(alpha=0.3), replace(THREE, chosen_tokens=THREE.rejected_tokens)),
        ("ld_dpo", dict(alpha=1.0, apply_to="both"), THREE),
        ("ld_dpo", dict(alpha=1.0, apply_to="policy"), THREE),
        (
            "ld_dpo",
            dict(alpha=0.3, apply_to="both"),
            replace(THREE, chosen_tokens=FOUR, rejected_tokens=FOUR),
        ),
        ("dpo_shift", dict(f=1.0), THREE),
        ("bdpo", dict(lam=1.0), THREE),
        ("f_dpo", dict(divergence="reverse_kl"), THREE),
        ("f_dpo_alpha", dict(alpha=0.0), THREE),
        ("dpo_gamma", dict(gamma=1.0), THREE),
        ("beta_dpo", dict(alpha=0.0, gap_mean=0.7, kept=[True] * 3), THREE),
        ("aot", {}, SINGLE),
        ("aot_unpaired", {}, SINGLE),
        ("sigmoid_norm", {}, replace(THREE, chosen_tokens=np.ones(3), rejected_tokens=np.ones(3))),
        (
            "cpo",
            dict(alpha=0.0, nll_reduction="sum"),
            replace(THREE, ref_chosen=THREE.ref_rejected),
        ),
    ]
    for name, given, columns in equal_to_dpo:
        expected = reference.dpo(columns, beta=0.7, label_smoothing=0.0)
        found = _values(name, columns, beta=0.7, **given)
        _close(found, expected, f"{name} {given}", rtol=1e-14)


def test_identities_between_other_losses() -> None:
    p, close = PAIRS, lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-11)
    equal = replace(p, chosen_tokens=np.full(64, 7.0), rejected_tokens=np.full(64, 7.0))
    cpo = reference.cpo(p, beta=2.0 / 7, alpha=0.0, nll_reduction="sum")
    close(reference.simpo(equal, beta=2.0, gamma=0.0), cpo)
    close(reference.dpo_gamma(p, beta=2.0 / 7, gamma=0.0), cpo)
    close(
        reference.alpha_po(p, beta=2.0, alpha=0.0, gamma=0.5),
        reference.simpo(p, beta=2.0, gamma=0.5),
    )
    close(
        reference.alpha_po(p, beta=2.0, alpha=1e-13, gamma=0.5),
        reference.simpo(p, beta=2.0, gamma=0.5),
    )
    forward = reference.f_dpo(p, beta=0.3, divergence="forward_kl")
    close(reference.f_dpo_alpha(p, beta=0.3, alpha=1.0), forward)
    certain = replace(p, p_chosen=np.ones(64))
    close(2.0 * reference.sppo(certain, beta=0.3), reference.sppo_hard(p, beta=0.3))
    smoothed = replace(p, p_chosen=np.full(64, 0.8))
    close(reference.soft_dpo(smoothed, beta=0.3), reference.dpo(p, beta=0.3, label_smoothing=0.2))
    alone = replace(p, policy_rejected=p.ref_rejected)
    close(reference.bdpo(p, beta=0.3, lam=0.0), reference.dpo(alone, beta=0.3, label_smoothing=0.0))
    anchors = reference.sppo_hard(p, beta=0.3) / 2.0
    close(reference.cal_dpo(p, beta=0.3), reference.dpo(p, beta=1.0, label_smoothing=0.0) + anchors)
    close(reference.orpo(p, lam=0.0), reference.nll(p, reduction="mean"))
    token_mean = reference.nll(p, reduction="token_mean").mean()
    close(token_mean, -p.policy_chosen.sum() / p.chosen_tokens.sum())
    additive = reference.dpo(p, beta=0.3, label_smoothing=0.0) + reference.budget(
        p, delta=0.0, per="sequence"
    )
    inside, fell = reference.dpop(p, beta=0.3, lam=1.0, delta=0.0), p.policy_chosen < p.ref_chosen
    close(inside[~fell], additive[~fell])
    assert np.all(np.abs(inside - additive)[fell] > 1e-6)


def test_robust_is_unbiased_under_flips() -> None:
    right, wrong = (
        reference.robust(c, beta=0.3, label_smoothing=0.2) for c in (PAIRS, _swapped(PAIRS))
    )
    expected = reference.dpo(PAIRS, beta=0.3, label_smoothing=0.0)
    np.testing.assert_allclose(0.8 * right + 0.2 * wrong, expected, rtol=1e-11, atol=1e-13)


# fmt: off
AT_THE_INITIAL_POLICY: list[tuple[str, dict[str, Any], float]] = [
    ("dpo robust", dict(beta=0.3, label_smoothing=0.2), math.log(2)),
    ("ipo", dict(beta=0.3, average="token"), 1 / 0.36),
    ("hinge apo_zero apo_down", dict(beta=0.3), 1.0),
    ("nca", dict(beta=0.3), 2 * math.log(2)),
    ("bco", dict(beta=0.3, delta=0.0), 2 * math.log(2)),
    ("dpop", dict(beta=0.3, lam=5.0, delta=0.0), math.log(2)),
    ("dpo_shift", dict(beta=0.3, f=0.5), math.log(2)),
    ("bdpo", dict(beta=0.3, lam=0.3), math.log(2)),
    ("chi_po", dict(beta=0.3, r_max=5.0), math.log(2)),
    ("f_dpo", dict(beta=0.3, divergence="js_divergence"), math.log(2)),
    ("cal_dpo", dict(beta=0.3), math.log(2) + 1 / 0.36),
    ("sppo_hard", dict(beta=0.3), 0.5 / 0.09),
    ("exo", dict(beta=0.3, epsilon=0.2), -math.log(2) - math.log(0.16) / 2),
    ("discopop", dict(beta=0.3, tau=0.2), (1 + math.log(2)) / 2),
    ("budget step_budget", dict(delta=0.0, per="token"), 0.0),
]
# fmt: on


def test_value_at_the_initial_policy() -> None:
    for names, given, expected in AT_THE_INITIAL_POLICY:
        for name in names.split():
            _close(_values(name, AT_START, **given), expected, f"{name} {given}", rtol=1e-14)


def test_where_losses_are_least_and_kto_without_a_baseline() -> None:
    below = replace(AT_START, mismatched_logratio=np.full(64, -1.0))
    kto = reference.kto_pair(below, beta=0.3, desirable_weight=1.0, undesirable_weight=1.0)
    np.testing.assert_array_equal(kto, 0.5)
    at_minimum = _one(math.log(2) - 1, -7.0, -1.0, -7.0)
    nca = [
        reference.nca(_one(at_minimum.policy_chosen[0] + x, -7.0, -1.0, -7.0), beta=1.0)
        for x in (0, -0.1, 0.1)
    ]
    assert nca[0] < min(nca[1:])
    least = _one(-1.0, -1.0 - math.log(4.0) / 0.5, -1.0, -1.0)
    np.testing.assert_allclose(reference.exo(least, beta=0.5, epsilon=0.2), 0.0, atol=1e-30)
    np.testing.assert_array_equal(
        reference.ipo(_one(-1.0, -3.0, -1.0, -1.0), beta=0.25, average="sum"), 0.0
    )
    gradient = reference.dpo_grad(least, beta=0.5, label_smoothing=0.2)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-16)


OF_THE_MARGIN = ["dpo", "soft_dpo", "odpo", "robust", "hinge", "exo", "discopop", "beta_dpo"]
UNSHIFTED = {*OF_THE_MARGIN, "aot", "aot_unpaired", "r_dpo", "dpo_gamma", "ipo"}


def _swapped(c: Columns) -> Columns:
    policy = {"policy_chosen": c.policy_rejected, "policy_rejected": c.policy_chosen}
    return replace(c, **policy, ref_chosen=c.ref_rejected, ref_rejected=c.ref_chosen)


def test_swapping_the_sides_turns_the_margin() -> None:
    margin, zero = reference._margin(THREE), np.zeros(3)
    turned = replace(
        THREE, policy_chosen=zero, policy_rejected=margin, ref_chosen=zero, ref_rejected=zero
    )
    for name in OF_THE_MARGIN:
        found = _values(name, _swapped(THREE), **LOSSES[name])
        expected = _values(name, turned, **LOSSES[name])
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_a_shift_of_both_log_probabilities_matters_only_beyond_the_margin() -> None:
    shifted = replace(
        THREE,
        policy_chosen=THREE.policy_chosen + 0.25,
        policy_rejected=THREE.policy_rejected + 0.25,
    )
    # The tokens, which these read, are not shifted.
    for name in LOSSES.keys() - {"ld_dpo", "wpo_weight", "bmc_sums", "token_budget"}:
        before, after = _values(name, THREE, **LOSSES[name]), _values(name, shifted, **LOSSES[name])
        assert np.array_equal(before, after) == (name in UNSHIFTED), name


def test_budgets() -> None:
    for per, reduction in (("sequence", "sum"), ("token", "mean")):
        always = reference.budget_grad(PAIRS, delta=-1e9, per=per)
        np.testing.assert_array_equal(always, reference.nll_grad(PAIRS, reduction=reduction))
    np.testing.assert_array_equal(reference.budget(PAIRS, delta=math.inf, per="token"), 0.0)
    one = replace(SINGLE, weight=np.array([0.3]))
    step = reference.step_budget(one, delta=0.125, per="sequence")
    np.testing.assert_allclose(step, reference.budget(one, delta=0.125, per="sequence"), rtol=1e-15)
    kink = reference.budget_grad(THREE, delta=0.375, per="sequence")
    np.testing.assert_array_equal(kink.policy_chosen, [0.0, -1.0, 0.0])
    assert reference.objective([1.0, 4.0], [3.0, 1.0]) == 1.75


def test_weights_of_tokens() -> None:
    uniform = replace(
        TOKENS, chosen_log_sum_p2=TOKENS.policy_chosen, rejected_log_sum_p2=TOKENS.policy_rejected
    )
    np.testing.assert_array_equal(reference.wpo_weight(replace(THREE, tokens=uniform)), 1.0)
    same = replace(TOKENS, chosen_marked=np.zeros((3, 4)), rejected_marked=np.zeros((3, 4)))
    for tokens, delta in ((same, 2.0), (TOKENS, 0.0)):
        sums = reference.bmc_sums(replace(THREE, tokens=tokens), delta=delta, ref_weights="own")
        for name, value in sums._asdict().items():
            np.testing.assert_array_equal(value, getattr(THREE, name))
    assert reference._bmc_weight(np.zeros(1), np.ones(1), 3.0) == 2.0  # p = 1 on a marked token.


def test_state_between_steps() -> None:
    assert reference.running_mean([[1.0, 2.0], [6.0], [-1.0, 0.0, 1.0]]) == [1.5, 3.0, 1.5]
    states = reference.beta_dpo_ema([[1.0, 3.0], [8.0, 2.0], [0.0]], 0.75)
    assert states == [(2.0, 1.0), (2.75, 1.5), (2.0625, 1.125)]
    weights = reference.beta_dpo_keep_weights([2.0, 4.0, -1.0], 2.0, 2.0)
    np.testing.assert_allclose(weights, [1.0, math.exp(-0.5), math.exp(-1.125)], rtol=1e-15)
    np.testing.assert_array_equal(reference.beta_dpo_keep_weights([2.0], 2.0, 0.0), 1.0)


@pytest.mark.parametrize(
    ("delta", "drop", "margin"),
    [(0.25, 0.2209, 0.1045), (0.5, 0.4556, 0.1175), (1.0, 0.9298, 0.1435), (2.0, 1.8992, 0.195)],
)
def test_toy_drop_stays_inside_the_budget(delta: float, drop: float, margin: float) -> None:
    assert reference.toy(delta, 1.0) == pytest.approx((drop, margin), rel=1e-3)


def test_toy_without_budget_loses_the_chosen_outcome() -> None:
    assert reference.toy(math.inf, 0.0).drop == pytest.approx(36.16, rel=1e-3)
    assert reference.toy(1.0, 0.0) == reference.toy(math.inf, 1.0)


def test_toy_with_an_empty_budget_does_not_move_the_chosen_outcome() -> None:
    drop, margin = reference.toy(0.0, 1.0)
    # The hinge moves the drop by lr * lam * ||d lw||^2 below zero; there, d lw = (.36, -1.70), so
    # by .03.
    assert -0.031 < drop < 0
    assert margin == pytest.approx(0.083, rel=1e-3)


def test_scan_p_best() -> None:
    assert reference.scan_p_best(5, 0.9) == pytest.approx(0.75024, abs=1e-12)
    assert reference.scan_p_best(1, 0.6) == 1
    assert reference.scan_p_best(9, 1.0) == 1
    assert reference.scan_p_best(2, 0.8) == pytest.approx(0.8)


def test_scan_p_best_is_what_a_scan_does() -> None:
    rng, trials, found = np.random.default_rng(1), 20_000, 0
    for _ in range(trials):
        champion, *challengers = rng.permutation(5)
        for challenger in challengers:
            right = rng.random() < 0.9
            champion = max(champion, challenger) if right else min(champion, challenger)
        found += champion == 4
    # Four standard errors.
    assert found / trials == pytest.approx(0.75024, abs=4 * math.sqrt(0.75 * 0.25 / trials))
