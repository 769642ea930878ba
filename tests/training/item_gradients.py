"""Losses of lists and labelled answers on the tiny model: the engine's gradient of a step in any
cut, and the textbook's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    best_vs_rest,
    dpo,
    ipo,
    kto,
    lambda_rank,
    list_mle,
    list_net,
    nca_list,
    neural_ndcg,
    sppo_list,
)
from prefine.losses.kinds import by_kind
from prefine.losses.protocol import LossFunction, declare
from prefine.training.forward.passes import Forward
from prefine.training.objective.gradient import StepTerms, accumulate_gradients
from prefine.training.objective.item_table import ItemTable
from prefine.training.objective.objective import Objective
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.choose import relation_of
from prefine.training.relations.labels import TokenizedAnswer
from prefine.training.relations.lists import TokenizedList

BETA, Z0, WEIGHTS = 0.3, 0.4, (1.2, 0.7)
COUNT = 7
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


def _kto(items: Any, rewards: list[Tensor]) -> list[Tensor]:
    values = []
    for item, reward in zip(items, rewards, strict=True):
        shifted = reward[0] - BETA * Z0
        good, bad = 1 / (1 + (-shifted).exp()), 1 / (1 + shifted.exp())
        values.append(WEIGHTS[0] * (1 - good) if item.desirable else WEIGHTS[1] * (1 - bad))
    return values


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
    """A loss, its items, and its values from beta * log-ratio of each completion."""

    loss: LossFunction
    reads: Any
    items: Sequence[Any]
    values: Callable[[Any, list[Tensor]], list[Tensor]]


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
    table = ItemTable.of(relation_of([("the loss", case.loss)]), case.items, references)
    forward = Forward(model, shared=shared, tokens=tokens)
    batches = forward.cut(case.items, range(COUNT))
    terms = accumulate_gradients(
        forward,
        [batch for number, batch in enumerate(batches) if share(number)],
        table,
        Objective(case.loss),
        examples=case.items,
        step=1,
    )
    return terms, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _rewards(model: Any, case: ItemCase) -> list[Tensor]:
    """BETA times the log-probability of each completion, alone in its row."""
    found = []
    for item in case.items:
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
    model = tiny.model()
    with torch.no_grad():
        reference = _rewards(tiny.model(seed=2), case)
    rewards = [a - b for a, b in zip(_rewards(model, case), reference, strict=True)]
    values = torch.stack(case.values(case.items, rewards))
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
