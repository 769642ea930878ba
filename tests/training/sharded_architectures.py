"""Gradients of many architectures with divided layers, beside those of one process."""

from collections.abc import Iterator
from functools import partial

import tiny_training as tiny
import torch
from architectures import ATTENTION_ONLY, FLOAT32_ONLY
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from prefine.losses import dpo
from prefine.training.distributed.processes import own_items
from prefine.training.distributed.sharded import ShardedLayers
from prefine.training.forward.passes import Forward
from prefine.training.objective.gradient import accumulate_gradients
from prefine.training.objective.item_table import ItemTable
from prefine.training.objective.objective import Objective
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.choose import named_relation

EXAMPLES = tiny.examples()
# Every prompt is a row of its own, so one of the two processes has a pass more than the other.
TOKENS = 1
Values = dict[str, Tensor]


def whole_gradients() -> dict[str, tuple[ItemTable, Values]]:
    """What the initial model says, and the gradient of a step, of each architecture; in a
    process alone.
    """
    found = {}
    for name in ATTENTION_ONLY:
        model = _model(name)
        sides = score_completions(Forward(model), EXAMPLES)
        table = ItemTable.of(named_relation("pairs"), EXAMPLES, {"initial": sides})
        found[name] = table, _gradient(model, table, in_step=False)
    return found


def apart(expected: dict[str, tuple[ItemTable, Values]]) -> Iterator[tuple[str, float]]:
    """How far each gradient with divided layers is from the expected one, relative; inf if
    `join` leaves anything.
    """
    for name, (table, gradient) in expected.items():
        model = _model(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        kinds = [type(module) for module in model.modules()]
        sharded = ShardedLayers(model, reshard=True)
        found = _gradient(model, table, in_step=True)
        sharded.join()
        after = model.state_dict()
        same = after.keys() == before.keys() and all(
            torch.equal(after[key], value) for key, value in before.items()
        )
        same &= kinds == [type(module) for module in model.modules()]
        difference = torch.cat([(found[key] - gradient[key]).flatten() for key in gradient])
        size = torch.cat([value.flatten() for value in gradient.values()])
        yield name, float(difference.norm() / size.norm()) if same else float("inf")


def _model(name: str) -> PreTrainedModel:
    return ATTENTION_ONLY[name](dtype=torch.float32 if name in FLOAT32_ONLY else torch.float64)


def _gradient(model: PreTrainedModel, table: ItemTable, *, in_step: bool) -> Values:
    forward = Forward(model, tokens=TOKENS, in_step=in_step)
    batches = forward.cut(EXAMPLES, own_items(EXAMPLES, range(len(EXAMPLES))))
    objective = Objective(partial(dpo, beta=0.5))
    accumulate_gradients(forward, batches, table, objective, examples=EXAMPLES, step=1)
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return {
        name: one.full_tensor() if isinstance(one, DTensor) else one
        for name, one in gradients.items()
    }
