"""Every loss and regularizer against independent formulas: values, gradients, extremes,
rounding, declarations.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rounding
import torch
from hostile_pairs import HOSTILE
from hypothesis import HealthCheck, Phase, given, settings
from loss_cases import (
    BOUNDS,
    CANCELS,
    CASES,
    DEFAULTS,
    OF_PAIRS,
    OTHERS,
    REQUIRED,
    SELECTED,
    Options,
    Within,
    beta_dpo_options,
    bound,
    bound_part,
    every_case,
    expected,
    table_of,
)
from pair_values import (
    PAIRS,
    columns,
    drawn,
    gradient,
    gradients,
    joined,
    leaves_of,
    pair_logps,
    rounded,
    some_pairs,
    tensors_of,
    with_tensors,
)

import reference
from prefine.config.components import TABLES, bind, lookup
from prefine.errors import ConfigError
from prefine.losses.facts import bare, kind_of, needs_of, options_of, per_pair
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import NEED_WORDS, LossFunction, PairLogps, PromptLogps
from prefine.losses.regularizers.nll import nll
from reference import Array, Columns

few = settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

GRADIENTS = {"dpo", "ipo", "simpo", "nll", "budget", "bco", "kto_pair"}
"""Those whose gradient the reference has in closed form."""
WEIGHTED = {"wpo", "bmc", "beta_dpo", "slope_calibration"}
"""Those whose gradient is not that of their values, as weights or slopes are set beside it."""
SORTS = {"aot", "aot_unpaired"}
USUAL_EPS = 1e5
"""The most that rounding may add up to on usual pairs, of some 100 nats and 60 tokens, in units
of eps.
"""


def _near(
    name: str, function: LossFunction, values: Columns, wanted: Array, dtype: torch.dtype
) -> None:
    """Within 1e-12 of what is expected, or where rounding is more than that, within its bound."""
    with torch.no_grad():
        found = function(pair_logps(values, dtype=dtype))
    assert found.dtype == dtype
    assert found.shape == values.policy_chosen.shape
    assert found.isfinite().all()
    exact = dtype == torch.float64
    # Below the normal numbers there are fewer digits.
    apart = np.abs(found.double().numpy() - wanted)
    allowed = (1e-12 if exact else torch.finfo(dtype).eps) * np.abs(wanted) + torch.finfo(
        dtype
    ).tiny
    if (apart > allowed).any() and (not exact or name in CANCELS):
        rounded_by = rounding.bound(function, values, dtype)
        if values.weight.size == PAIRS:
            # What allows itself more than this on usual pairs has intermediate results that it
            # should not have.
            usual = USUAL_EPS * torch.finfo(dtype).eps * (1 + np.abs(wanted).max())
            assert (rounded_by <= usual).all(), f"{rounded_by} by rounding"
        allowed = allowed + rounded_by
    assert (apart <= allowed).all(), f"{apart} apart, {allowed} allowed, {wanted} wanted"


HOSTILE_TOGETHER = {
    "together": joined([values for values in HOSTILE.values() if values.chosen_tokens.max() < 10]),
    **{case: values for case, values in HOSTILE.items() if values.chosen_tokens.max() >= 10},
}
"""The same pairs in fewer steps, for functions that look at one pair at a time."""


# --- values


@every_case
def test_values_are_the_references(name: str, options: Options) -> None:
    values = columns()
    _near(name, bound(name, options), values, expected(name, options, values), torch.float64)


def test_defaults_are_the_documented_ones() -> None:
    for name, defaults in DEFAULTS.items():
        found = options_of(lookup(table_of(name), name, where=""))
        for option, value in found.items():
            if callable(value):
                found[option] = {"name": bare(value).__name__}
        assert found == defaults, name


@few
@given(values=drawn())
def test_values_of_drawn_pairs_are_the_references(values: Columns) -> None:
    @every_case
    def check(name: str, options: Options) -> None:
        _near(name, bound(name, options), values, expected(name, options, values), torch.float64)

    check()


vars(test_values_of_drawn_pairs_are_the_references)["every_case"] = True


@every_case
def test_float32_is_the_references_up_to_rounding(name: str, options: Options) -> None:
    for seed in range(2):
        values = rounded(columns(seed=seed))
        _near(name, bound(name, options), values, expected(name, options, values), torch.float32)


# --- hostile pairs


def _check_hostile_pairs(name: str, options: Options, dtype: torch.dtype) -> None:
    function = bound(name, options)
    for case, values in (HOSTILE if kind_of(function) == "coupled" else HOSTILE_TOGETHER).items():
        exact = values if dtype == torch.float64 else rounded(values)
        try:
            _near(name, function, exact, expected(name, options, exact), dtype)
            for side, slope in gradients(function, pair_logps(exact, dtype=dtype)).items():
                assert slope.isfinite().all(), f"{side}: {slope}"
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


@every_case
def test_hostile_pairs_have_the_right_value_and_a_finite_gradient(
    name: str, options: Options
) -> None:
    _check_hostile_pairs(name, options, torch.float64)


@every_case
def test_hostile_pairs_have_the_right_value_and_a_finite_gradient_in_float32(
    name: str, options: Options
) -> None:
    _check_hostile_pairs(name, options, torch.float32)


# --- gradients


@every_case
def test_gradients_are_those_of_the_values(name: str, options: Options) -> None:
    function, values = bound(name, options), pair_logps(columns(seed=1, pairs=4, longest=5))
    leaves = leaves_of(values)

    def total(*tensors: torch.Tensor) -> torch.Tensor:
        return function(with_tensors(values, dict(zip(leaves, tensors, strict=True))))

    parts = {part["name"] for part in options.get("losses", [])}
    if name in WEIGHTED or parts & WEIGHTED:
        return
    largest = float(function(values).abs().max())
    # Central differences of a value v are off by eps * v / step.
    step = 1e-5
    atol = 1e-6 + 8 * torch.finfo(torch.float64).eps * largest / step
    assert torch.autograd.gradcheck(total, list(leaves.values()), eps=step, atol=atol, rtol=1e-5)


@every_case
def test_gradients_are_the_references(name: str, options: Options) -> None:
    if name not in GRADIENTS | {"beta_dpo"}:
        return
    values = columns()
    given = DEFAULTS[name] | dict(options)
    if name == "beta_dpo":
        given = beta_dpo_options(given, values)
    slopes = getattr(reference, f"{name}_grad")(values, **given)
    found = gradient(bound(name, options), pair_logps(values))
    for side, wanted in zip(found, slopes, strict=True):
        np.testing.assert_allclose(side.numpy(), wanted, rtol=1e-10, atol=1e-300)
    assert np.any(slopes.policy_chosen != 0)


@every_case
def test_weights_of_pairs_have_no_gradient(name: str, options: Options) -> None:
    if name != "wpo":
        return
    values = columns()
    inner = options.get("loss", {"name": "dpo"})
    part = bound_part(inner)
    found = gradients(bound(name, options), pair_logps(values))
    weight = reference.wpo_weight(values)
    for side, slope in zip(
        ("policy_chosen", "policy_rejected"), gradient(part, pair_logps(values)), strict=True
    ):
        np.testing.assert_allclose(found[side].numpy(), weight * slope.numpy(), rtol=1e-12)
    assert not found["tokens.policy_chosen"].any() and not found["tokens.policy_rejected"].any()
    # The statistics over the vocabulary are the policy's, too.
    inputs = pair_logps(values)
    statistics = {
        name: tensors_of(inputs)[name].clone().requires_grad_()
        for name in ("tokens.chosen_log_sum_p2", "tokens.rejected_log_sum_p2")
    }
    assert not bound(name, options)(with_tensors(inputs, dict(statistics))).requires_grad


@every_case
def test_weights_of_tokens_have_no_gradient(name: str, options: Options) -> None:
    if name != "bmc":
        return
    values = columns()
    inner = options.get("loss", {"name": "dpo"})
    part = bound_part(inner)
    given = DEFAULTS["bmc"] | dict(options)
    sums = reference.bmc_sums(values, delta=given["delta"], ref_weights=given["ref_weights"])
    slopes = gradient(part, pair_logps(replace(values, **sums._asdict())))
    found = gradients(bound(name, options), pair_logps(values))
    assert values.tokens is not None
    for side, slope in zip(("chosen", "rejected"), slopes, strict=True):
        logp, marked = (
            getattr(values.tokens, f"policy_{side}"),
            getattr(values.tokens, f"{side}_marked"),
        )
        weights = 1 + marked * np.minimum(np.exp(-logp), given["delta"])
        np.testing.assert_allclose(
            found[f"tokens.policy_{side}"].numpy(),
            weights * slope.numpy()[:, None],
            rtol=1e-9,
            atol=1e-300,
        )
        assert not found[f"policy_{side}"].any()


# --- what is declared


def _undeclared(function: LossFunction) -> set[str]:
    """The columns, of pairs and of tokens, that the function says it does not read."""
    needs = needs_of(function)
    hidden = {"weight"} if "step_budget" not in bare(function).__name__ else set()
    if "reference" not in needs:
        hidden |= {"ref_chosen", "ref_rejected", "tokens.ref_chosen", "tokens.ref_rejected"}
    for need, columns_ in {
        "initial": ["initial_chosen", "tokens.initial_chosen"],
        "p_chosen": ["p_chosen"],
        "score_gap": ["score_gap"],
        "mismatched": ["mismatched_logratio"],
        "vocabulary": ["tokens.chosen_log_sum_p2", "tokens.rejected_log_sum_p2"],
        "differences": ["tokens.chosen_marked", "tokens.rejected_marked"],
        "references": ["others.chosen", "others.rejected"],
    }.items():
        if need not in needs:
            hidden |= set(columns_)
    if not needs & {"tokens", "vocabulary"}:
        hidden |= {name for name in tensors_of(pair_logps(columns())) if name.startswith("tokens.")}
    return hidden


@every_case
def test_what_is_not_declared_is_not_read(name: str, options: Options) -> None:
    function, values = bound(name, options), pair_logps(columns())
    found, slopes = function(values), gradients(function, values)
    for filler in (torch.nan, 7.0, None):
        blinded = _blinded(function, values, filler)
        assert torch.equal(function(blinded), found), filler
        blinded_slopes = gradients(function, blinded)
        for side in ("policy_chosen", "policy_rejected"):
            assert torch.equal(blinded_slopes[side], slopes[side]), filler


def _blinded(function: LossFunction, values: PairLogps, filler: float | None) -> PairLogps:
    """The values with another number, or nothing, in every column that is not declared."""
    statistics = ("log_sum_p2", "marked")
    optional = {"score_gap", "mismatched_logratio"}
    optional |= {f"tokens.{side}_{name}" for side in ("chosen", "rejected") for name in statistics}
    hidden: dict[str, torch.Tensor | None] = {}
    for column in _undeclared(function):
        if filler is not None:
            hidden[column] = torch.full_like(tensors_of(values)[column], filler)
        elif column in optional:
            hidden[column] = None
    blinded = with_tensors(values, hidden)
    if filler is None and not needs_of(function) & {"tokens", "vocabulary"}:
        blinded = replace(blinded, tokens=None)
    return blinded


@every_case
def test_what_is_declared_is_read(name: str, options: Options) -> None:
    function, values = bound(name, options), pair_logps(columns())
    reads = {
        "reference": ["ref_chosen", "ref_rejected", "tokens.ref_chosen", "tokens.ref_rejected"],
        "initial": ["initial_chosen", "tokens.initial_chosen"],
        "p_chosen": ["p_chosen"],
        "score_gap": ["score_gap"],
        "mismatched": ["mismatched_logratio"],
        "tokens": ["tokens.policy_chosen", "tokens.policy_rejected"],
        "vocabulary": ["tokens.chosen_log_sum_p2", "tokens.rejected_log_sum_p2"],
        "differences": ["tokens.chosen_marked", "tokens.rejected_marked"],
        "references": ["others.chosen", "others.rejected"],
    }
    for need in needs_of(function):
        if need == "reference" and options.get("loss", {}).get("name") == "simpo":
            # BMC weighs the reference's sums whatever reads them.
            continue
        if need == "head_norms":
            continue  # its controller reads them, see test_slope_calibration.py
        hidden = {
            column: torch.full_like(tensors_of(values)[column], torch.nan) for column in reads[need]
        }
        assert function(with_tensors(values, dict(hidden))).isnan().any(), need


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("wpo", {"reference", "tokens", "vocabulary"}),
        ("bmc", {"reference", "tokens", "differences"}),
        ("ld_dpo", {"reference", "tokens"}),
    ],
)
def test_what_reads_tokens_says_so(name: str, needs: set[str]) -> None:
    assert needs_of(bound(name, {})) == needs


@pytest.mark.parametrize("name", ["kto_pair"])
def test_the_baseline_of_kto_has_no_gradient(name: str) -> None:
    values = pair_logps(columns())
    mismatched = torch.ones_like(values.policy_chosen).requires_grad_()
    assert not bound(name, {})(replace(values, mismatched_logratio=mismatched)).requires_grad


@pytest.mark.parametrize("name", ["mixture"])
def test_a_mixture_takes_as_many_weights_as_losses(name: str) -> None:
    for weights in ((1.0,), (1.0, 2.0, 3.0)):
        with pytest.raises(ValueError, match="zip"):
            bare(bound(name, OTHERS[name][0]))(
                pair_logps(columns()), losses=(dpo, nll), weights=weights
            )


@pytest.mark.parametrize("name", ["bmc"])
def test_sums_of_weighted_tokens_are_made_whatever_reads_them(name: str) -> None:
    assert needs_of(bound(name, {"loss": {"name": "simpo"}})) == {
        "reference",
        "tokens",
        "differences",
    }
    assert needs_of(bound(name, {"loss": {"name": "soft_dpo"}})) == {
        "reference",
        "tokens",
        "differences",
        "p_chosen",
    }


@every_case
def test_what_is_missing_is_named(name: str, options: Options) -> None:
    function, values = bound(name, options), pair_logps(columns())
    missing: dict[str, list[str]] = {
        "score_gap": ["score_gap"],
        "mismatched": ["mismatched_logratio"],
        "vocabulary": ["tokens.chosen_log_sum_p2", "tokens.rejected_log_sum_p2"],
        "differences": ["tokens.chosen_marked", "tokens.rejected_marked"],
    }
    for need in needs_of(function) & missing.keys():
        for column in missing[need]:
            with pytest.raises(ValueError, match=NEED_WORDS[need]):
                function(with_tensors(values, {column: None}))
    if "tokens" in needs_of(function):
        with pytest.raises(ValueError, match=NEED_WORDS["tokens"]):
            function(replace(values, tokens=None))
    if "references" in needs_of(function):
        with pytest.raises(ValueError, match=NEED_WORDS["references"]):
            function(replace(values, other_references=None))


def test_the_values_of_prompts_are_given_or_named_as_missing() -> None:
    values = pair_logps(columns())
    with pytest.raises(ValueError, match=NEED_WORDS["prompt"]):
        values.require_prompts()
    prompts = PromptLogps(
        values.policy_chosen, values.policy_rejected, values.ref_chosen, values.ref_rejected
    )
    assert replace(values, prompts=prompts).require_prompts() is prompts


@every_case
def test_local_ones_do_not_look_at_other_pairs(name: str, options: Options) -> None:
    function, values = bound(name, options), pair_logps(columns())
    controller = getattr(bare(function), "controller", None)
    some = torch.tensor([4, 9, 2])
    alone, among = function(some_pairs(values, some)), function(values)[some]
    if kind_of(function) == "local":
        assert controller is None, "a controller sees the whole step"
        torch.testing.assert_close(alone, among, rtol=1e-13, atol=0)
    elif name not in ("bco", "slope_calibration", "mixture"):
        # These two look at them through their controllers alone.
        assert not torch.equal(alone, among) or not among.any()
    assert kind_of(function) == "coupled" or name not in ("bco", *SORTS)


@every_case
def test_values_belong_to_their_pairs(name: str, options: Options) -> None:
    # What is left out is drawn by place.
    function = bound(name, {**options, "rho": 0.0} if name == "beta_dpo" else options)
    values = pair_logps(columns())
    order = torch.tensor(np.random.default_rng(0).permutation(len(values.policy_chosen)))
    permuted = function(some_pairs(values, order))
    torch.testing.assert_close(
        permuted, function(values)[order] if per_pair(function) else function(values)
    )
    assert per_pair(function) == (name not in SORTS)


@every_case
def test_inputs_stay_as_they_are(name: str, options: Options) -> None:
    values, kept = pair_logps(columns()), pair_logps(columns())
    bound(name, options)(values)
    for column, tensor in tensors_of(values).items():
        assert torch.equal(tensor, tensors_of(kept)[column]), column


# --- options


def test_every_entry_and_every_option_has_a_case() -> None:
    assert set(DEFAULTS) == set(OTHERS) == set(OF_PAIRS) | set(TABLES["regularizer"])
    for name, others in OTHERS.items():
        component = lookup(table_of(name), name, where="")
        for option in component.__kwdefaults__ or {}:
            tried = [given[option] for given in others if option in given]
            assert any(value != DEFAULTS[name][option] for value in tried), f"{name}.{option}"
        if name in REQUIRED:
            assert all({"losses", "weights"} == set(given) for given in others)


def test_every_number_has_bounds() -> None:
    for name, options in DEFAULTS.items():
        controlled = getattr(lookup(table_of(name), name, where=""), "controlled", ())
        numbers = {
            key
            for key, value in options.items()
            if isinstance(value, float) and key not in controlled
        }
        assert numbers == set(BOUNDS.get(name, {})), name


def _accepts(name: str, options: dict[str, Any]) -> bool:
    try:
        bind(table_of(name), name, options, where="")
    except ConfigError:
        return False
    return True


def test_options_are_taken_up_to_their_bounds() -> None:
    for name, options in BOUNDS.items():
        if not SELECTED or name in SELECTED:
            for option, within in options.items():
                _check_bounds(name, option, within)


def _check_bounds(name: str, option: str, within: Within) -> None:
    for limit, outwards, is_open in (
        (within.low, -np.inf, within.open in ("low", "both")),
        (within.high, np.inf, within.open in ("high", "both")),
    ):
        inside = float(np.nextafter(limit, -outwards)) if is_open else limit
        outside = limit if is_open else float(np.nextafter(limit, outwards))
        if np.isinf(limit):
            inside, outside = float(np.copysign(1e300, limit)), limit
        assert _accepts(name, {option: inside}), f"{name}.{option} {inside}"
        assert not _accepts(name, {option: outside}), f"{name}.{option} {outside}"
    assert not _accepts(name, {option: float("nan")}), f"{name}.{option}"


def test_options_that_are_no_single_number_are_checked() -> None:
    for seed, taken in ((0, True), (-1, False)):
        assert _accepts("beta_dpo", {"seed": seed}) == taken
    for weights, taken in (([0.0], True), ([-5e-324], False), ([1.0, 1.0], False), ([], False)):
        assert _accepts("mixture", {"losses": [{"name": "dpo"}], "weights": weights}) == taken
    assert not _accepts("mixture", {"losses": [], "weights": []})
    for name, options in DEFAULTS.items():
        for option, value in options.items():
            if isinstance(value, str):
                assert not _accepts(name, {option: f"not_{value}"})
        for option in getattr(lookup(table_of(name), name, where=""), "controlled", ()):
            assert not _accepts(name, {option: 0.5}), f"{name}.{option} is not the user's to set"


@pytest.mark.parametrize("name", ["wpo"])
def test_what_sorts_cannot_be_weighted(name: str) -> None:
    for loss in OF_PAIRS:
        if loss not in REQUIRED:
            assert _accepts(name, {"loss": {"name": loss}}) == (loss not in SORTS)
    assert not _accepts(
        name, {"loss": {"name": "mixture", "losses": [{"name": "aot"}], "weights": [1.0]}}
    )


@pytest.mark.parametrize("name", ["bmc"])
def test_what_reads_no_sums_is_not_weighted_by_tokens(name: str) -> None:
    for loss in OF_PAIRS:
        if loss not in REQUIRED:
            reads_sums = loss not in (
                *("ld_dpo", "wpo", "bmc", "bco", "beta_dpo", "slope_calibration"),
            )
            assert _accepts(name, {"loss": {"name": loss}}) == reads_sums, loss
    for part, taken in (("simpo", True), ("ld_dpo", False), ("bco", False)):
        mixture = {
            "name": "mixture",
            "losses": [{"name": "dpo"}, {"name": part}],
            "weights": [1.0, 1.0],
        }
        assert _accepts(name, {"loss": mixture}) == taken


# --- what beta-DPO leaves out


@pytest.mark.parametrize("name", ["beta_dpo"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 2.0), (0.7, 0.0)])
def test_which_pairs_are_kept_follows_their_weights(name: str, mean: float, std: float) -> None:
    scale = std or 1e-6
    margins = mean + scale * np.array([0.0, 0.8, -1.3, 1.9])
    values = pair_logps(columns(pairs=4))
    zero = torch.zeros(4, dtype=torch.float64)
    values = replace(
        values, ref_chosen=values.policy_chosen - torch.tensor(margins), ref_rejected=zero
    )
    values = replace(values, policy_rejected=zero)
    draws = 1500
    given = {"rho": 0.75, "margin_mean": mean, "margin_std": std}
    function, other = bound(name, given), bound(name, {**given, "seed": 1})
    kept = np.array([function(values, draw=draw).numpy() > 0 for draw in range(draws)])
    other_seed = np.array([other(values, draw=draw).numpy() > 0 for draw in range(50)])
    assert (kept.sum(axis=1) == 1).all()
    weights = reference.beta_dpo_keep_weights(margins, mean, scale)
    share = weights / weights.sum()
    # One pair in four stays, so its chance is its share of the weights; five standard errors.
    np.testing.assert_allclose(kept.mean(axis=0), share, atol=5 * np.sqrt(0.25 / draws))
    assert (other_seed != kept[:50]).any()


@pytest.mark.parametrize("name", ["beta_dpo"])
@pytest.mark.parametrize(
    ("pairs", "rho", "stay"), [(30, 0.9, 3), (10, 0.2, 8), (10, 0.25, 7), (3, 0.9, 1), (1, 0.5, 1)]
)
def test_how_many_pairs_are_kept(name: str, pairs: int, rho: float, stay: int) -> None:
    values = pair_logps(columns(pairs=pairs))
    assert int((bound(name, {"rho": rho, "margin_std": 10.0})(values) != 0).sum()) == stay


def test_all_entries_of_a_step_can_be_one_pair() -> None:
    values = pair_logps(columns(pairs=1))
    for name, options in CASES:
        assert bound(name, options)(values).shape == (1,)
