"""Losses of lists and labelled answers on the tiny model: the engine's gradient of a step in any
cut, and the textbook's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import tiny_training as tiny
import torch
from torch import Tensor

from prefine.losses import (
    ListLogps,
    PointLogps,
    all_pairs,
    approx_ndcg,
    bco_unpaired,
    best_vs_rest,
    dpo,
    dro,
    ipo,
    kto,
    lambda_rank,
    list_mle,
    list_net,
    nca_list,
    neural_ndcg,
    sppo_list,
)
from prefine.losses.facts import needs_of
from prefine.losses.kinds import by_kind
from prefine.losses.protocol import LossFunction, declare
from prefine.training.cross_prompt import cross_prompt_items
from prefine.training.forward.passes import Forward
from prefine.training.objective.gradient import StepTerms, accumulate_gradients
from prefine.training.objective.item_table import ItemTable
from prefine.training.objective.objective import HyperparameterController
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.choose import relation_of
from prefine.training.relations.labels import TokenizedAnswer
from prefine.training.relations.lists import TokenizedList

BETA, Z0, WEIGHTS = 0.3, 0.4, (1.2, 0.7)
COUNT = 7
PARTNERS = (2, 2, 4, 4, 6, 6, 0)
"""The next answer to another prompt of each of the seven answers."""
TOKENS = (1, 40, 1000)
"""Limits of a row: one prompt in each, a few, all in one."""


@declare(kind="coupled", reads="lists")
def centred_lists(logps: ListLogps) -> Tensor:
    """A loss whose value for a list depends on all lists of the step."""
    best = logps.logratio[:, 0]
    return (best - best.mean()).square()


@declare(kind="coupled", reads="labels")
def centred_answers(logps: PointLogps) -> Tensor:
    """The same of labelled answers."""
    return logps.desirable * (logps.logratio - logps.logratio.mean()).square()


def _list_mle(items: Any, rewards: list[Tensor]) -> list[Tensor]:
    """-log of the product of the draws, each among the answers that are not better."""
    values = []
    for item, reward in zip(items, rewards, strict=True):
        value = torch.zeros((), dtype=torch.float64)
        for k, rank in enumerate(item.ranks):
            rivals = [reward[j] for j, other in enumerate(item.ranks) if other >= rank]
            value = value - (reward[k].exp() / torch.stack(rivals).exp().sum()).log()
        values.append(value)
    return values


def _kto(items: Any, rewards: list[Tensor], z0: float = Z0) -> list[Tensor]:
    values = []
    for item, reward in zip(items, rewards, strict=True):
        shifted = reward[0] - BETA * z0
        good, bad = 1 / (1 + (-shifted).exp()), 1 / (1 + shifted.exp())
        values.append(WEIGHTS[0] * (1 - good) if item.desirable else WEIGHTS[1] * (1 - bad))
    return values


def _kto_of_the_step(items: Any, rewards: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    mean = float(torch.cat(other).mean()) / BETA
    assert mean > 0.1, "clamped, it would be no other case than z0 = 0"
    return _kto(items, rewards, max(0.0, mean))


def _bco(items: Any, rewards: list[Tensor]) -> list[Tensor]:
    delta = float(torch.cat(rewards).detach().mean())
    return [
        (1 + ((delta - reward[0]) * (1 if item.desirable else -1)).exp()).log()
        for item, reward in zip(items, rewards, strict=True)
    ]


def _centred_lists(items: Any, rewards: list[Tensor]) -> list[Tensor]:
    best = [reward[0] / BETA for reward in rewards]
    mean = torch.stack(best).mean()
    return [(one - mean) ** 2 for one in best]


def _centred_answers(items: Any, rewards: list[Tensor]) -> list[Tensor]:
    values = _centred_lists(items, rewards)
    return [value * item.desirable for value, item in zip(values, items, strict=True)]


def _alone(loss: LossFunction) -> Callable[[Any, list[Tensor]], list[Tensor]]:
    """The loss of each list by itself, of log-ratios that are known."""

    def values(items: Any, rewards: list[Tensor]) -> list[Tensor]:
        found = []
        for item, reward in zip(items, rewards, strict=True):
            ratio = reward[None] / BETA
            zero, one = torch.zeros_like(ratio), torch.ones_like(ratio)
            rank = torch.tensor([item.ranks], dtype=ratio.dtype)
            logps = ListLogps(ratio, zero, zero, one, rank, zero, one == 1, one[:, 0], 1.0)
            found.append(loss(logps)[0])
        return found

    return values


KTO = partial(kto, beta=BETA, z0=Z0, desirable_weight=WEIGHTS[0], undesirable_weight=WEIGHTS[1])
OF_LISTS: dict[str, LossFunction] = {
    "neural_ndcg": partial(neural_ndcg, beta=BETA, labels="ranks"),
    "approx_ndcg": partial(approx_ndcg, beta=BETA, alpha=2.0, labels="ranks"),
    "lambda_rank": partial(lambda_rank, beta=BETA, labels="ranks", gain="raw", reduction="sum"),
    "list_net": partial(list_net, beta=BETA, labels="ranks"),
    "all_pairs": partial(all_pairs, loss=partial(dpo, beta=BETA)),
    "best_vs_rest": partial(best_vs_rest, loss=partial(ipo, beta=BETA, average="sum")),
    "sppo_list": partial(sppo_list, beta=BETA, labels="ranks"),
    "nca_list": partial(nca_list, beta=BETA, labels="ranks"),
    "dro": partial(dro, tau=0.6, labels="ranks"),
}


def _mixed(items: Any, rewards: list[Tensor]) -> list[Tensor]:
    """The loss of each item's kind."""
    values = []
    for item, reward in zip(items, rewards, strict=True):
        if isinstance(item, TokenizedAnswer):
            values += _kto([item], [reward])
        elif isinstance(item, TokenizedList):
            values += _list_mle([item], [reward])
        else:
            values.append((1 + (reward[1] - reward[0]).exp()).log())
    return values


@dataclass(frozen=True)
class ItemCase:
    """A loss, its items, and its values from beta * log-ratio of each completion.

    They are given those of answers to other prompts, too, if the loss reads them.
    """

    loss: LossFunction
    reads: Any
    items: Sequence[Any]
    values: Callable[..., list[Tensor]]

    @property
    def reads_others(self) -> bool:
        return "mismatched" in needs_of(self.loss)


CASES = {
    "list_mle": ItemCase(partial(list_mle, beta=BETA), "lists", tiny.lists(COUNT), _list_mle),
    **{
        name: ItemCase(loss, "lists", tiny.lists(COUNT), _alone(loss))
        for name, loss in OF_LISTS.items()
    },
    "kto": ItemCase(KTO, "labels", tiny.answers(COUNT), _kto),
    "mixed": ItemCase(
        partial(
            by_kind,
            pairs=partial(dpo, beta=BETA),
            lists=partial(list_mle, beta=BETA),
            labels=KTO,
        ),
        "mixed",
        [
            item
            for kinds in zip(tiny.examples(3), tiny.lists(3), tiny.answers(3), strict=True)
            for item in kinds
        ][:COUNT],
        _mixed,
    ),
    "kto-mismatched": ItemCase(
        partial(
            kto,
            beta=BETA,
            z0="mismatched",
            desirable_weight=WEIGHTS[0],
            undesirable_weight=WEIGHTS[1],
        ),
        "labels",
        tiny.answers(COUNT, seed=1),
        _kto_of_the_step,
    ),
    "bco_unpaired": ItemCase(partial(bco_unpaired, beta=BETA), "labels", tiny.answers(COUNT), _bco),
    "lists-coupled": ItemCase(centred_lists, "lists", tiny.lists(COUNT), _centred_lists),
    "labels-coupled": ItemCase(centred_answers, "labels", tiny.answers(COUNT), _centred_answers),
}


def engine(
    case: ItemCase,
    tokens: int,
    *,
    shared: bool = True,
    share: Callable[[int], bool] = lambda number: True,
) -> tuple[StepTerms, Tensor]:
    """One step by the engine and its gradient; `share` picks this process's micro-batches."""
    model = tiny.model()
    references = {
        "initial": score_completions(Forward(tiny.model(seed=1)), case.items),
        "reference": score_completions(Forward(tiny.model(seed=2)), case.items),
    }
    others = cross_prompt_items(case.items) if case.reads_others else []
    cross_ref = score_completions(Forward(tiny.model(seed=2)), others) if others else None
    relation = relation_of([("the loss", case.loss)])
    table = ItemTable.of(relation, case.items, references, cross_ref=cross_ref)
    forward = Forward(model, shared=shared, tokens=tokens)
    batches, mismatched = (
        [b for number, b in enumerate(forward.cut(some, range(len(some)))) if share(number)]
        for some in (case.items, others)
    )
    steering = HyperparameterController(case.loss, steps=1)
    terms = accumulate_gradients(
        forward,
        batches,
        table,
        steering.at_step(0),
        examples=case.items,
        step=1,
        mismatched=mismatched,
        control=steering.control,
    )
    return terms, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _rewards(model: Any, items: Sequence[Any]) -> list[Tensor]:
    """BETA times the log-probability of each completion, alone in its row."""
    found = []
    for item in items:
        sums = []
        for prompt, completion, turns in item.texts:
            logps = model(torch.tensor([prompt + completion])).logits.log_softmax(-1)[0]
            ids = torch.tensor(completion)[:, None]
            found_logps = logps[len(prompt) - 1 : -1].gather(1, ids)
            scored = turns or [(0, len(completion))]
            sums.append(sum(found_logps[start:stop].sum() for start, stop in scored))
        found.append(BETA * torch.stack(sums))
    return found


def textbook(case: ItemCase) -> Tensor:
    """Log-probabilities from the full logits, values from the formula, one backward."""
    model, reference = tiny.model(), tiny.model(seed=2)

    def rewards(items: Sequence[Any]) -> list[Tensor]:
        with torch.no_grad():
            before = _rewards(reference, items)
        return [a - b for a, b in zip(_rewards(model, items), before, strict=True)]

    given = [rewards(case.items)]
    if case.reads_others:
        moved = [
            replace(case.items[partner], prompt_ids=item.prompt_ids)
            for item, partner in zip(case.items, PARTNERS, strict=True)
        ]
        with torch.no_grad():
            given.append(rewards(moved))
    values = torch.stack(case.values(case.items, *given))
    weight = torch.tensor([item.weight for item in case.items], dtype=torch.float64)
    ((values * weight).sum() / weight.sum()).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def item_gradients(rank: int) -> dict[str, Any]:
    """One of two processes: the gradient of every case, with the micro-batches dealt unevenly."""
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        for cut in TOKENS:
            terms, gradient = engine(case, cut, share=lambda number: (number > 0) == (rank > 0))
            found[f"{name}/{cut}"] = [gradient.tolist(), terms.loss.tolist()]
    return found
