"""Objectives on the tiny model, their gradient by the engine in any cut of the step, and the textbook's."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tiny_training as tiny
import torch
from torch import Tensor
from torch import distributed as dist

from prefine.losses import aot, aot_unpaired, bco, beta_dpo, dpo, ipo, kto_pair, mixture, odpo, simpo, sppo
from prefine.losses.base import LossFunction, PairLogps, declare
from prefine.regularizers import budget, nll, step_budget
from prefine.schedules import Schedule
from prefine.training.forward import Forward
from prefine.training.mismatched import mismatched_examples
from prefine.training.objective import StepTerms, accumulate_gradients
from prefine.training.reference import score_sides
from prefine.training.steering import Steering
from prefine.training.table import PairTable

EXAMPLES = tiny.examples()
OTHERS = mismatched_examples(EXAMPLES)
STEP, STEPS = 3, 9
TOKENS = (1, 40, 1000)
"""Limits of a row: one prompt in each, a few, all in one."""


@declare(kind="coupled")
def centred(logps: PairLogps, *, scale: float = 0.3) -> Tensor:
    """A loss whose value for a pair depends on all pairs of the step."""
    gap = logps.policy_chosen - logps.policy_rejected
    return torch.nn.functional.softplus(-scale * (gap - gap.mean())) + 0.01 * gap.square()


@dataclass(frozen=True)
class Case:
    """An objective, its hyper-parameters possibly moving."""

    loss: LossFunction
    regularizer: LossFunction | None = None
    weight: float | Schedule = 0.0

    def steering(self) -> Steering:
        return Steering(self.loss, self.regularizer, self.weight, steps=STEPS)


def _moving(start: float, end: float, schedule: Any = "cosine") -> Any:
    return Schedule(schedule=schedule, start=start, end=end)


MPO = partial(
    mixture, losses=(dpo, partial(bco, beta=0.3), partial(nll, reduction="token_mean")), weights=(0.8, 0.2, 1.0)
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
    "aot_unpaired+nll": Case(partial(aot_unpaired, beta=0.3), partial(nll, reduction="token_mean"), 0.1),
    "beta_dpo": Case(partial(beta_dpo, rho=0.4, seed=3)),
    "kto_pair": Case(partial(kto_pair, beta=0.4, undesirable_weight=1.3)),
    "bco": Case(partial(bco, beta=0.4)),
    "dpo+step_budget": Case(dpo, partial(step_budget, delta=-1.0), 0.7),
    "mixture": Case(MPO, budget, 0.1),
    "scheduled": Case(
        partial(dpo, beta=_moving(0.5, 0.05)), partial(budget, delta=_moving(-2.0, 1.0)), _moving(0.0, 1.0, "linear")
    ),
    "scheduled-coupled": Case(
        partial(mixture, losses=(partial(beta_dpo, beta=_moving(0.5, 0.1)), ipo), weights=(1.0, _moving(0.2, 0.1))),
        partial(step_budget, delta=_moving(-3.0, -1.0, "linear"), per="token"),
        0.3,
    ),
}


def table() -> PairTable:
    """The initial policy and the reference are other models than the one that is trained."""
    reference = tiny.model(seed=2)
    away = score_sides(Forward(reference), OTHERS)
    return PairTable.of(
        EXAMPLES,
        initial=score_sides(Forward(tiny.model(seed=1)), EXAMPLES),
        reference=score_sides(Forward(reference), EXAMPLES),
        mismatched_ref=(away.chosen + away.rejected) / 2,
    )


def engine(
    case: Case, tokens: int, *, shared: bool = True, share: Callable[[int], bool] = lambda number: True
) -> tuple[StepTerms, Tensor]:
    """One step by the engine and its gradient; `share` picks this process's micro-batches."""
    model, steering = tiny.model(), case.steering()
    forward = Forward(model, shared=shared, tokens=tokens)
    batches, others = (
        [b for number, b in enumerate(forward.cut(some, range(len(EXAMPLES)))) if share(number)]
        for some in (EXAMPLES, OTHERS)
    )
    terms = accumulate_gradients(
        forward,
        batches,
        table(),
        steering.at(STEP),
        examples=EXAMPLES,
        step=STEP + 1,
        mismatched=others,
        control=steering.control,
    )
    return terms, flat(model)


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _sums(model: torch.nn.Module, examples: list[Any]) -> list[Tensor]:
    """Log-probabilities of both sides, each answer alone, from the full logits."""
    sides = []
    for side in ("chosen_ids", "rejected_ids"):
        values = []
        for example in examples:
            completion = getattr(example, side)
            ids = torch.tensor([example.prompt_ids + completion])
            logps = model(ids).logits.log_softmax(-1)[0, len(example.prompt_ids) - 1 : -1]
            values.append(logps.gather(1, torch.tensor(completion)[:, None]).sum())
        sides.append(torch.stack(values))
    return sides


def textbook(case: Case) -> Tensor:
    """All pairs without padding, log-probabilities from the full logits, one backward."""
    model, known, steering = tiny.model(), table(), case.steering()
    chosen, rejected = _sums(model, EXAMPLES)
    with torch.no_grad():
        away = sum(_sums(model, OTHERS)) / 2
    logps = PairLogps(
        policy_chosen=chosen,
        policy_rejected=rejected,
        ref_chosen=known.ref_chosen,
        ref_rejected=known.ref_rejected,
        initial_chosen=known.initial_chosen,
        chosen_tokens=known.chosen_tokens,
        rejected_tokens=known.rejected_tokens,
        p_chosen=known.p_chosen,
        weight=known.weight,
        pairs_in_step=sum(example.weight for example in EXAMPLES),
        chosen_tokens_in_step=sum(example.weight * len(example.chosen_ids) for example in EXAMPLES),
        score_gap=known.score_gap,
        mismatched_logratio=away - known.mismatched_ref,
    )
    objective = steering.control(steering.at(STEP), logps)
    values = objective.loss(logps)
    if objective.regularizer is not None:
        values = values + objective.regularizer_weight * objective.regularizer(logps)
    ((values * logps.weight).sum() / logps.weight.sum()).backward()
    return flat(model)


def main(rank: int, world: int, rendezvous: str, out: str) -> None:
    """One of several processes: the gradient of every case, with the micro-batches dealt unevenly."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        for cut in TOKENS:
            # The first process has one micro-batch of a step; with a single one, the others have none.
            terms, gradient = engine(case, cut, share=lambda number: (number > 0) == (rank > 0))
            found[f"{name}/{cut}"] = [gradient.tolist(), terms.loss.tolist(), terms.pairs.tolist()]
    Path(out).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
