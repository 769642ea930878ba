"""Objectives on the tiny model, their gradient by the engine in any cut of the step, and the
textbook's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import tiny_training as tiny
import torch
from torch import Tensor

from prefine.losses import (
    aot,
    aot_unpaired,
    bco,
    beta_dpo,
    bmc,
    dpo,
    ipo,
    jpo,
    kto_pair,
    ld_dpo,
    mixture,
    mrpo,
    odpo,
    simpo,
    sppo,
    wpo,
)
from prefine.losses.facts import needs_of
from prefine.losses.other_references import OtherReferences
from prefine.losses.pairs.aipo import aipo
from prefine.losses.pairs.flex_dpo import flex_dpo
from prefine.losses.pairs.rainbow_po import rainbow_po
from prefine.losses.pairs.slic import slic
from prefine.losses.pairs.slope_calibration import slope_calibration
from prefine.losses.protocol import LossFunction, PairLogps, PromptLogps, TokenLogps, declare
from prefine.losses.regularizers.log_barrier import log_barrier
from prefine.losses.regularizers.softplus_budget import softplus_budget
from prefine.losses.regularizers.token_budget import token_budget
from prefine.losses.token_diff import difference_marks
from prefine.regularizers import budget, nll, step_budget
from prefine.schedules import Schedule
from prefine.training.cross_prompt import cross_prompt_items
from prefine.training.forward.passes import Forward
from prefine.training.items import Text
from prefine.training.objective.gradient import StepTerms, accumulate_gradients
from prefine.training.objective.item_table import Compared, ItemTable
from prefine.training.objective.objective import HyperparameterController
from prefine.training.reference.scoring import score_completions, score_tokens
from prefine.training.relations.choose import named_relation
from prefine.training.relations.pairs import CHOSEN, REJECTED, TokenizedPair


def _with_turns(pair: TokenizedPair, number: int) -> TokenizedPair:
    """The pair with answers of two or three turns, some tokens of which are only read."""
    given = tuple(range(3 + number, 8 + number))
    chosen, rejected = pair.chosen_ids, pair.rejected_ids
    a, b, c = len(chosen), len(given), len(rejected)
    return replace(
        pair,
        chosen_ids=(*chosen, *given, 5, 1),
        chosen_turns=((0, a), (a + b, a + b + 2)),
        rejected_ids=(*rejected, *given[:1], 7, *given, 9, 1),
        rejected_turns=((0, c), (c + 1, c + 2), (c + 2 + b, c + 4 + b)),
    )


EXAMPLES = [
    _with_turns(pair, number) if number in (1, 4) else pair
    for number, pair in enumerate(tiny.examples())
]
# Answers to two prompts, answers to one of these, and a pair without a neighbour.
JOINT = [
    replace(EXAMPLES[0], rejected_prompt_ids=EXAMPLES[1].prompt_ids),
    *EXAMPLES[1:5],
    replace(EXAMPLES[5], rejected_prompt_ids=(9, 8, 7)),
    replace(EXAMPLES[6], prompt_ids=EXAMPLES[1].prompt_ids, chosen_ids=EXAMPLES[1].rejected_ids),
]
OTHERS = cross_prompt_items(EXAMPLES)
FURTHER, WEIGHTS, HELD_OUT_WEIGHTS = {"second": 3, "third": 4}, (0.5, 0.3, 0.2), (0.1, 0.2, 0.7)
"""The seeds of further references, and the weights of all three."""
STEP, STEPS = 3, 9
TOKENS = (1, 40, 1000)
"""Limits of a row: one prompt in each, a few, all in one."""


@declare(kind="coupled")
def centred(logps: PairLogps, *, scale: float = 0.3) -> Tensor:
    """A loss whose value for a pair depends on all pairs of the step."""
    gap = logps.policy_chosen - logps.policy_rejected
    return torch.nn.functional.softplus(-scale * (gap - gap.mean())) + 0.01 * gap.square()


@declare(needs=frozenset({"reference", "prompt"}), reads="joint")
def own_joint(logps: PairLogps, *, beta: float = 0.3) -> Tensor:
    """DPO of answers together with their prompts, and a share of the prompts' own likelihood."""
    prompts = logps.require_prompts()
    chosen = logps.chosen_logratio + prompts.policy_chosen - prompts.ref_chosen
    rejected = logps.rejected_logratio + prompts.policy_rejected - prompts.ref_rejected
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected)) - 0.1 * prompts.policy_chosen


@dataclass(frozen=True)
class Case:
    """An objective, its hyper-parameters possibly moving."""

    loss: LossFunction
    regularizer: LossFunction | None = None
    weight: float | Schedule = 0.0

    @property
    def reads_prompts(self) -> bool:
        return "prompt" in needs_of(self.loss)

    @property
    def reads_references(self) -> bool:
        return "references" in needs_of(self.loss)

    @property
    def examples(self) -> list[TokenizedPair]:
        return JOINT if self.reads_prompts else EXAMPLES

    def steering(self) -> HyperparameterController:
        return HyperparameterController(self.loss, self.regularizer, self.weight, steps=STEPS)


def _moving(start: float, end: float, schedule: Any = "cosine") -> Any:
    return Schedule(schedule=schedule, start=start, end=end)


MPO = partial(
    mixture,
    losses=(dpo, partial(bco, beta=0.3), partial(nll, reduction="token_mean")),
    weights=(0.8, 0.2, 1.0),
)
CASES = {
    "dpo+budget": Case(partial(dpo, beta=0.3), partial(budget, delta=0.5), 0.7),
    "simpo+nll": Case(simpo, partial(nll, reduction="mean"), 0.2),
    "token-mean": Case(partial(nll, reduction="token_mean")),
    "soft-labels": Case(partial(sppo, beta=0.05)),
    "offset": Case(odpo, partial(nll, reduction="token_mean"), 0.2),
    "coupled": Case(partial(centred, scale=0.2)),
    "coupled+budget": Case(centred, partial(budget, delta=-1.0, per="token"), 0.7),
    "aot": Case(partial(aot, beta=0.3)),
    "aot_unpaired+nll": Case(
        partial(aot_unpaired, beta=0.3), partial(nll, reduction="token_mean"), 0.1
    ),
    "beta_dpo": Case(partial(beta_dpo, rho=0.4, seed=3)),
    "kto_pair": Case(partial(kto_pair, beta=0.4, undesirable_weight=1.3)),
    "bco": Case(partial(bco, beta=0.4)),
    "dpo+step_budget": Case(dpo, partial(step_budget, delta=-1.0), 0.7),
    "flex_dpo+token_budget": Case(flex_dpo, partial(token_budget, delta=-0.1), 0.7),
    "rainbow_po+softplus_budget": Case(rainbow_po, partial(softplus_budget, delta=-1.0), 0.7),
    "aipo+log_barrier": Case(partial(aipo, alpha=0.4), partial(log_barrier, delta=0.5), 0.7),
    "mixture": Case(MPO, budget, 0.1),
    "ld_dpo": Case(partial(ld_dpo, beta=0.3, alpha=0.4), partial(budget, delta=0.5), 0.7),
    "slope_calibration": Case(
        partial(slope_calibration, loss=partial(slic, lam=0.4)), partial(budget, delta=0.5), 0.7
    ),
    "slope_calibration-mixture": Case(
        partial(
            mixture,
            losses=(partial(slope_calibration, loss=partial(aot, beta=0.3)), bco),
            weights=(1.0, 0.5),
        )
    ),
    "wpo": Case(partial(wpo, loss=partial(dpo, beta=0.3))),
    "bmc": Case(
        partial(bmc, loss=partial(dpo, beta=0.3), delta=1.5, ref_weights="own"), budget, 0.1
    ),
    "tokens-coupled": Case(
        partial(
            mixture,
            losses=(partial(wpo, loss=ipo), partial(bmc, delta=3.0), beta_dpo),
            weights=(0.5, 1.0, 0.7),
        ),
        partial(step_budget, delta=-1.0),
        0.7,
    ),
    "joint": Case(own_joint, budget, 0.2),
    "joint-coupled": Case(
        partial(mixture, losses=(own_joint, partial(bco, beta=0.4)), weights=(1.0, 0.5))
    ),
    "jpo": Case(partial(jpo, loss=partial(dpo, beta=0.3)), partial(budget, delta=0.5), 0.7),
    "jpo-lengths": Case(
        partial(
            jpo,
            loss=partial(
                mixture, losses=(ipo, partial(nll, reduction="token_mean")), weights=(0.01, 1.0)
            ),
        )
    ),
    "mrpo": Case(
        partial(mrpo, loss=partial(dpo, beta=0.3), eta=0.05), partial(budget, delta=0.5), 0.7
    ),
    "mrpo-example": Case(partial(mrpo, mode="arithmetic", weights="example", clip="none")),
    "mrpo-coupled": Case(
        partial(
            mixture,
            losses=(
                partial(mrpo, loss=partial(aot, beta=0.3), mode="geometric"),
                partial(mrpo, weights="held_out"),
            ),
            weights=(1.0, 0.5),
        )
    ),
    "scheduled": Case(
        partial(dpo, beta=_moving(0.5, 0.05)),
        partial(budget, delta=_moving(-2.0, 1.0)),
        _moving(0.0, 1.0, "linear"),
    ),
    "scheduled-coupled": Case(
        partial(
            mixture,
            losses=(partial(beta_dpo, beta=_moving(0.5, 0.1)), ipo),
            weights=(1.0, _moving(0.2, 0.1)),
        ),
        partial(step_budget, delta=_moving(-3.0, -1.0, "linear"), per="token"),
        0.3,
    ),
}


def table(case: Case | None = None) -> ItemTable:
    """The initial policy and the reference are other models than the one that is trained."""
    case = case or Case(dpo)
    reference = tiny.model(seed=2)
    further: dict[str, Tensor] = {}
    if case.reads_references:
        further = {
            name: score_completions(Forward(tiny.model(seed=seed)), case.examples)
            for name, seed in FURTHER.items()
        }
    away = score_completions(Forward(reference), OTHERS)
    tokens = score_tokens(Forward(reference, score_prompts=case.reads_prompts), case.examples)
    initial = score_tokens(Forward(tiny.model(seed=1)), case.examples)
    return ItemTable.of(
        named_relation("joint"),
        case.examples,
        {"initial": initial.logps(), "reference": tokens.logps(), **further},
        compared=Compared(("reference", *further), WEIGHTS, HELD_OUT_WEIGHTS)
        if further
        else Compared(),
        cross_ref=(away[CHOSEN] + away[REJECTED]) / 2,
        ref_tokens=tokens,
        initial_tokens=initial,
    )


def engine(
    case: Case,
    tokens: int,
    *,
    shared: bool = True,
    share: Callable[[int], bool] = lambda number: True,
) -> tuple[StepTerms, Tensor]:
    """One step by the engine and its gradient; `share` picks this process's micro-batches."""
    model, steering = tiny.model(), case.steering()
    forward = Forward(model, shared=shared, tokens=tokens, score_prompts=case.reads_prompts)
    batches, others = (
        [b for number, b in enumerate(forward.cut(some, range(len(EXAMPLES)))) if share(number)]
        for some in (case.examples, OTHERS)
    )
    terms = accumulate_gradients(
        forward,
        batches,
        table(case),
        steering.at_step(STEP),
        examples=case.examples,
        step=STEP + 1,
        mismatched=others,
        control=steering.control,
    )
    return terms, flat(model)


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _distributions(
    model: torch.nn.Module, before: tuple[int, ...], text: tuple[int, ...]
) -> Tensor:
    """Log-probabilities over the vocabulary [tokens, V] at each token of a text, from the full
    logits.
    """
    return model(torch.tensor([before + text])).logits.log_softmax(-1)[0, len(before) - 1 : -1]


def scored(model: torch.nn.Module, text: Text) -> tuple[Tensor, tuple[int, ...]]:
    """The distributions at the scored tokens of an answer alone in its row, and these tokens."""
    found = _distributions(model, text.prompt, text.completion)
    turns = text.turns or ((0, len(text.completion)),)
    places = [place for start, stop in turns for place in range(start, stop)]
    return found[places], tuple(text.completion[place] for place in places)


def _of(distributions: Tensor, text: tuple[int, ...]) -> Tensor:
    return distributions.gather(1, torch.tensor(text, dtype=torch.long)[:, None])[:, 0]


def _sums(model: torch.nn.Module, examples: list[TokenizedPair]) -> list[Tensor]:
    """Log-probabilities of both sides, each answer alone."""
    return [torch.stack([_of(*side).sum() for side in both]) for both in _sides(model, examples)]


def _sides(
    model: torch.nn.Module, examples: list[TokenizedPair]
) -> list[list[tuple[Tensor, tuple[int, ...]]]]:
    return [[scored(model, example.texts[side]) for example in examples] for side in (0, 1)]


def _prompts(model: torch.nn.Module, examples: list[TokenizedPair]) -> list[Tensor]:
    sides = [
        [e.prompt_ids for e in examples],
        [e.rejected_prompt_ids or e.prompt_ids for e in examples],
    ]
    return [
        torch.stack([_of(_distributions(model, ids[:1], ids[1:]), ids[1:]).sum() for ids in side])
        for side in sides
    ]


def _prompt_tokens(examples: list[TokenizedPair]) -> tuple[Tensor, Tensor, float]:
    """Tokens of the prompts without the first, of both sides, and chosen's total by weight."""
    chosen = [float(len(e.prompt_ids) - 1) for e in examples]
    rejected = [float(len(e.rejected_prompt_ids or e.prompt_ids) - 1) for e in examples]
    total = sum(e.weight * count for e, count in zip(examples, chosen, strict=True))
    return torch.tensor(chosen).double(), torch.tensor(rejected).double(), total


@torch.no_grad()
def _others(examples: list[TokenizedPair]) -> OtherReferences:
    sides = zip(*(_sums(tiny.model(seed=seed), examples) for seed in FURTHER.values()), strict=True)
    return OtherReferences(*(torch.stack(side, dim=1) for side in sides), WEIGHTS, HELD_OUT_WEIGHTS)


def _tokens(
    model: torch.nn.Module, reference: torch.nn.Module, examples: list[TokenizedPair]
) -> TokenLogps:
    """Every token's value, padded with 0; a token is marked if a longest common run does not
    hold it.
    """

    def padded(rows: list[Tensor]) -> Tensor:
        width = max(map(len, rows))
        return torch.stack([torch.cat([row, row.new_zeros(width - len(row))]) for row in rows])

    found: dict[str, Tensor] = {}
    for whose, asked in (("policy", model), ("ref", reference)):
        for side, rows in zip(("chosen", "rejected"), _sides(asked, examples), strict=True):
            found[f"{whose}_{side}"] = padded([_of(*row) for row in rows])
            if whose == "policy":
                found[f"{side}_log_sum_p2"] = padded([(2 * row).logsumexp(-1) for row, _ in rows])
    found["initial_chosen"] = padded([_of(*row) for row in _sides(tiny.model(seed=1), examples)[0]])
    marks = [difference_marks(*(text.scored for text in e.texts)) for e in examples]
    for side, rows in zip(("chosen", "rejected"), zip(*marks, strict=True), strict=True):
        found[f"{side}_marked"] = padded([torch.tensor(row, dtype=torch.float64) for row in rows])
    return TokenLogps(**found)


def _head_norms(model: torch.nn.Module, weight: Tensor, *sides: Tensor) -> Tensor:
    """Norms of the gradients of both sides' weighted sums in the head, by autograd."""
    norms = []
    for side in sides:
        (found,) = torch.autograd.grad(
            (weight * side).sum(), model.lm_head.weight, retain_graph=True
        )
        norms.append(found.norm())
    return torch.stack(norms)


def textbook(case: Case) -> Tensor:
    """All pairs without padding, log-probabilities from the full logits, one backward."""
    model, known, steering = tiny.model(), table(case), case.steering()
    chosen, rejected = _sums(model, case.examples)
    reference = tiny.model(seed=2)
    with torch.no_grad():
        away = sum(_sums(model, OTHERS)) / 2
        ref_prompts = _prompts(reference, case.examples)
    logps = PairLogps(
        policy_chosen=chosen,
        policy_rejected=rejected,
        ref_chosen=known.references["reference"][CHOSEN],
        ref_rejected=known.references["reference"][REJECTED],
        initial_chosen=known.references["initial"][CHOSEN],
        chosen_tokens=known.tokens[CHOSEN],
        rejected_tokens=known.tokens[REJECTED],
        p_chosen=known.of_items["p_chosen"],
        weight=known.weight,
        pairs_in_step=sum(example.weight for example in case.examples),
        chosen_tokens_in_step=sum(
            example.weight * len(example.texts[0].scored) for example in case.examples
        ),
        score_gap=known.of_items["score_gap"],
        mismatched_logratio=away - known.cross_ref,
        tokens=_tokens(model, reference, case.examples),
        prompts=PromptLogps(
            *_prompts(model, case.examples), *ref_prompts, *_prompt_tokens(case.examples)
        ),
        other_references=_others(case.examples) if case.reads_references else None,
        head_norms=_head_norms(model, known.weight, chosen, rejected),
    )
    objective = steering.control(steering.at_step(STEP), logps)
    values = objective.loss(logps)
    if objective.regularizer is not None:
        values = values + objective.regularizer_weight * objective.regularizer(logps)
    ((values * logps.weight).sum() / logps.weight.sum()).backward()
    return flat(model)


def gradients(rank: int) -> dict[str, Any]:
    """One of two processes: the gradient of every case, with the micro-batches dealt unevenly."""
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        for cut in TOKENS:
            # The first process has one micro-batch of a step; with a single one, the other has
            # none.
            terms, gradient = engine(case, cut, share=lambda number: (number > 0) == (rank > 0))
            found[f"{name}/{cut}"] = [gradient.tolist(), terms.loss.tolist(), terms.items.tolist()]
    return found
