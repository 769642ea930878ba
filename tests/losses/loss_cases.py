"""Every loss and regularizer of the tables: its defaults, other values of each option, bounds,
and what is expected.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import numpy as np
from pair_values import HELD_OUT_WEIGHTS, WEIGHTS, references_of

import reference
import reference_references
from prefine.config.components import TABLES, bind, lookup
from prefine.losses.facts import reads_of
from prefine.losses.protocol import LossFunction
from reference import Array, Columns

Options = Mapping[str, Any]

DPO = {"name": "dpo"}

# Pinned: a changed default fails.
DEFAULTS: dict[str, dict[str, Any]] = {
    "dpo": {"beta": 0.1, "label_smoothing": 0.0},
    "soft_dpo": {"beta": 0.1},
    "odpo": {"beta": 0.1, "alpha": 1.0, "scale": "linear"},
    "robust": {"beta": 0.1, "label_smoothing": 0.1},
    "r_dpo": {"beta": 0.1, "alpha": 0.01},
    "dpo_gamma": {"beta": 0.1, "gamma": 0.5},
    "exo": {"beta": 0.1, "epsilon": 1e-3},
    "discopop": {"beta": 0.05, "tau": 0.05},
    "sigmoid_norm": {"beta": 5.0},
    "ld_dpo": {"beta": 0.1, "alpha": 0.5, "apply_to": "both"},
    "ipo": {"beta": 0.1, "average": "token"},
    "cal_dpo": {"beta": 0.002},
    "sppo": {"beta": 0.001},
    "sppo_hard": {"beta": 0.001},
    "hinge": {"beta": 0.05},
    "slic": {"delta": 1.0, "lam": 0.1},
    "simpo": {"beta": 2.0, "gamma": 1.6},
    "cpo": {"beta": 0.1, "alpha": 1.0, "nll_reduction": "token_mean"},
    "orpo": {"lam": 0.1},
    "alpha_po": {"beta": 2.5, "alpha": 0.25, "gamma": 0.1},
    "apo_zero": {"beta": 0.1},
    "apo_down": {"beta": 0.1},
    "nca": {"beta": 0.01},
    "bco": {"beta": 0.1, "delta": 0.0},
    "kto_pair": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "rpo": {"beta": 0.1, "alpha": 1.0, "nll_reduction": "mean"},
    "dpop": {"beta": 0.3, "lam": 50.0, "delta": 0.0},
    "dpo_shift": {"beta": 0.1, "f": 0.95},
    "bdpo": {"beta": 0.1, "lam": 0.5},
    "f_dpo": {"beta": 0.1, "divergence": "js_divergence"},
    "f_dpo_alpha": {"beta": 0.1, "alpha": 0.5},
    "chi_po": {"beta": 0.01, "r_max": 10.0},
    "aot": {"beta": 0.01},
    "aot_unpaired": {"beta": 0.01},
    "beta_dpo": {
        **{"beta": 0.1, "alpha": 0.6, "rho": 0.2, "momentum": 0.9, "seed": 0},
        **{"margin_mean": 0.0, "margin_std": 1.0, "draw": 0},
    },
    "mixture": {},
    "wpo": {"loss": DPO},
    "bmc": {"loss": DPO, "delta": 2.0, "ref_weights": "policy", "differences": "difflib"},
    "mrpo": {
        **{"loss": DPO, "mode": "harmonic", "weights": "stated"},
        **{"clip": "adaptive", "eta": 0.1},
    },
    "nll": {"reduction": "sum"},
    "budget": {"delta": 5.0, "per": "sequence", "up_to_rank": 1},
    "step_budget": {"delta": 5.0, "per": "sequence"},
    "softplus_budget": {"delta": 5.0, "sharpness": 1.0, "per": "sequence"},
    "token_budget": {"delta": 0.1},
    "log_barrier": {"delta": 5.0, "t": 1.0, "per": "sequence"},
    "flex_dpo": {"beta_chosen": 0.1, "beta_rejected": 0.08},
    "slope_calibration": {"loss": DPO, "momentum": 0.98, "chosen_factor": 1.0},
    "rainbow_po": {"beta": 2.0, "alpha": 0.5, "gamma": 1.6},
    "aipo": {"beta": 0.1, "alpha": 0.1, "lam": 1.0},
}

MPO = {
    "losses": [DPO, {"name": "bco"}, {"name": "nll", "reduction": "token_mean"}],
    "weights": [0.8, 0.2, 1.0],
}

# What else each is tried with; every option is there at a value that is not its default.
OTHERS: dict[str, list[dict[str, Any]]] = {
    "dpo": [{"beta": 0.7}, {"label_smoothing": 0.2}],
    "soft_dpo": [{"beta": 0.7}],
    "odpo": [{"beta": 0.7}, {"alpha": 0.3}, {"scale": "log"}, {"alpha": 0.2, "scale": "log"}],
    "robust": [{"beta": 0.7}, {"label_smoothing": 0.3}, {"label_smoothing": 0.0}],
    "r_dpo": [{"beta": 0.7}, {"alpha": 0.1}],
    "dpo_gamma": [{"beta": 0.7}, {"gamma": 1.5}],
    "exo": [{"beta": 0.7}, {"epsilon": 0.1}],
    "discopop": [{"beta": 0.7}, {"tau": 0.5}],
    "sigmoid_norm": [{"beta": 0.7}],
    "ld_dpo": [
        {"beta": 0.7},
        {"alpha": 0.2},
        {"apply_to": "policy"},
        {"alpha": 0.0, "apply_to": "policy"},
    ],
    "ipo": [{"beta": 0.7}, {"average": "sum"}, {"beta": 0.02, "average": "sum"}],
    "cal_dpo": [{"beta": 0.3}],
    "sppo": [{"beta": 0.03}],
    "sppo_hard": [{"beta": 0.03}],
    "hinge": [{"beta": 0.7}],
    "slic": [{"delta": 2.5}, {"lam": 0.7}],
    "simpo": [{"beta": 7.0}, {"gamma": 0.3}],
    "cpo": [{"beta": 0.7}, {"alpha": 0.3}, {"nll_reduction": "sum"}, {"nll_reduction": "mean"}],
    "orpo": [{"lam": 0.7}],
    "alpha_po": [{"beta": 0.7}, {"alpha": 0.0}, {"alpha": -0.5}, {"alpha": 1.0}, {"gamma": 0.7}],
    "apo_zero": [{"beta": 0.7}],
    "apo_down": [{"beta": 0.7}],
    "nca": [{"beta": 0.7}],
    "bco": [{"beta": 0.7}, {"delta": 0.4}, {"delta": -0.3}],
    "kto_pair": [{"beta": 0.7}, {"desirable_weight": 1.3}, {"undesirable_weight": 0.7}],
    "rpo": [
        {"beta": 0.7},
        {"alpha": 0.3},
        {"nll_reduction": "sum"},
        {"nll_reduction": "token_mean"},
    ],
    "dpop": [{"beta": 0.7}, {"lam": 2.0}, {"delta": 1.5}],
    "dpo_shift": [{"beta": 0.7}, {"f": 0.4}],
    "bdpo": [{"beta": 0.7}, {"lam": 0.2}, {"lam": 0.0}, {"lam": 1.0}],
    "f_dpo": [{"beta": 0.7}, {"divergence": "forward_kl"}, {"divergence": "reverse_kl"}],
    "f_dpo_alpha": [{"beta": 0.7}, {"alpha": 0.0}, {"alpha": 0.2}, {"alpha": 1.0}],
    "chi_po": [{"beta": 0.3}, {"r_max": 0.2}, {"r_max": 1e10}],
    "aot": [{"beta": 0.7}],
    "aot_unpaired": [{"beta": 0.7}],
    "beta_dpo": [
        *(
            {"beta": 0.7},
            {"alpha": 0.05},
            {"rho": 0.0},
            {"rho": 0.9},
            {"momentum": 0.5},
            {"seed": 3},
            {"draw": 2},
        ),
        *({"margin_mean": 0.5}, {"margin_std": 4.0}),
    ],
    "mixture": [
        MPO,
        {"losses": [{"name": "simpo", "gamma": 0.3}], "weights": [0.5]},
        {"losses": [{"name": "orpo"}, {"name": "soft_dpo"}], "weights": [0.0, 2.0]},
    ],
    "wpo": [{"loss": {"name": "simpo", "beta": 7.0}}, {"loss": {"name": "ipo", "average": "sum"}}],
    "bmc": [
        {"loss": {"name": "simpo"}},
        {"loss": {"name": "ipo"}, "ref_weights": "own"},
        {"differences": "levenshtein"},
        *(
            {"delta": 0.5},
            {"delta": 20.0},
            {"ref_weights": "own"},
            {"ref_weights": "own", "delta": 1.5},
        ),
    ],
    "mrpo": [
        {"loss": {"name": "dpo", "beta": 0.7}},
        {"loss": {"name": "ipo"}, "weights": "example"},
        {"mode": "geometric", "clip": "none"},
        {"mode": "arithmetic", "clip": "none", "weights": "example"},
        {"weights": "held_out", "clip": "none"},
        {"clip": "fixed", "eta": 0.3},
        {"eta": 1.5, "mode": "arithmetic"},
        {"eta": 0.0},
    ],
    "nll": [{"reduction": "mean"}, {"reduction": "token_mean"}],
    "budget": [
        {"delta": 1.5},
        {"delta": -2.0},
        {"per": "token", "delta": 0.05},
        {"up_to_rank": 3, "delta": 0.5},
    ],
    "step_budget": [{"delta": 0.2}, {"delta": -2.0}, {"per": "token", "delta": -0.01}],
    "softplus_budget": [{"delta": -1.0}, {"sharpness": 4.0}, {"per": "token", "delta": 0.05}],
    "token_budget": [{"delta": 0.0}, {"delta": -0.2}],
    "log_barrier": [{"delta": -2.0}, {"t": 3.0}, {"per": "token", "delta": 0.05, "t": 5.0}],
    "flex_dpo": [{"beta_chosen": 0.7}, {"beta_rejected": 0.3}],
    "slope_calibration": [
        {"loss": {"name": "simpo"}, "momentum": 0.5},
        {"chosen_factor": 1.7},
        {"chosen_factor": 0.4, "loss": {"name": "slic"}},
    ],
    "rainbow_po": [{"beta": 7.0}, {"alpha": 0.2}, {"gamma": 0.3}, {"alpha": 1.0}],
    "aipo": [{"beta": 0.7}, {"alpha": 0.6}, {"lam": 0.2}],
}

OF_PAIRS = [
    name for name in TABLES["loss"] if reads_of(lookup("loss", name, where="loss")) == "pairs"
]
"""The losses that read pairs; those of lists and labels have cases of their own."""

REQUIRED = {"mixture"}
"""These have options without a default."""

CASES: list[tuple[str, dict[str, Any]]] = [
    (name, given)
    for name, others in OTHERS.items()
    for given in ([] if name in REQUIRED else [{}]) + others
]
SELECTED: set[str] = set()
"""The losses and regularizers that `every_case` takes, or all if empty."""


def every_case(check: Callable[[str, dict[str, Any]], None]) -> Callable[[], None]:
    """Return a test that makes a check of every case; its failure names the case."""

    def test() -> None:
        for name, options in CASES:
            if SELECTED and name not in SELECTED:
                continue
            try:
                check(name, options)
            except Exception as error:
                raise AssertionError(f"{name} {options}: {error}") from error

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    vars(test)["every_case"] = True
    return test


@dataclass(frozen=True)
class Within:
    """The numbers that an option may be; `open` says which ends are not among them."""

    low: float = -np.inf
    high: float = np.inf
    open: Literal["", "low", "high", "both"] = ""


POSITIVE, NOT_NEGATIVE, ANY = Within(0, open="low"), Within(0), Within()
SHARE, BELOW_HALF, BELOW_ONE = Within(0, 1), Within(0, 0.5, open="high"), Within(0, 1, open="high")

# Every option that is a number.
BOUNDS: dict[str, dict[str, Within]] = {
    "dpo": {"beta": POSITIVE, "label_smoothing": BELOW_HALF},
    "soft_dpo": {"beta": POSITIVE},
    "odpo": {"beta": POSITIVE, "alpha": NOT_NEGATIVE},
    "robust": {"beta": POSITIVE, "label_smoothing": BELOW_HALF},
    "r_dpo": {"beta": POSITIVE, "alpha": NOT_NEGATIVE},
    "dpo_gamma": {"beta": POSITIVE, "gamma": NOT_NEGATIVE},
    "exo": {"beta": POSITIVE, "epsilon": Within(0, 0.5, open="both")},
    "discopop": {"beta": POSITIVE, "tau": Within(0, 1, open="low")},
    "sigmoid_norm": {"beta": POSITIVE},
    "ld_dpo": {"beta": POSITIVE, "alpha": SHARE},
    "ipo": {"beta": POSITIVE},
    "cal_dpo": {"beta": POSITIVE},
    "sppo": {"beta": POSITIVE},
    "sppo_hard": {"beta": POSITIVE},
    "hinge": {"beta": POSITIVE},
    "slic": {"delta": NOT_NEGATIVE, "lam": NOT_NEGATIVE},
    "simpo": {"beta": POSITIVE, "gamma": NOT_NEGATIVE},
    "cpo": {"beta": POSITIVE, "alpha": NOT_NEGATIVE},
    "orpo": {"lam": NOT_NEGATIVE},
    "alpha_po": {"beta": POSITIVE, "alpha": ANY, "gamma": NOT_NEGATIVE},
    "apo_zero": {"beta": POSITIVE},
    "apo_down": {"beta": POSITIVE},
    "nca": {"beta": POSITIVE},
    "bco": {"beta": POSITIVE},
    "kto_pair": {"beta": POSITIVE, "desirable_weight": POSITIVE, "undesirable_weight": POSITIVE},
    "rpo": {"beta": POSITIVE, "alpha": NOT_NEGATIVE},
    "dpop": {"beta": POSITIVE, "lam": NOT_NEGATIVE, "delta": NOT_NEGATIVE},
    "dpo_shift": {"beta": POSITIVE, "f": Within(0, 1, open="low")},
    "bdpo": {"beta": POSITIVE, "lam": SHARE},
    "f_dpo": {"beta": POSITIVE},
    "f_dpo_alpha": {"beta": POSITIVE, "alpha": SHARE},
    "chi_po": {"beta": POSITIVE, "r_max": POSITIVE},
    "aot": {"beta": POSITIVE},
    "aot_unpaired": {"beta": POSITIVE},
    "beta_dpo": {"beta": POSITIVE, "alpha": NOT_NEGATIVE, "rho": BELOW_ONE, "momentum": BELOW_ONE},
    "bmc": {"delta": NOT_NEGATIVE},
    "mrpo": {"eta": NOT_NEGATIVE},
    "budget": {"delta": ANY},
    "step_budget": {"delta": ANY},
    "softplus_budget": {"delta": ANY, "sharpness": POSITIVE},
    "token_budget": {"delta": ANY},
    "log_barrier": {"delta": ANY, "t": POSITIVE},
    "flex_dpo": {"beta_chosen": POSITIVE, "beta_rejected": POSITIVE},
    "slope_calibration": {"momentum": BELOW_ONE},
    "rainbow_po": {"beta": POSITIVE, "alpha": SHARE, "gamma": NOT_NEGATIVE},
    "aipo": {"beta": POSITIVE, "alpha": NOT_NEGATIVE, "lam": NOT_NEGATIVE},
}

CANCELS = {
    "robust": "a difference of two logarithms",
    "exo": "two products of opposite signs, near its zero",
    "discopop": "an exponent that is a difference",
    "orpo": "log-odds of near certainties",
    "bdpo": "a log-ratio less a logarithm of a sum",
    "f_dpo": "a difference of exponentials",
    "f_dpo_alpha": "a difference of exponentials",
    "alpha_po": "a difference of exponentials",
    "chi_po": "an exponential less a log-ratio",
    "ld_dpo": "sums over tokens",
    "wpo": "sums over tokens",
    "bmc": "sums over tokens",
    "mrpo": "logarithms of sums",
    "token_budget": "sums over tokens",
    "log_barrier": "a logarithm of a difference",
    "mixture": "what its parts do",
    "kto_pair": "a mean over the step",
    "beta_dpo": "a mean over the step",
    "step_budget": "a mean over the step",
}
"""Where rounding is no small share of the result, and why; all others keep 12 digits whatever
their inputs.
"""


def table_of(name: str) -> Literal["loss", "regularizer"]:
    """The table that has the name."""
    return "loss" if name in TABLES["loss"] else "regularizer"


def bound(name: str, given: Options) -> LossFunction:
    """Ours with its options as a configuration would give them, and those that a controller
    gives.
    """
    # Making the model that checks options takes longer than most tests.
    key = f"{name} {given}"
    if key not in _BOUND:
        _BOUND[key] = _bound(name, given)
    return _BOUND[key]


_BOUND: dict[str, LossFunction] = {}


def _bound(name: str, given: Options) -> LossFunction:
    kind = table_of(name)
    controlled = getattr(lookup(kind, name, where=kind), "controlled", ())
    function = bind(
        kind, name, {key: given[key] for key in given if key not in controlled}, where=kind
    )
    return partial(function, **{key: given[key] for key in given if key in controlled})


def bound_part(part: Options) -> LossFunction:
    """The same for a loss within a loss."""
    return bound(part["name"], {key: value for key, value in part.items() if key != "name"})


def expected(name: str, given: Options, columns: Columns) -> Array:
    """The values of the reference with the same options."""
    options = DEFAULTS[name] | dict(given)
    if name == "mixture":
        parts = zip(options["losses"], options["weights"], strict=True)
        return np.asarray(sum(weight * _expected_part(loss, columns) for loss, weight in parts))
    if name == "wpo":
        return reference.wpo_weight(columns) * _expected_part(options["loss"], columns)
    if name == "bmc":
        sums = reference.bmc_sums(
            columns, delta=options["delta"], ref_weights=options["ref_weights"]
        )
        return _expected_part(options["loss"], replace(columns, **sums._asdict()))
    if name == "mrpo":
        return _expected_part(options["loss"], replace(columns, **mean_reference(options, columns)))
    if name == "slope_calibration":
        return _expected_part(options["loss"], columns)
    if name == "beta_dpo":
        return reference.beta_dpo(columns, **beta_dpo_options(options, columns))
    values: Array = getattr(reference, name)(columns, **options)
    return values


def mean_reference(options: Options, columns: Columns) -> dict[str, Array]:
    """The columns of the one reference that three make."""
    chosen, rejected = references_of(columns)
    stated = WEIGHTS if options["weights"] == "stated" else HELD_OUT_WEIGHTS
    share: Any = stated
    if options["weights"] == "example":
        share = reference_references.adaptive_weights(chosen, rejected)
    if options["clip"] != "none":
        eta = options["eta"] if options["clip"] == "adaptive" else -options["eta"]
        chosen, rejected = reference_references.clipped(chosen, rejected, base=0, eta=eta)
    return {
        "ref_chosen": reference_references.combined(chosen, share, mode=options["mode"]),
        "ref_rejected": reference_references.combined(rejected, share, mode=options["mode"]),
    }


def _expected_part(part: Options, columns: Columns) -> Array:
    return expected(
        part["name"], {key: value for key, value in part.items() if key != "name"}, columns
    )


def beta_dpo_options(options: Options, columns: Columns) -> dict[str, Any]:
    """The reference's options for ours: which pairs are kept is our own draw, whose law has a
    test.
    """
    margin = (columns.policy_chosen - columns.ref_chosen) - (
        columns.policy_rejected - columns.ref_rejected
    )
    kept = np.ones(margin.size, dtype=bool)
    if options["rho"] > 0:
        unusual = (margin - options["margin_mean"]) / max(options["margin_std"], 1e-6)
        noise = np.random.default_rng([options["seed"], options["draw"]]).gumbel(size=margin.size)
        stay = max(1, int(margin.size * (1 - Fraction(str(options["rho"])))))
        kept[np.argsort(-(noise - unusual**2 / 2))[stay:]] = False
    return {
        **{key: options[key] for key in ("beta", "alpha")},
        "gap_mean": options["margin_mean"],
        "kept": kept,
    }
