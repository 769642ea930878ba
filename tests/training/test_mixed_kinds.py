"""Pairs, lists and labelled answers in one training: shares, gradients, any cut."""

from collections import Counter
from functools import partial
from itertools import islice
from typing import Any

import pytest
import tiny_training as tiny
import torch
from torch import Tensor

from prefine.losses import bco, dpo, kto, list_mle
from prefine.losses.facts import needs_of
from prefine.losses.kinds import by_kind
from prefine.losses.protocol import LossFunction
from prefine.losses.regularizers.budget import budget
from prefine.training.cross_prompt import cross_prompt_items
from prefine.training.forward.passes import Forward
from prefine.training.objective.gradient import StepTerms, accumulate_gradients
from prefine.training.objective.item_table import ItemTable
from prefine.training.objective.objective import HyperparameterController
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.choose import relation_of
from prefine.training.relations.labels import TokenizedAnswer
from prefine.training.relations.lists import TokenizedList
from prefine.training.relations.pairs import TokenizedPair
from prefine.training.step_sources.share_counts import counts_of_steps, shares_of
from prefine.training.step_sources.shares import Shares

ITEMS: dict[str, list[Any]] = {
    "pairs": tiny.examples(5, seed=3),
    "lists": tiny.lists(4, seed=4),
    "labels": tiny.answers(6, seed=5),
}
LOSSES: dict[str, LossFunction] = {
    "pairs": partial(dpo, beta=0.3),
    "lists": partial(list_mle, beta=0.2),
    "labels": partial(kto, beta=0.5, z0=0.1),
}
COUPLED = LOSSES | {
    "pairs": partial(bco, beta=0.3),
    "labels": partial(kto, beta=0.5, z0="mismatched"),
}
CUTS = (1, 40, 1000)


def gradient(
    items: list[Any], loss: LossFunction, tokens: int, *, regularized: bool = False
) -> tuple[StepTerms, Tensor]:
    """One step on the items and its gradient."""
    model = tiny.model()
    references = {
        "initial": score_completions(Forward(tiny.model(seed=1)), items),
        "reference": score_completions(Forward(tiny.model(seed=2)), items),
    }
    others = cross_prompt_items(items) if "mismatched" in needs_of(loss) else []
    cross_ref = score_completions(Forward(tiny.model(seed=2)), others) if others else None
    if cross_ref is not None:
        counts = torch.tensor([len(item.texts) for item in others])
        cross_ref = torch.stack([part.mean() for part in cross_ref.split(counts.tolist())])
    relation = relation_of([("the loss", loss)])
    table = ItemTable.of(relation, items, references, cross_ref=cross_ref)
    forward = Forward(model, tokens=tokens)
    regularizer = partial(budget, delta=-2.0) if regularized else None
    controller = HyperparameterController(loss, regularizer, 0.7, steps=1)
    terms = accumulate_gradients(
        forward,
        forward.cut(items, range(len(items))),
        table,
        controller.at_step(0),
        examples=items,
        step=1,
        mismatched=forward.cut(others, range(len(others))),
        control=controller.control,
    )
    return terms, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("regularized", [False, True])
@pytest.mark.parametrize("losses", [LOSSES, COUPLED], ids=["local", "coupled"])
def test_the_gradient_is_that_of_the_three_alone_by_their_weights(
    losses: dict[str, LossFunction], regularized: bool
) -> None:
    expected, total = 0, 0.0
    for kind, items in ITEMS.items():
        weight = sum(item.weight for item in items)
        alone = gradient(items, losses[kind], 1000, regularized=regularized)[1]
        expected, total = expected + weight * alone, total + weight
    # In another order than by kind.
    mixed = [item for three in zip(*ITEMS.values(), strict=False) for item in three]
    mixed += [item for items in ITEMS.values() for item in items if item not in mixed]
    assert len(mixed) == 15
    for tokens in CUTS:
        found = gradient(mixed, partial(by_kind, **losses), tokens, regularized=regularized)[1]
        torch.testing.assert_close(found, expected / total, rtol=1e-12, atol=1e-12)


def test_no_step_has_an_item_twice_and_all_come_before_one_comes_again() -> None:
    items = [item for items in ITEMS.values() for item in items]
    weights = {"pairs": 1.0, "lists": 1.0, "labels": 2.0}
    kinds = {"pairs": TokenizedPair, "lists": TokenizedList, "labels": TokenizedAnswer}
    settings = tiny.config(pairs_per_step=6)

    def source() -> Shares:
        prepared: Any = None
        return Shares(items, lambda _: prepared, settings, weights=weights, kinds=kinds)

    one = source()
    # Two, one and two pairs: the third step has the last of five. Lists: one, two, one.
    assert (one.steps_per_epoch, one.steps) == (3, 9)
    steps = [list(one.next(step).indices) for step in range(one.steps)]
    assert all(len(set(step)) == len(step) == 6 for step in steps)
    assert {index for step in steps[:3] for index in step} == set(range(15))
    taken = Counter(index for step in steps for index in step)
    # 13 or 14 pairs, 13 or 14 lists, 27 answers: all of a kind before one comes again.
    assert {taken[index] for index in range(5)} <= {2, 3}
    assert {taken[index] for index in range(5, 9)} <= {3, 4}
    assert {taken[index] for index in range(9, 15)} <= {4, 5}
    # A new source goes on from the step number alone.
    assert [list(source().next(step).indices) for step in (4, 8)] == [steps[4], steps[8]]


def test_shares_are_kept_over_fifty_steps() -> None:
    weights = {"pairs": 3.0, "lists": 1.0, "labels": 1.5}
    counts: Counter[str] = Counter()
    for step in islice(counts_of_steps(shares_of(weights), 10), 50):
        assert sum(step.values()) == 10 and min(step.values()) >= 1
        counts.update(step)
    # 500 items: 3 : 1 : 1.5 of 5.5.
    assert counts == {"pairs": 273, "lists": 91, "labels": 136}
