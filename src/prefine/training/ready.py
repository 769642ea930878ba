"""Before the first step: check and score the items, and make the model's weights trainable."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch

from prefine.config.training import TrainConfig
from prefine.errors import ConfigError
from prefine.losses.facts import bare, needs_of
from prefine.losses.protocol import LossFunction, Need, Reads
from prefine.training import adapter
from prefine.training.distributed import processes
from prefine.training.distributed.weights import TrainableWeights
from prefine.training.forward.passes import Forward
from prefine.training.items import TokenizedItem
from prefine.training.objective.item_table import Compared
from prefine.training.objective.objective import HyperparameterController
from prefine.training.reference.cache import ReferenceCache
from prefine.training.reference.models import ReferenceModel, References
from prefine.training.reference.prepare import (
    PreparedItems,
    ReferenceValues,
    confidence_weights,
    forward_of,
    names_of,
    prepare_items,
    prepare_model,
)
from prefine.training.relations.choose import relation_of
from prefine.training.step_sources.protocol import FollowsPolicy, MakeStepSource, StepSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefine.training.budget.anchors import Anchors
    from prefine.training.budget.climb import DeltaClimb
    from prefine.training.budget.settings import AutomaticBudget
    from prefine.training.budget.steering import BudgetSteering
    from prefine.training.distributed.sharded import ShardedLayers


@dataclass(frozen=True)
class ReadyTraining:
    """A training before its first step.

    Args:
        forward: The passes through the policy.
        weights: What is trained, and its optimizer.
        sharded: The layers that are divided among processes; None where none are.
        source: Gives the items of each step.
        controller: Moves the hyper-parameters of the objective.
        budget: Sets the weight of an automatic budget; None without one.
        climb: Moves the delta of the budget; None where it is set.
        held_out: What is evaluated; None if nothing is.
        watched: What early stopping reads; the same, unless half of it must decide nothing.
        is_own_reference: The policy at step 0 is the reference.
        notes: For the user.
    """

    forward: Forward
    weights: TrainableWeights
    sharded: "ShardedLayers | None"
    source: StepSource
    controller: HyperparameterController
    budget: "BudgetSteering | None"
    climb: "DeltaClimb | None"
    held_out: PreparedItems | None
    watched: PreparedItems | None
    is_own_reference: bool
    notes: Sequence[str]


def prepare_training(
    model: "PreTrainedModel | Callable[[], PreTrainedModel]",
    examples: Sequence[TokenizedItem],
    config: TrainConfig,
    *,
    loss: LossFunction,
    regularizer: LossFunction | None,
    references: Sequence[ReferenceModel],
    held_out: Sequence[TokenizedItem],
    automatic: "AutomaticBudget | None",
    anchors: "Anchors",
    step_source: MakeStepSource,
    cache: ReferenceCache,
    first_policy: ReferenceModel | None = None,
) -> ReadyTraining:
    """Check and score the items, then make the model's weights trainable.

    Args:
        model: The policy with its initial weights, or what loads it; an adapter is attached here.
        examples: The training items.
        config: The settings.
        loss: The loss.
        regularizer: The regularizer, or what an automatic budget puts in its place.
        references: What the losses compare with; they are scored before the policy is loaded.
        held_out: The items that are evaluated; with `automatic`, half of them are its probe.
        automatic: The budget whose weight is set during training.
        anchors: The answers, by kind, that its weight may pull at.
        step_source: Makes what gives the items of each step.
        cache: Where reference values are looked up and kept.
        first_policy: The policy from which falls and budgets count, where that is not the policy
            at step 0; it is scored as a reference is.

    Raises:
        ConfigError: An item is longer than the model reads, or loss and regularizer read different
            relations.
        DataError: An item lacks a value that the loss reads, or there are too few items for a
            budget.
    """
    sets = None
    probe: Sequence[TokenizedItem] = ()
    if automatic is not None:
        # Here and below, not above: few trainings have one.
        from prefine.training.budget.anchors import AnchorSets
        from prefine.training.budget.probe import halves

        probe, held_out = halves(held_out)
        sets = AnchorSets.of(automatic, anchors, per_step=config.pairs_per_step, seed=config.seed)
    all_examples = [*examples, *held_out, *probe, *(() if sets is None else sets.items)]
    # What an automatic budget puts in place of the regularizer reads items of any relation.
    functions = [loss]
    if regularizer is not None and automatic is None:
        functions.append(regularizer)
    named = [(f"the loss {bare(function).__name__!r}", function) for function in functions]
    relation = relation_of(named, _kind_of(examples[0]))
    needs = frozenset[Need]().union(*map(needs_of, functions))
    notes = relation.check_items(named, examples, what=relation.name)
    if config.ches_below is not None:
        from prefine.training.reference.ches import lowest

        # Of the policy: the configuration has no other reference, so no other model is in memory.
        model = _loaded(model)
        prepare_model(model, all_examples, config)
        found, _ = forward_of(model, all_examples, config)
        examples = lowest(examples, cache.ches(found, examples), config.ches_below)
    held_out_notes = relation.check_items(named, held_out, what=f"held-out {relation.name}")
    fixed = References(references, config, needs, cache)
    # With options, a source is a partial of its class.
    on_demand = getattr(getattr(step_source, "func", step_source), "on_demand", False)
    scored_before = [held_out, probe] if on_demand else [examples, held_out, probe]
    fixed.score(scored_before)
    before: References | None = None
    if first_policy is not None:
        before = References([first_policy], config, needs & {"tokens"}, cache)
        before.score(scored_before)
    model = _loaded(model)
    prepare_model(model, all_examples, config)
    torch.manual_seed(config.seed)
    forward, unshared = forward_of(model, all_examples, config, score_prompts="prompt" in needs)
    # The policy at step 0 has the values that are called initial, unless these are another's.
    names = names_of([one.load or first_policy for one in references])
    compared = Compared(names, tuple(one.weight for one in references))
    initial = forward

    unkept = ReferenceCache(None, cache.should_stop)

    def prepared(
        some: Sequence[TokenizedItem],
        *,
        reference: torch.nn.Module | None = None,
        kept: bool = True,
        sampled: bool = False,
    ) -> PreparedItems:
        if not kept:
            cache.reused = False
            relation.check_items(named, some, what=relation.name)
        values: Sequence[ReferenceValues | None]
        if reference is None:
            values = fixed.values(some)
        else:
            moved = replace(initial, model=cast("PreTrainedModel", reference))
            values = replace(fixed, cache=unkept).under(moved, some)
        found = prepare_items(
            relation,
            some,
            initial,
            config,
            needs,
            cache if kept else unkept,
            references=values,
            compared=compared,
            since=None if before is None else before.values(some)[0],
            sampled=sampled,
        )
        return replace(found, forward=forward)

    # Not the untouched half of an automatic budget, which decides nothing.
    telling = [item for item in probe or held_out if _kind_of(item) == "pairs"]
    if "references" in needs and telling:
        compared = replace(
            compared, held_out_weights=confidence_weights(prepared(telling).table, names)
        )
    source = step_source(examples, prepared, config)
    if source.on_demand:
        # Training moves the policy, so what is scored later needs weights of its own.
        initial = replace(forward, model=copy.deepcopy(model).requires_grad_(False))
    evaluated = watched = prepared(held_out, sampled=True) if held_out else None
    budget = None
    if automatic is not None and sets is not None:
        from prefine.training.budget.probe import Probe
        from prefine.training.budget.steering import BudgetSteering

        # Early stopping decides on the probe, so that the untouched half decides nothing.
        watched = prepared(probe)
        assert evaluated is not None, "both halves have items"
        budget = BudgetSteering(automatic, Probe.of(watched), Probe.of(evaluated), sets)
    climb = None
    if automatic is not None and automatic.delta == "auto" and watched is not None:
        if relation.name != "pairs":
            raise ConfigError(
                "train.regularizer.delta: auto compares the rewards of pairs, and the loss reads "
                f"{relation.name}; give a number"
            )
        from prefine.training.budget.climb import DeltaClimb

        climb = DeltaClimb(
            automatic.start,
            automatic.step,
            max(1, source.steps // automatic.looks),
            watched.table.prompts.cpu(),
        )
    # Only after scoring: the reference is the model without the adapter.
    if config.adapter is not None:
        adapter.attach(model, config.adapter, seed=config.seed)
    if isinstance(source, FollowsPolicy):
        source.follow(model)
    controller = HyperparameterController(
        loss,
        regularizer,
        0.0 if config.regularizer_weight == "auto" else config.regularizer_weight,
        steps=source.steps,
    )
    layers: ShardedLayers | None = None
    if (reshard := processes.resharding()) is not None:
        # Each process takes the shares of its own copy.
        processes.check_same_weights(model.parameters(), step=0)
        from prefine.training.distributed import sharded

        layers = sharded.ShardedLayers(model, reshard=reshard)
        forward.in_step = True
    return ReadyTraining(
        forward=forward,
        weights=TrainableWeights.of(model, config),
        sharded=layers,
        source=source,
        controller=controller,
        budget=budget,
        climb=climb,
        held_out=evaluated,
        watched=watched,
        # Rewards have no reference.
        is_own_reference=fixed.are_initial and not forward.gives_rewards,
        notes=[
            *notes,
            *unshared,
            *(f"held-out {relation.name}: {note}" for note in held_out_notes),
        ],
    )


def _loaded(model: "PreTrainedModel | Callable[[], PreTrainedModel]") -> "PreTrainedModel":
    return cast("PreTrainedModel", model if isinstance(model, torch.nn.Module) else model())


def _kind_of(item: TokenizedItem) -> Reads:
    """Return the kind of an item, which decides where a loss reads rewards of any."""
    kinds: Mapping[str, Reads] = {"list": "lists", "answer": "labels"}
    return kinds.get(item.word, "pairs")
