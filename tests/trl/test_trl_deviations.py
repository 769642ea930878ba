"""Deliberate differences from TRL's losses: both numbers, and the options that make them equal.

`paper` says whose side the paper takes: "ours", "theirs", "both" where it has both forms, "neither"
where it has nothing to say, "unclear" where that was not settled. Left out, because nothing is left
to compare: BCO's own trainer, which TRL 1.16 has no more; TPO, which reads three answers; WPO on
the losses that sort, which both refuse.
"""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import pytest
import torch
import trl_losses as trl_side
from test_trl_parity import CPO, DPO, OURS, token_nll
from torch import Tensor
from torch.nn.functional import logsigmoid
from trl_losses import cpo_loss, dpo_loss, leaves_of

from losses.pair_values import some_pairs
from prefine import losses
from prefine.losses.controllers import RunningReward
from prefine.losses.facts import bare, options_of
from prefine.losses.protocol import LossFunction, PairLogps

# Of the first, policy and reference order the pairs differently, which is what sorting is about.
SEED = 2
PAIRS, EARLIER = trl_side.random_pairs(SEED), trl_side.random_pairs(8)
LOGITS = trl_side.random_logits(SEED)
NO_PROMPTS = [0] * trl_side.PAIRS
_, MISMATCHED = trl_side.random_mismatched(PAIRS, SEED, 4.0)
MEET = 1e-8
FREE = LOGITS.pairs


class Deviation(NamedTuple):
    """One difference: TRL's mean, ours under the settings of the same names, and ours made
    equal to TRL's.
    """

    theirs: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    equal: Callable[[], Tensor]
    paper: Literal["ours", "theirs", "both", "neither", "unclear"]
    why: str


def swapped_models(pairs: PairLogps) -> PairLogps:
    """Policy and reference exchanged."""
    return replace(
        pairs,
        policy_chosen=pairs.ref_chosen,
        policy_rejected=pairs.ref_rejected,
        ref_chosen=pairs.policy_chosen,
        ref_rejected=pairs.policy_rejected,
    )


def swapped_sides(pairs: PairLogps) -> PairLogps:
    """Chosen and rejected exchanged."""
    return replace(
        pairs,
        policy_chosen=pairs.policy_rejected,
        policy_rejected=pairs.policy_chosen,
        ref_chosen=pairs.ref_rejected,
        ref_rejected=pairs.ref_chosen,
    )


def smoothed(loss: LossFunction, pairs: PairLogps, other: PairLogps, share: float) -> Tensor:
    return (1 - share) * loss(pairs).mean() + share * loss(other).mean()


def one_token_more(pairs: PairLogps) -> PairLogps:
    return replace(
        pairs, chosen_tokens=pairs.chosen_tokens + 1, rejected_tokens=pairs.rejected_tokens + 1
    )


def bent(pairs: PairLogps) -> PairLogps:
    """Log-ratios replaced by 1 - 1 / ratio, the slope of the forward divergence."""
    return replace(
        pairs,
        policy_chosen=pairs.ref_chosen + 1 - (-pairs.chosen_logratio).exp(),
        policy_rejected=pairs.ref_rejected + 1 - (-pairs.rejected_logratio).exp(),
    )


def cut(pairs: PairLogps, alpha: float) -> PairLogps:
    """Sums in which the tokens beyond the shorter answer count alpha."""
    shared = torch.minimum(pairs.chosen_tokens, pairs.rejected_tokens).unsqueeze(1)
    sums = {}
    for name in ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected"):
        values = getattr(pairs.tokens, name)
        sums[name] = torch.where(
            torch.arange(values.shape[1]) < shared, values, alpha * values
        ).sum(dim=1)
    return replace(pairs, **sums)


def halves(loss: Callable[[PairLogps], Tensor]) -> Tensor:
    """What two micro-batches make of a step: every other pair in the order of the policy's
    differences.
    """
    order = (PAIRS.policy_chosen - PAIRS.policy_rejected).argsort()
    middle = trl_side.PAIRS // 2
    parts = [trl_side.some(some_pairs(PAIRS, order[first::2]), 0, middle) for first in (0, 1)]
    return torch.stack([loss(part) for part in parts]).mean()


def prompts_too(made: trl_side.LogitPairs, beta: float) -> Tensor:
    """ORPO with the next-token term over all of the batch's tokens, prompts included."""
    pairs = made.pairs
    odds = losses.orpo(pairs, lam=beta) - losses.orpo(pairs, lam=0.0)
    logp, tokens = pairs.policy_chosen + made.prompt_logp, pairs.chosen_tokens + made.prompt_tokens
    return odds.mean() - logp.sum() / tokens.sum()


def running_delta(beta: float) -> float:
    controller = RunningReward()
    with torch.no_grad():
        steps = [controller.update(pairs, {"beta": beta}) for pairs in (EARLIER, PAIRS)]
    return steps[-1]["delta"]


DEVIATIONS: dict[str, Deviation] = {
    "sigmoid: label_smoothing": Deviation(
        lambda: dpo_loss(PAIRS, "sigmoid", label_smoothing=0.2),
        lambda: losses.dpo(PAIRS, beta=0.1, label_smoothing=0.2).mean(),
        lambda: losses.dpo(PAIRS, beta=0.1).mean(),
        "both",
        "TRL's sigmoid reads no label smoothing; ours does and is then cDPO. At 0 both are eq. 7 "
        "of DPO.",
    ),
    "ipo: average": Deviation(
        lambda: dpo_loss(PAIRS, "ipo"),
        lambda: losses.ipo(PAIRS, beta=0.1, average="sum").mean(),
        lambda: losses.ipo(PAIRS, beta=0.1, average="token").mean(),
        "both",
        "Eq. 17 as printed has sums, its authors' results averages; ours offers both, TRL the "
        "averages.",
    ),
    "ipo: without a prompt": Deviation(
        lambda: dpo_loss(PAIRS, "ipo", prompts=NO_PROMPTS),
        lambda: losses.ipo(PAIRS, beta=0.1).mean(),
        lambda: losses.ipo(one_token_more(PAIRS), beta=0.1).mean(),
        "neither",
        "TRL counts the answer's tokens before the shift: without a prompt also the first, which "
        "nothing predicts.",
    ),
    "sigmoid_norm: without a prompt": Deviation(
        lambda: dpo_loss(PAIRS, "sigmoid_norm", beta=5.0, prompts=NO_PROMPTS),
        lambda: losses.sigmoid_norm(PAIRS, beta=5.0).mean(),
        lambda: losses.sigmoid_norm(one_token_more(PAIRS), beta=5.0).mean(),
        "neither",
        "As with ipo: an average over one token more than were scored.",
    ),
    "bco_pair: delta": Deviation(
        lambda: dpo_loss(PAIRS, "bco_pair"),
        lambda: losses.bco(PAIRS, beta=0.1, delta=running_delta(0.1)).mean(),
        lambda: losses.bco(PAIRS, beta=0.1, delta=0.0).mean(),
        "ours",
        "TRL has no running mean of the rewards, the paper's reward shift.",
    ),
    "sppo_hard: stated probabilities": Deviation(
        lambda: dpo_loss(PAIRS, "sppo_hard", beta=0.05),
        lambda: losses.sppo(PAIRS, beta=0.05).mean(),
        lambda: (
            2 * losses.sppo(replace(PAIRS, p_chosen=torch.ones(trl_side.PAIRS)), beta=0.05).mean()
        ),
        "ours",
        "Eq. 4.7 averages over the answers and has estimated probabilities: our sppo. sppo_hard "
        "is TRL's.",
    ),
    "aot: label_smoothing": Deviation(
        lambda: dpo_loss(PAIRS, "aot", label_smoothing=0.2),
        lambda: losses.aot(PAIRS, beta=0.1).mean(),
        lambda: smoothed(partial(losses.aot, beta=0.1), PAIRS, swapped_models(PAIRS), 0.2),
        "unclear",
        "Not offered here: of sorted differences none belongs to a pair whose label could be "
        "wrong.",
    ),
    "aot_unpaired: label_smoothing": Deviation(
        lambda: dpo_loss(PAIRS, "aot_unpaired", label_smoothing=0.2),
        lambda: losses.aot_unpaired(PAIRS, beta=0.1).mean(),
        lambda: smoothed(partial(losses.aot_unpaired, beta=0.1), PAIRS, swapped_sides(PAIRS), 0.2),
        "unclear",
        "Not offered here, as for aot.",
    ),
    "alpha_divergence: parametrisation": Deviation(
        lambda: alpha_divergence(0.2),
        lambda: losses.f_dpo_alpha(PAIRS, beta=0.1, alpha=0.2).mean(),
        lambda: losses.f_dpo_alpha(PAIRS, beta=0.1, alpha=0.8).mean(),
        "ours",
        "f'(u) is (1 - u^-alpha) / alpha in the paper; TRL has (u^(alpha - 1) - 1) / (alpha - 1), "
        "so its alpha is our "
        "1 - alpha, though its help names u^-alpha. The same at its default, 1/2.",
    ),
    "f-divergence: under another loss": Deviation(
        lambda: dpo_loss(PAIRS, "ipo", f_divergence_type="forward_kl"),
        lambda: losses.ipo(PAIRS, beta=0.1).mean(),
        lambda: losses.ipo(bent(PAIRS), beta=0.1).mean(),
        "ours",
        "The paper has divergences under DPO's loss: our f_dpo. TRL has them under seven more "
        "types.",
    ),
    "ld_alpha: the reference": Deviation(
        lambda: dpo_loss(PAIRS, "sigmoid", ld_alpha=0.5),
        lambda: losses.ld_dpo(PAIRS, beta=0.1, alpha=0.5, apply_to="policy").mean(),
        lambda: losses.ld_dpo(PAIRS, beta=0.1, alpha=0.5, apply_to="both").mean(),
        "unclear",
        "Code bases differ in whether the reference is cut, too; ours offers both, TRL and our "
        "default cut it.",
    ),
    "ld_alpha: under another loss": Deviation(
        lambda: dpo_loss(PAIRS, "hinge", ld_alpha=0.5),
        lambda: losses.hinge(PAIRS, beta=0.1).mean(),
        lambda: losses.hinge(cut(PAIRS, 0.5), beta=0.1).mean(),
        "ours",
        "The paper cuts under DPO's loss: our ld_dpo. TRL does under every type.",
    ),
    "sft: micro-batches": Deviation(
        lambda: halves(lambda part: dpo_loss(part, "sft")),
        lambda: token_nll(PAIRS).mean(),
        lambda: halves(lambda part: token_nll(part).mean()),
        "neither",
        "Ours averages over the tokens of the step, TRL over those of a micro-batch.",
    ),
    "aot: micro-batches": Deviation(
        lambda: halves(lambda part: dpo_loss(part, "aot", beta=0.5)),
        lambda: losses.aot(PAIRS, beta=0.5).mean(),
        lambda: halves(lambda part: losses.aot(part, beta=0.5).mean()),
        "neither",
        "Ours sorts the step, TRL a micro-batch. (The same for aot_unpaired, and for KTO's z0.)",
    ),
    "kto: apo_zero_unpaired": Deviation(
        lambda: trl_side.kto_loss(PAIRS, "apo_zero_unpaired", MISMATCHED),
        lambda: losses.apo_zero(PAIRS, beta=0.1).mean(),
        lambda: losses.apo_zero(PAIRS, beta=0.1).mean() / 2,
        "ours",
        "KTO's trainer averages over answers, not over pairs: half of eq. 7 of APO.",
    ),
    "cpo: label_smoothing": Deviation(
        lambda: cpo_loss(LOGITS, label_smoothing=0.2, cpo_alpha=0.0),
        lambda: losses.cpo(FREE, beta=0.1, alpha=0.0).mean(),
        lambda: smoothed(partial(losses.cpo, beta=0.1, alpha=0.0), FREE, swapped_sides(FREE), 0.2),
        "ours",
        "Not offered here, and not in the paper.",
    ),
    "cpo: hinge is not SLiC": Deviation(
        lambda: cpo_loss(LOGITS, loss_type="hinge"),
        lambda: losses.slic(FREE, delta=1.0, lam=1.0).mean(),
        lambda: 0.1 * losses.slic(FREE, delta=10.0, lam=0.0).mean() + token_nll(FREE).mean(),
        "ours",
        "SLiC-HF has max(0, delta - lw + ll) and a sum over tokens in its regularizer; TRL scales "
        "the difference by "
        "beta and averages the regularizer over tokens.",
    ),
    "cpo: simpo has a next-token term": Deviation(
        lambda: cpo_loss(LOGITS, loss_type="simpo", beta=2.0, simpo_gamma=1.6),
        lambda: losses.simpo(FREE, beta=2.0, gamma=1.6).mean(),
        lambda: losses.simpo(FREE, beta=2.0, gamma=1.6).mean() + token_nll(FREE).mean(),
        "ours",
        "TRL adds CPO's next-token term unless cpo_alpha is set to 0, which it does for alphapo "
        "only.",
    ),
    "cpo: alpha under other types": Deviation(
        lambda: cpo_loss(LOGITS, alpha=0.05, cpo_alpha=0.0),
        lambda: losses.alpha_po(FREE, beta=0.1, alpha=0.05, gamma=0.0).mean(),
        lambda: losses.alpha_po(summed(FREE), beta=0.1, alpha=0.05, gamma=0.0).mean(),
        "ours",
        "AlphaPO bends the log-probability per token; under sigmoid and hinge TRL bends the sum.",
    ),
    "orpo: the prompt is trained, too": Deviation(
        lambda: trl_side.orpo_loss(trl_side.random_logits(SEED, equal=True), beta=0.1),
        lambda: losses.orpo(trl_side.random_logits(SEED, equal=True).pairs, lam=0.1).mean(),
        lambda: prompts_too(trl_side.random_logits(SEED, equal=True), 0.1),
        "ours",
        "In the paper the next-token term is that of the chosen answer given the prompt.",
    ),
    "orpo: long answers weigh more": Deviation(
        lambda: trl_side.orpo_loss(trl_side.random_logits(SEED, prompt=1), beta=0.1),
        lambda: losses.orpo(trl_side.random_logits(SEED, prompt=1).pairs, lam=0.1).mean(),
        lambda: prompts_too(trl_side.random_logits(SEED, prompt=1), 0.1),
        "ours",
        "In the paper an answer's log-probability is its own average over tokens; TRL averages "
        "over those of a batch.",
    ),
}


def alpha_divergence(coef: float) -> Tensor:
    """TRL's has no float64: its table of clamps knows three types."""
    given: dict[str, Any] = {
        "f_divergence_type": "alpha_divergence",
        "f_alpha_divergence_coef": coef,
    }
    with pytest.raises(KeyError):
        dpo_loss(PAIRS, "sigmoid", **given)
    return dpo_loss(trl_side.random_pairs(SEED, dtype=torch.float32), "sigmoid", **given)


def summed(pairs: PairLogps) -> PairLogps:
    """As if every answer had one token, so that averages are sums."""
    one = torch.ones_like(pairs.chosen_tokens)
    return replace(pairs, chosen_tokens=one, rejected_tokens=one)


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_deviation(name: str) -> None:
    found = DEVIATIONS[name]
    theirs, ours, equal = (float(value().detach()) for value in found[:3])
    print(f"\n{name}: TRL {theirs:.6f}, ours {ours:.6f}; paper: {found.paper}", end="")
    assert abs(theirs - ours) > 1e-3 * abs(theirs)
    # The two in which TRL computes in float32.
    assert equal == pytest.approx(theirs, rel=1e-6 if name.startswith(("alpha_", "orpo")) else MEET)


def test_trl_cannot_train_wpo_on_hinge_or_next_tokens() -> None:
    """It multiplies in place what ReLU's gradient needs, and what is one number expanded; ours
    weighs both.
    """
    for name, message in (
        ("hinge", "modified by an inplace operation"),
        ("sft", "single memory location"),
    ):
        with pytest.raises(RuntimeError, match=message):
            dpo_loss(PAIRS, name, use_weighting=True).backward()
        ours = losses.wpo(PAIRS, loss=OURS[name](DPO)).mean()
        (slope,) = torch.autograd.grad(ours, leaves_of(PAIRS)[:1])
        assert slope.isfinite().all() and slope.any()
    ours = losses.wpo(PAIRS, loss=OURS["hinge"](DPO)).mean()
    assert trl_side.apart(dpo_loss(PAIRS, "hinge", use_weighting=True), ours) < MEET


# Far out, in float32


def far(logp: float, logratio: float) -> PairLogps:
    """One pair whose chosen answer is at the log-ratio and the log-probability given, per
    token, of one token.
    """
    pairs = trl_side.some(trl_side.random_pairs(0, dtype=torch.float32), 0, 1)
    leaf = torch.full((1, 1), logp).requires_grad_()
    other = torch.full((1, 1), -1.0).requires_grad_()
    one = torch.ones(1)
    tokens = replace(
        pairs.require_tokens(),
        policy_chosen=leaf,
        policy_rejected=other,
        ref_chosen=leaf.detach() - logratio,
        ref_rejected=other.detach(),
        chosen_log_sum_p2=-one.view(1, 1),
        rejected_log_sum_p2=-one.view(1, 1),
    )
    return replace(
        pairs,
        policy_chosen=leaf.sum(dim=1),
        policy_rejected=other.sum(dim=1),
        ref_chosen=tokens.ref_chosen.sum(dim=1),
        ref_rejected=tokens.ref_rejected.sum(dim=1),
        chosen_tokens=one,
        rejected_tokens=one,
        chosen_tokens_in_step=1,
        tokens=tokens,
    )


def odds_ratio(pairs: PairLogps) -> Tensor:
    return trl_side.odds_ratio_term(pairs.policy_chosen, pairs.policy_rejected, 0.1).mean()


def alphapo(pairs: PairLogps) -> Tensor:
    settings = CPO | {"loss_type": "simpo", "alpha": 1.0, "beta": 2.5, "simpo_gamma": 0.1}
    return trl_side.cpo_preference(pairs.policy_chosen, pairs.policy_rejected, **settings).mean()


# Name: the pair, TRL's, ours.
EXTREMES: dict[str, tuple[PairLogps, Callable[[PairLogps], Tensor], LossFunction]] = {
    "discopop, margin -2000": (
        far(-2000.0, -2000.0),
        lambda pairs: dpo_loss(pairs, "discopop"),
        partial(losses.discopop, beta=0.1),
    ),
    "forward_kl, log-ratio -100": (
        far(-100.0, -100.0),
        lambda pairs: dpo_loss(pairs, "sigmoid", f_divergence_type="forward_kl"),
        partial(losses.f_dpo, beta=0.1, divergence="forward_kl"),
    ),
    "alphapo, -120 nats per token": (
        far(-120.0, 0.0),
        alphapo,
        partial(losses.alpha_po, alpha=1.0),
    ),
    "orpo, a certain answer": (far(0.0, 0.0), odds_ratio, losses.orpo),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_what_overflows_in_trl_does_not_here(name: str) -> None:
    pairs, trls, mine = EXTREMES[name]
    theirs, ours = ended(trls(pairs), pairs), ended(mine(pairs).mean(), pairs)
    print(f"\n{name}: value and slope TRL {theirs}, ours {ours}", end="")
    assert not torch.isfinite(torch.tensor(theirs)).all()
    assert torch.isfinite(torch.tensor(ours)).all()


def ended(loss: Tensor, pairs: PairLogps) -> tuple[float, float]:
    (slope,) = torch.autograd.grad(loss, leaves_of(pairs)[:1])
    return float(loss.detach()), float(slope)


def test_js_is_far_out_the_same() -> None:
    """The divergence without an exponent is safe in both."""
    pairs = far(-2000.0, -2000.0)
    theirs = dpo_loss(pairs, "sigmoid", f_divergence_type="js_divergence")
    assert trl_side.apart(theirs, losses.f_dpo(pairs, beta=0.1).mean(), leaves_of(pairs)) < 1e-6
    assert float(theirs.detach()) == pytest.approx(
        -float(logsigmoid(torch.tensor(-200.0 + 0.1 * 0.6931472))), rel=1e-6
    )


# Defaults

# Ours where it is not TRL's, and where ours comes from is in the loss's docstring.
OTHER_DEFAULTS: dict[str, dict[str, float]] = {
    "hinge": {"beta": 0.05},
    "exo_pair": {"epsilon": 1e-3},
    "nca_pair": {"beta": 0.01},
    "robust": {"label_smoothing": 0.1},
    "sppo_hard": {"beta": 0.001},
    "aot": {"beta": 0.01},
    "aot_unpaired": {"beta": 0.01},
    "discopop": {"beta": 0.05},
    "sigmoid_norm": {"beta": 5.0},
}
TRLS_NAMES = {"epsilon": "label_smoothing", "tau": "discopop_tau"}


def test_the_defaults_that_differ() -> None:
    found: dict[str, dict[str, float]] = {}
    for name in sorted(set(OURS) - {"sft"}):
        ours = {
            option: value
            for option, value in options_of(bare(OURS[name](DPO))).items()
            if isinstance(value, float) and DPO.get(TRLS_NAMES.get(option, option), value) != value
        }
        found |= {name: ours} if ours else {}
    assert found == OTHER_DEFAULTS


def test_what_trl_has_no_more() -> None:
    """The day it has, it can be compared."""
    assert importlib.util.find_spec("trl.experimental.bco") is None
    assert (
        "delta"
        not in inspect.getsource(trl_side.DPOTrainer._compute_loss)
        .split('"bco_pair"')[1]
        .split("elif")[0]
    )
