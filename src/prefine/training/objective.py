"""The exact gradient of a step: the weighted mean over its pairs, whatever the micro-batches.

objective = sum of weight * (loss + regularizer_weight * regularizer) / sum of weight
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

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


class StepTotals(NamedTuple):
    """What a loss that averages over the step divides by."""

    pairs: int
    chosen_tokens: int


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

    def rows(self, pairs: Int[Tensor, " B"] | slice) -> "PairTable":
        """The same for some of the pairs."""
        return PairTable(**{field.name: getattr(self, field.name)[pairs] for field in fields(self)})

    def totals(self) -> "StepTotals":
        """The totals of a step that consists of these pairs."""
        return StepTotals(len(self.weight), int(self.chosen_tokens.sum()))

    def join(self, policy: SideLogps, totals: "StepTotals") -> PairLogps:
        """The pairs of this table with the policy's current values; `totals` are those of their whole step."""
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
            pairs_in_step=totals.pairs,
            chosen_tokens_in_step=totals.chosen_tokens,
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
    checked = _Checked(objective, [examples[int(index)].id for index in pairs], step)
    push = _accumulate_coupled if objective.kind == "coupled" else _accumulate_local
    logps, loss, regularizer = push(model, batches, rows, checked, dtype)
    return StepTerms(pairs, rows, logps, loss, regularizer)


_Accumulated = tuple[PairLogps, Tensor, Tensor]


@dataclass(frozen=True)
class _Checked:
    """The terms of some of a step's pairs, refused if not finite."""

    objective: Objective
    ids: list[str]
    step: int

    def __call__(self, logps: PairLogps, part: slice) -> tuple[Tensor, Tensor]:
        loss, regularizer = self.objective.terms(logps)
        bad = ~(loss.detach().isfinite() & regularizer.detach().isfinite())
        if bad.any():
            ids = [self.ids[part][index] for index in bad.nonzero().flatten().tolist()]
            raise NumericsError(
                f"step {self.step}: the loss of {len(ids)} of {len(bad)} pairs is not finite; no update was made. "
                f"Pairs: {', '.join(ids[:8])}. Lower the learning rate, or look at these pairs"
            )
        return loss, regularizer


def _accumulate_local(
    model: "PreTrainedModel",
    batches: Sequence[MicroBatch],
    rows: PairTable,
    checked: _Checked,
    dtype: ComputeDtype,
) -> _Accumulated:
    """One pass: each micro-batch pushes its share of the step's mean."""
    totals = rows.totals()
    share = rows.weight / rows.weight.sum()
    columns: list[tuple[Tensor, ...]] = []
    for batch, part in zip(batches, _parts(batches), strict=True):
        policy = pair_logps(model, batch, dtype=dtype)
        loss, regularizer = checked(rows.rows(part).join(policy, totals), part)
        # Torch's own method is not annotated.
        (checked.objective.value(loss, regularizer) * share[part]).sum().backward()  # type: ignore[no-untyped-call]
        columns.append(tuple(t.detach() for t in (policy.chosen, policy.rejected, loss, regularizer)))
    chosen, rejected, losses, regularizers = (torch.cat(column) for column in zip(*columns, strict=True))
    return rows.join(SideLogps(chosen, rejected), totals), losses, regularizers


def _accumulate_coupled(
    model: "PreTrainedModel",
    batches: Sequence[MicroBatch],
    rows: PairTable,
    checked: _Checked,
    dtype: ComputeDtype,
) -> _Accumulated:
    """Two passes: the objective's gradient in the [B] log-probabilities of the whole step, then through the model."""
    totals = rows.totals()
    with torch.no_grad():
        sides = [pair_logps(model, batch, dtype=dtype) for batch in batches]
    values = SideLogps(*(torch.cat(side) for side in zip(*sides, strict=True)))
    leaves = SideLogps(values.chosen.clone().requires_grad_(), values.rejected.clone().requires_grad_())
    loss, regularizer = checked(rows.join(leaves, totals), slice(None))
    total = (checked.objective.value(loss, regularizer) * rows.weight).sum() / rows.weight.sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    for batch, part in zip(batches, _parts(batches), strict=True):
        policy = pair_logps(model, batch, dtype=dtype)
        torch.autograd.backward([policy.chosen, policy.rejected], [gradient[part] for gradient in gradients])
    return rows.join(values, totals), loss.detach(), regularizer.detach()


def _parts(batches: Sequence[MicroBatch]) -> list[slice]:
    """Where each micro-batch's pairs lie among the step's."""
    ends = list(accumulate(len(batch.pairs) for batch in batches))
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
