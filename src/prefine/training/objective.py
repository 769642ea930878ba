"""The exact gradient of a step: the weighted mean over its pairs, whatever the micro-batches.

objective = sum of weight * (loss + regularizer_weight * regularizer) / sum of weight
"""

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.errors import NumericsError
from prefine.losses.base import LossFunction, LossKind, Need, PairLogps
from prefine.training.batches import MicroBatch
from prefine.training.examples import Example
from prefine.training.logprobs import ComputeDtype, SideLogps, pair_logps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def bare(function: LossFunction) -> LossFunction:
    """The function that was decorated, under any partials that fill in its hyper-parameters."""
    while isinstance(function, partial):
        function = function.func
    return function


def kind_of(function: LossFunction) -> LossKind:
    """What the function declared itself to be; undeclared is coupled, which is right for every function."""
    kind: LossKind = getattr(bare(function), "kind", "coupled")
    return kind


def needs_of(function: LossFunction) -> frozenset[Need]:
    """Which values beyond the policy's the function declared to read; undeclared is all of them."""
    needs: frozenset[Need] = getattr(bare(function), "needs", frozenset({"reference", "initial"}))
    return needs


def option_of(function: LossFunction, name: str) -> Any:
    """The value a hyper-parameter will have when the function is called, None if it has no such parameter."""
    parameter = inspect.signature(function).parameters.get(name)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


@dataclass(frozen=True)
class Objective:
    """A loss, an optional regularizer and its weight; both local or the whole is coupled."""

    loss: LossFunction
    regularizer: LossFunction | None = None
    regularizer_weight: float = 0.0

    @property
    def kind(self) -> LossKind:
        """Coupled if either part is."""
        parts = [self.loss] if self.regularizer is None else [self.loss, self.regularizer]
        return "coupled" if any(kind_of(part) == "coupled" for part in parts) else "local"

    def terms(self, logps: PairLogps) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Loss and regularizer (unweighted) per pair."""
        loss = self.loss(logps)
        return loss, torch.zeros_like(loss) if self.regularizer is None else self.regularizer(logps)

    def value(self, loss: Float[Tensor, " B"], regularizer: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What is minimised, per pair."""
        # Not `loss + 0 * regularizer`: with weight 0 the run is the run without a regularizer, to the bit.
        return loss if self.regularizer_weight == 0 else loss + self.regularizer_weight * regularizer


@dataclass(frozen=True)
class PairTable:
    """What is known of all n pairs before training; every tensor is [n]."""

    ref_chosen: Float[Tensor, " n"]
    ref_rejected: Float[Tensor, " n"]
    initial_chosen: Float[Tensor, " n"]
    initial_rejected: Float[Tensor, " n"]
    chosen_tokens: Float[Tensor, " n"]
    rejected_tokens: Float[Tensor, " n"]
    p_chosen: Float[Tensor, " n"]
    weight: Float[Tensor, " n"]

    @classmethod
    def of(cls, examples: Sequence[Example], *, initial: SideLogps, reference: SideLogps) -> "PairTable":
        """Join examples with their values under the initial policy and the reference."""

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=initial.chosen.dtype, device=initial.chosen.device)

        return cls(
            ref_chosen=reference.chosen,
            ref_rejected=reference.rejected,
            initial_chosen=initial.chosen,
            initial_rejected=initial.rejected,
            chosen_tokens=column([len(example.chosen_ids) for example in examples]),
            rejected_tokens=column([len(example.rejected_ids) for example in examples]),
            p_chosen=column([example.p_chosen for example in examples]),
            weight=column([example.weight for example in examples]),
        )

    def rows(self, pairs: Int[Tensor, " B"]) -> "PairTable":
        """The same for some of the pairs."""
        return PairTable(**{field.name: getattr(self, field.name)[pairs] for field in fields(self)})

    def join(self, policy: SideLogps, *, pairs_in_step: int, chosen_tokens_in_step: int) -> PairLogps:
        """The pairs of this table with the policy's current values."""
        return PairLogps(
            policy_chosen=policy.chosen,
            policy_rejected=policy.rejected,
            ref_chosen=self.ref_chosen,
            ref_rejected=self.ref_rejected,
            initial_chosen=self.initial_chosen,
            chosen_tokens=self.chosen_tokens,
            rejected_tokens=self.rejected_tokens,
            p_chosen=self.p_chosen,
            weight=self.weight,
            pairs_in_step=pairs_in_step,
            chosen_tokens_in_step=chosen_tokens_in_step,
        )


@dataclass(frozen=True)
class StepTerms:
    """What a step saw before its update: indices of its pairs, their values, loss and regularizer, all detached."""

    pairs: Int[Tensor, " B"]
    table: PairTable
    logps: PairLogps
    loss: Float[Tensor, " B"]
    regularizer: Float[Tensor, " B"]


def accumulate_gradients(
    model: "PreTrainedModel",
    batches: Sequence[MicroBatch],
    table: PairTable,
    objective: Objective,
    *,
    examples: Sequence[Example],
    step: int,
    dtype: ComputeDtype = "float32",
) -> StepTerms:
    """Add the gradient of the step's objective to the parameters' `.grad`.

    Args:
        model: The policy.
        batches: All micro-batches of the step.
        table: All pairs, indexed by `MicroBatch.pairs`.
        objective: What is minimised.
        examples: All examples, for their ids in messages.
        step: Its number, for messages.
        dtype: What the layers compute in.

    Raises:
        NumericsError: A pair's loss or regularizer is not finite.
    """
    pairs = torch.cat([batch.pairs for batch in batches])
    rows = table.rows(pairs)
    totals = {"pairs_in_step": len(pairs), "chosen_tokens_in_step": int(rows.chosen_tokens.sum())}
    share = rows.weight / rows.weight.sum()
    sizes = [len(batch.pairs) for batch in batches]
    coupled = objective.kind == "coupled"

    def checked(logps: PairLogps, of: Tensor) -> tuple[Tensor, Tensor]:
        loss, regularizer = objective.terms(logps)
        bad = ~(loss.detach().isfinite() & regularizer.detach().isfinite())
        if bad.any():
            ids = [examples[int(index)].id for index in of[bad]]
            raise NumericsError(
                f"step {step}: the loss of {len(ids)} of {len(of)} pairs is not finite; no update was made. "
                f"Pairs: {', '.join(ids[:8])}. Lower the learning rate, or look at these pairs"
            )
        return loss, regularizer

    parts: list[tuple[Tensor, ...]] = []
    with torch.no_grad() if coupled else nullcontext():
        for batch, index, part in zip(batches, pairs.split(sizes), share.split(sizes), strict=True):
            policy = pair_logps(model, batch, dtype=dtype)
            if coupled:
                parts.append((policy.chosen, policy.rejected))
                continue
            loss, regularizer = checked(table.rows(index).join(policy, **totals), index)
            (objective.value(loss, regularizer) * part).sum().backward()
            parts.append(tuple(t.detach() for t in (policy.chosen, policy.rejected, loss, regularizer)))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    values = SideLogps(columns[0], columns[1])

    if coupled:
        leaves = SideLogps(values.chosen.clone().requires_grad_(), values.rejected.clone().requires_grad_())
        loss, regularizer = checked(rows.join(leaves, **totals), pairs)
        total = (objective.value(loss, regularizer) * share).sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        for batch, d_chosen, d_rejected in zip(batches, *(g.split(sizes) for g in gradients), strict=True):
            policy = pair_logps(model, batch, dtype=dtype)
            torch.autograd.backward([policy.chosen, policy.rejected], [d_chosen, d_rejected])
        columns += [loss.detach(), regularizer.detach()]

    return StepTerms(pairs, rows, rows.join(values, **totals), columns[2], columns[3])
