"""Our losses against TRL's code on random inputs: values and gradients of every loss type.

Both are functions of the same per-token log-probabilities (of the same logits where TRL starts from
them), and the gradients compared are in those. In float64 the two orders of summation leave about
1e-14; where TRL computes in float32, the tolerance is derived from its rounding. Where the two
differ on purpose: `test_trl_deviations.py`.
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import trl_losses as trl_side
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl_losses import leaves_of

from prefine import losses
from prefine.losses.protocol import LossFunction
from prefine.losses.regularizers.nll import nll

SEEDS = range(3)
# The promise is 1e-6. In float64 the order of the sums leaves 1e-14; where two slopes of one pair
# nearly cancel, as apo_down's do at a small beta, some 1e4 of it are left.
CLOSE = 1e-8
ROUNDING = 2.0**-24

Settings = dict[str, Any]
DPO, KTO, CPO = (trl_side.defaults(config) for config in (DPOConfig, KTOConfig, CPOConfig))
token_nll = partial(nll, reduction="token_mean")

# TRL's loss types as ours, from its settings.
OURS: dict[str, Callable[[Settings], LossFunction]] = {
    "sigmoid": lambda s: partial(losses.dpo, beta=s["beta"]),
    "hinge": lambda s: partial(losses.hinge, beta=s["beta"]),
    "ipo": lambda s: partial(losses.ipo, beta=s["beta"]),
    "exo_pair": lambda s: partial(losses.exo, beta=s["beta"], epsilon=s["label_smoothing"]),
    "nca_pair": lambda s: partial(losses.nca, beta=s["beta"]),
    "robust": lambda s: partial(
        losses.robust, beta=s["beta"], label_smoothing=s["label_smoothing"]
    ),
    "bco_pair": lambda s: partial(losses.bco, beta=s["beta"]),
    "sppo_hard": lambda s: partial(losses.sppo_hard, beta=s["beta"]),
    "aot": lambda s: partial(losses.aot, beta=s["beta"]),
    "aot_unpaired": lambda s: partial(losses.aot_unpaired, beta=s["beta"]),
    "apo_zero": lambda s: partial(losses.apo_zero, beta=s["beta"]),
    "apo_down": lambda s: partial(losses.apo_down, beta=s["beta"]),
    "discopop": lambda s: partial(losses.discopop, beta=s["beta"], tau=s["discopop_tau"]),
    "sft": lambda s: token_nll,
    "sigmoid_norm": lambda s: partial(losses.sigmoid_norm, beta=s["beta"]),
}
COUPLED = {"aot", "aot_unpaired"}

BETAS: list[Settings] = [{}, {"beta": 0.01}, {"beta": 0.7}, {"beta": 2.5}]
# Beyond TRL's defaults and several betas. EXO has no default: TRL's own constructor refuses the
# label smoothing 0.
SMOOTHED: list[Settings] = [{"label_smoothing": 0.1}, {"beta": 0.5, "label_smoothing": 0.3}]
CASES: dict[str, list[Settings]] = {name: list(BETAS) for name in OURS} | {
    "sft": [{}, {"beta": 0.7}],
    "exo_pair": [{"label_smoothing": 1e-3}, {"beta": 2.0, "label_smoothing": 1e-3}, *SMOOTHED],
    "robust": [*BETAS, *SMOOTHED],
    "sppo_hard": [*BETAS, {"beta": 0.001}],
    "discopop": [*BETAS, {"beta": 0.05, "discopop_tau": 0.3}, {"discopop_tau": 1.0}],
    "sigmoid_norm": [*BETAS, {"beta": 5.0}],
}


def told(settings: Settings) -> str:
    return ",".join(f"{name}={value}" for name, value in settings.items()) or "defaults"


def report(name: str, settings: Settings, difference: float) -> None:
    print(f"\n{name} {told(settings)}: largest relative difference {difference:.1e}", end="")


def listed(error: BaseException) -> set[str]:
    """The names in "Should be one of [...]"."""
    found = re.search(r"\[.*\]", str(error))
    assert found, error
    return set(ast.literal_eval(found.group()))


def branches(function: Callable[..., Any], name: str) -> set[str]:
    """What a function compares a name with."""
    return set(re.findall(rf'{name} == "(\w+)"', inspect.getsource(function)))


def choices(config: type, name: str) -> set[str]:
    (field,) = (field for field in dataclasses.fields(config) if field.name == name)
    return set(field.metadata["choices"])


def test_every_loss_type_and_divergence_of_trl_is_compared() -> None:
    """Fails when TRL has one more."""
    with pytest.raises(ValueError, match="Unknown loss type") as unknown:
        trl_side.dpo_loss(trl_side.random_pairs(0), "none")
    assert (
        listed(unknown.value)
        == branches(DPOTrainer._compute_loss, "loss_type")
        == set(OURS)
        == set(CASES)
    )
    (field,) = (field for field in dataclasses.fields(DPOConfig) if field.name == "loss_type")
    assert set(re.findall(r"'(\w+)'", field.metadata["help"])) == set(OURS)
    assert branches(DPOTrainer._compute_loss, "f_divergence_type") == {
        *DIVERGENCES,
        "alpha_divergence",
    }
    assert (
        choices(KTOConfig, "loss_type")
        == branches(KTOTrainer._compute_loss, "loss_type")
        == set(OF_ANSWERS)
    )
    with pytest.raises(ValueError, match="Unknown loss type") as unknown:
        trl_side.cpo_loss(trl_side.random_logits(0), loss_type="none")
    assert listed(unknown.value) == branches(CPOTrainer.cpo_loss, "loss_type") == set(FROM_LOGITS)
    # The configuration makes "simpo" of it.
    assert choices(CPOConfig, "loss_type") - {"alphapo"} == set(FROM_LOGITS)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        pytest.param(name, given, id=f"{name}-{told(given)}")
        for name, all_of in CASES.items()
        for given in all_of
    ],
)
def test_a_loss_type(name: str, given: Settings) -> None:
    """The mean over a batch and its gradient; and the value of every pair, which is the mean of
    a batch of one.
    """
    ours = OURS[name](DPO | given)
    found = []
    for seed in SEEDS:
        pairs = trl_side.random_pairs(seed)
        found.append(
            trl_side.apart(
                trl_side.dpo_loss(pairs, name, **given), ours(pairs).mean(), leaves_of(pairs)
            )
        )
    pairs = trl_side.random_pairs(SEEDS[0])
    for part in (trl_side.some(pairs, i, i + 1) for i in range(trl_side.PAIRS)):
        theirs = trl_side.dpo_loss(part, name, precomputed=True, **given)
        found.append(trl_side.apart(theirs, ours(part).mean()))
    report(name, given, max(found))
    assert max(found) < CLOSE


def test_sorting_is_compared() -> None:
    """Where policy and reference order the pairs alike, it would change nothing."""
    pairs = [trl_side.random_pairs(seed) for seed in SEEDS]
    for name in sorted(COUPLED):
        ours = OURS[name](DPO)
        assert any(
            trl_side.apart(ours(some).mean(), losses.dpo(some, beta=0.1).mean()) > 1e-3
            for some in pairs
        )


# Divergences

DIVERGENCES = ["reverse_kl", "forward_kl", "js_divergence"]


@pytest.mark.parametrize("beta", [0.1, 0.01, 0.7])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_divergence(divergence: str, beta: float) -> None:
    given: Settings = {"f_divergence_type": divergence, "beta": beta}
    found = []
    for seed in SEEDS:
        pairs = trl_side.random_pairs(seed)
        ours = partial(losses.f_dpo, beta=beta, divergence=divergence)
        theirs = trl_side.dpo_loss(pairs, "sigmoid", **given)
        found.append(trl_side.apart(theirs, ours(pairs).mean(), leaves_of(pairs)))
    report("sigmoid", given, max(found))
    assert max(found) < CLOSE


@pytest.mark.parametrize(
    ("coef", "beta"),
    [
        (0.0, 0.1),
        (0.0, 0.5),
        (0.1, 0.3),
        (0.5, 0.1),
        (0.5, 0.3),
        (0.7, 0.3),
        (0.9, 0.1),
        (1.0, 0.1),
        (1.0, 0.7),
    ],
)
def test_the_alpha_divergence(coef: float, beta: float) -> None:
    """TRL's coefficient is 1 - alpha, see the deviations. It has no float64 for this one.

    At log-ratios of about 1, (1 - exp(-alpha x)) / alpha carries some three roundings over alpha,
    of two answers, in theirs and in ours: 12 beta / alpha in the logit, and as much in loss and
    slope, which are about log 2 and 1/2; then a few of their own. All of these settings are within
    1e-6.
    """
    given: Settings = {
        "f_divergence_type": "alpha_divergence",
        "f_alpha_divergence_coef": coef,
        "beta": beta,
    }
    alpha = 1 - coef
    found = []
    for seed in SEEDS:
        pairs = trl_side.random_pairs(seed, dtype=torch.float32, spread=0.3)
        ours = losses.f_dpo_alpha(pairs, beta=beta, alpha=alpha).mean()
        found.append(
            trl_side.apart(trl_side.dpo_loss(pairs, "sigmoid", **given), ours, leaves_of(pairs))
        )
    report("sigmoid", given, max(found))
    assert max(found) < ROUNDING * (4 + (12 * beta / alpha if alpha else 0)) < 1e-6


# Weights


# Two that TRL cannot weigh are among the deviations; both refuse those that sort.
WEIGHTED = sorted(set(OURS) - COUPLED - {"sft", "hinge"})


@pytest.mark.parametrize("given", [{}, {"beta": 0.7}], ids=told)
@pytest.mark.parametrize("name", WEIGHTED)
def test_wpo_weights_of_a_loss_type(name: str, given: Settings) -> None:
    given = given | ({"label_smoothing": 0.2} if name in {"exo_pair", "robust"} else {})
    inner = OURS[name](DPO | given)
    found = []
    for seed in SEEDS:
        pairs = trl_side.random_pairs(seed)
        theirs = trl_side.dpo_loss(pairs, name, use_weighting=True, **given)
        ours = losses.wpo(pairs, loss=inner).mean()
        found.append(trl_side.apart(theirs, ours, leaves_of(pairs)))
        assert trl_side.apart(theirs, inner(pairs).mean(), leaves_of(pairs)) > 1e-3
    report(f"wpo {name}", given, max(found))
    assert max(found) < CLOSE


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_what_is_longer_counts_less(alpha: float, beta: float) -> None:
    given: Settings = {"ld_alpha": alpha, "beta": beta}
    found = []
    for seed in SEEDS:
        pairs = trl_side.random_pairs(seed)
        ours = losses.ld_dpo(pairs, beta=beta, alpha=alpha).mean()
        found.append(
            trl_side.apart(trl_side.dpo_loss(pairs, "sigmoid", **given), ours, leaves_of(pairs))
        )
    report("sigmoid", given, max(found))
    assert max(found) < CLOSE


# TRL smooths those that sort, too; see the deviations.
SMOOTHABLE = sorted(set(OURS) - COUPLED)
MIXTURES: list[tuple[list[str], list[float] | None]] = [
    (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]),
    (["sigmoid", "sft"], None),
    (["ipo", "aot", "hinge"], [0.5, 2.0, 0.1]),
    (SMOOTHABLE, [0.1 * (1 + index) for index in range(len(SMOOTHABLE))]),
]


@pytest.mark.parametrize(
    ("names", "weights"), MIXTURES, ids=["mpo", "with sft", "with aot", "thirteen"]
)
def test_a_mixture(names: list[str], weights: list[float] | None) -> None:
    given: Settings = {"beta": 0.3, "label_smoothing": 0.2 if names == SMOOTHABLE else 0.0}
    parts = tuple(OURS[name](DPO | given) for name in names)
    found = []
    for seed in SEEDS:
        pairs = trl_side.random_pairs(seed)
        theirs = trl_side.dpo_loss(pairs, *names, loss_weights=weights, **given)
        ours = losses.mixture(
            pairs, losses=parts, weights=tuple(weights or [1.0] * len(parts))
        ).mean()
        found.append(trl_side.apart(theirs, ours, leaves_of(pairs)))
    report("+".join(names), {"weights": weights}, max(found))
    assert max(found) < CLOSE


def test_a_weighted_mixture() -> None:
    names, weights = ["sigmoid", "nca_pair", "ipo"], (0.8, 0.2, 0.05)
    mixed = partial(
        losses.mixture, losses=tuple(OURS[name](DPO) for name in names), weights=weights
    )
    pairs = trl_side.random_pairs(0)
    theirs = trl_side.dpo_loss(pairs, *names, loss_weights=list(weights), use_weighting=True)
    found = trl_side.apart(theirs, losses.wpo(pairs, loss=mixed).mean(), leaves_of(pairs))
    report("wpo " + "+".join(names), {}, found)
    assert found < CLOSE


# KTO's trainer averages over answers, not over pairs.

OF_ANSWERS: dict[str, Callable[[Settings], LossFunction]] = {
    "kto": lambda s: partial(
        losses.kto_pair,
        beta=s["beta"],
        desirable_weight=s["desirable_weight"],
        undesirable_weight=s["undesirable_weight"],
    ),
    # Half a pair's loss; TRL weighs its sides, too, so the weights are those of its defaults here.
    "apo_zero_unpaired": lambda s: partial(
        losses.mixture, losses=(partial(losses.apo_zero, beta=s["beta"]),), weights=(0.5,)
    ),
}
SIDES: list[Settings] = [
    {"desirable_weight": 1.3, "undesirable_weight": 0.6},
    {"beta": 0.7, "undesirable_weight": 2.0},
]


@pytest.mark.parametrize("shift", [4.0, -4.0], ids=["z0 above 0", "z0 is 0"])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        pytest.param(name, given, id=f"{name}-{told(given)}")
        for name, all_of in {
            "kto": [{}, {"beta": 0.7}, *SIDES],
            "apo_zero_unpaired": [{}, {"beta": 0.7}],
        }.items()
        for given in all_of
    ],
)
def test_a_loss_type_of_answers(name: str, given: Settings, shift: float) -> None:
    found = []
    for seed in SEEDS:
        pairs, mismatched = trl_side.random_mismatched(trl_side.random_pairs(seed), seed, shift)
        theirs = trl_side.kto_loss(pairs, name, mismatched, **given)
        ours = OF_ANSWERS[name](KTO | given)(pairs).mean()
        found.append(trl_side.apart(theirs, ours, leaves_of(pairs)))
    report(name, given | {"shift": shift}, max(found))
    assert max(found) < CLOSE


# The reference-free ones, from logits. TRL adds the next-token term of CPO to all of them.


def _with_nll(preference: LossFunction, weight: float) -> LossFunction:
    return partial(losses.mixture, losses=(preference, token_nll), weights=(1.0, weight))


def _hinge(s: Settings) -> LossFunction:
    """SLiC's, whose difference is in nats: max(0, 1 - beta g) = beta max(0, 1 / beta - g)."""
    slic = partial(losses.slic, delta=1 / s["beta"], lam=0.0)
    return partial(losses.mixture, losses=(slic, token_nll), weights=(s["beta"], s["cpo_alpha"]))


def _simpo(s: Settings) -> LossFunction:
    simpo = partial(losses.simpo, beta=s["beta"], gamma=s["simpo_gamma"])
    bent = partial(losses.alpha_po, beta=s["beta"], gamma=s["simpo_gamma"], alpha=s["alpha"])
    return _with_nll(bent if s["alpha"] else simpo, s["cpo_alpha"])


FROM_LOGITS: dict[str, Callable[[Settings], LossFunction]] = {
    "sigmoid": lambda s: partial(losses.cpo, beta=s["beta"], alpha=s["cpo_alpha"]),
    "hinge": _hinge,
    # Where the reference's values are 0, ours does not read one either.
    "ipo": lambda s: _with_nll(partial(losses.ipo, beta=s["beta"]), s["cpo_alpha"]),
    "simpo": _simpo,
}
PAPERS_SIMPO: Settings = {"beta": 2.0, "simpo_gamma": 1.6, "cpo_alpha": 0.0}
CPO_CASES: dict[str, list[Settings]] = {
    "sigmoid": [{}, {"beta": 0.7}, {"cpo_alpha": 0.3}, {"cpo_alpha": 0.0}],
    "hinge": [{}, {"beta": 1.0, "cpo_alpha": 0.0}, {"beta": 0.4}],
    "ipo": [{}, {"beta": 0.7, "cpo_alpha": 0.0}],
    "simpo": [
        *({}, PAPERS_SIMPO, {"beta": 2.5, "simpo_gamma": 0.3}),
        *(PAPERS_SIMPO | {"alpha": alpha} for alpha in (0.25, -0.3, 1.0)),
    ],
}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        pytest.param(name, given, id=f"{name}-{told(given)}")
        for name, all_of in CPO_CASES.items()
        for given in all_of
    ],
)
def test_a_loss_type_of_cpo(name: str, given: Settings) -> None:
    ours = FROM_LOGITS[name](CPO | given)
    found = []
    for seed in SEEDS:
        made = trl_side.random_logits(seed)
        theirs = trl_side.cpo_loss(made, loss_type=name, **given)
        found.append(trl_side.apart(theirs, ours(made.pairs).mean(), [made.logits]))
    report(f"cpo {name}", given, max(found))
    assert max(found) < CLOSE


def test_alphapo_is_a_name_for_settings_that_are_compared(tmp_path: Any) -> None:
    config = CPOConfig(
        output_dir=str(tmp_path), loss_type="alphapo", alpha=0.25, use_cpu=True, bf16=False
    )
    assert (config.loss_type, config.cpo_alpha) == ("simpo", 0.0)
    assert {"beta", "simpo_gamma", "cpo_alpha", "alpha"} <= vars(config).keys()


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_orpo(beta: float) -> None:
    """Where both next-token terms are the same: prompts of one token, chosen answers of one length.

    TRL has the odds in float32: a dozen roundings of values about as large as the loss.
    """
    ours = partial(losses.orpo, lam=beta)
    found = []
    for seed in SEEDS:
        made = trl_side.random_logits(seed, prompt=1, equal=True)
        theirs = trl_side.orpo_loss(made, beta=beta)
        found.append(trl_side.apart(theirs, ours(made.pairs).mean(), [made.logits]))
    report("orpo", {"beta": beta}, max(found))
    assert max(found) < 12 * ROUNDING


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_the_odds_ratio_of_orpo(beta: float) -> None:
    """Per pair, for likely and unlikely answers: both branches of log(1 - p).

    One rounding of a mean log-probability L moves log odds by |L| / (1 - p); the float32 odds have
    some eight more.
    """
    generator = torch.Generator().manual_seed(5)
    chosen, rejected = (
        -torch.rand(2, 64, generator=generator, dtype=torch.float64).mul(8).sub(5).exp()
    )
    sides = chosen.requires_grad_(), rejected.requires_grad_()
    theirs = trl_side.odds_ratio_term(*sides, beta)
    pairs = trl_side.random_pairs(0)
    ones = torch.ones(64, dtype=torch.float64)
    ours = losses.orpo(
        dataclasses.replace(
            pairs,
            policy_chosen=chosen,
            policy_rejected=rejected,
            chosen_tokens=ones,
            rejected_tokens=ones,
        ),
        lam=beta,
    )
    term = ours + chosen
    moved = sum(
        side.detach().abs() / -torch.expm1(side.detach()) + side.detach().abs() for side in sides
    )
    spread = sum((side.detach() - (-torch.expm1(side.detach())).log()).abs() for side in sides)
    allowed = beta * ROUNDING * (8 + moved + 2 * spread)
    difference = (theirs.double() - term).abs().detach()
    found = float((difference / term.detach().abs()).max())
    report("odds ratio", {"beta": beta}, found)
    assert torch.all(difference < allowed)
