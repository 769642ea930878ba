"""The exact gradient of a step: the weighted mean over its pairs, whatever the micro-batches and processes.

objective = sum of weight * (loss + regularizer_weight * regularizer) / sum of weight
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.errors import NumericsError
from prefine.losses.base import LossFunction, LossKind, Need, PairLogps
from prefine.losses.facts import kind_of, needs_of, per_pair
from prefine.training.examples import Example
from prefine.training.forward import Forward
from prefine.training.processes import add_up_gradients, gather
from prefine.training.rows import Rows, Span
from prefine.training.table import PairTable, SideLogps
from prefine.training.token_values import TokenValues, segment_sums


@dataclass(frozen=True)
class Objective:
    """A loss, an optional regularizer and its weight, every hyper-parameter a number."""

    loss: LossFunction
    regularizer: LossFunction | None = None
    regularizer_weight: float = 0.0

    @property
    def kind(self) -> LossKind:
        """Coupled if either part is."""
        parts = [self.loss] if self.regularizer is None else [self.loss, self.regularizer]
        return "coupled" if any(kind_of(part) == "coupled" for part in parts) else "local"

    @property
    def needs(self) -> frozenset[Need]:
        """What either part reads."""
        return needs_of(self.loss) | (frozenset() if self.regularizer is None else needs_of(self.regularizer))

    def terms(self, logps: PairLogps) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Loss and regularizer (unweighted) per pair."""
        loss = self.loss(logps)
        return loss, torch.zeros_like(loss) if self.regularizer is None else self.regularizer(logps)

    def value(self, loss: Float[Tensor, " B"], regularizer: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What is minimised, per pair."""
        # Not `loss + 0 * regularizer`: with weight 0 the run is the run without a regularizer, to the bit.
        return loss if self.regularizer_weight == 0 else loss + self.regularizer_weight * regularizer


Control = Callable[[Objective, PairLogps], Objective]
"""What gives an objective the hyper-parameters that depend on the values of the whole step, see `Steering`."""


@dataclass(frozen=True)
class StepTerms:
    """What a step saw before its update, all detached: indices of its pairs in ascending order, and their values.

    `objective` is the one that was minimised, with the hyper-parameters of this step.
    """

    pairs: Int[Tensor, " B"]
    table: PairTable
    logps: PairLogps
    loss: Float[Tensor, " B"]
    regularizer: Float[Tensor, " B"]
    objective: Objective


def accumulate_gradients(
    forward: Forward,
    batches: Sequence[Rows],
    table: PairTable,
    objective: Objective,
    *,
    examples: Sequence[Example],
    step: int,
    mismatched: Sequence[Rows] = (),
    control: Control | None = None,
) -> StepTerms:
    """Add the gradient of the step's objective to the parameters' `.grad`.

    With several processes (an initialised `torch.distributed`), each is given its share of the rows, and all end with
    the whole step's gradient; `.grad` must be empty before.

    Args:
        forward: The passes through the policy.
        batches: The rows of the step, or this process's share of them.
        table: All pairs, indexed by `Rows.pairs`.
        objective: What is minimised.
        examples: All examples, for their ids in messages.
        step: Its number, for messages.
        mismatched: The same pairs' prompts with other pairs' completions, if a loss reads them.
        control: Called once with the whole step's values if the objective is coupled.

    Raises:
        NumericsError: A pair's loss or regularizer is not finite.
    """
    run = _Step(forward, table, objective, [example.id for example in examples], step)
    terms = run.local(batches) if objective.kind == "local" else run.coupled(batches, mismatched, control)
    add_up_gradients(forward.model.parameters())
    return terms


def sides_of(rows: Rows, span: Span, logps: Float[Tensor, " n"]) -> SideLogps:
    """Summed log-probabilities of both sides of a span's pairs, from those of its tokens."""
    sums = segment_sums(logps, rows.lengths[span.completions].to(logps.device))
    chosen, rejected = (side[span.pairs] - span.completions.start for side in (rows.chosen, rows.rejected))
    return SideLogps(sums[chosen.to(logps.device)], sums[rejected.to(logps.device)])


class _Values(NamedTuple):
    """The summed log-probabilities of all pairs of a step, by ascending index."""

    pairs: Int[Tensor, " B"]
    sides: SideLogps


@dataclass(frozen=True)
class _Step:
    """What both ways through a step share."""

    forward: Forward
    table: PairTable
    objective: Objective
    ids: list[str]
    number: int

    def local(self, batches: Sequence[Rows]) -> StepTerms:
        """One pass: as soon as a pair's log-probabilities are known, its share of the step's mean is pushed."""
        own = self._pairs(batches)
        pairs = gather(own).sort().values
        whole = self.table.rows(pairs)
        totals, weights = whole.totals(), whole.weight.sum()
        parts: list[tuple[Tensor, ...]] = []

        def coefficients(rows: Rows, span: Span, values: TokenValues) -> Tensor:
            known = self.table.rows(rows.pairs[span.pairs].to(weights.device))
            with torch.enable_grad():
                leaf = values.logps.detach().requires_grad_()
                policy = sides_of(rows, span, leaf)
                loss, regularizer = self._checked(self.objective, known.join(policy, totals), rows.pairs[span.pairs])
                total = (self.objective.value(loss, regularizer) * known.weight / weights).sum()
                (gradient,) = torch.autograd.grad(total, leaf)
            parts.append(tuple(t.detach() for t in (*policy, loss, regularizer)))
            return gradient

        for rows in batches:
            self.forward.push(rows, partial(coefficients, rows))
        chosen, rejected, losses, regularizers = _whole(own, parts, columns=4, like=whole.weight)
        logps = whole.join(SideLogps(chosen, rejected), totals)
        return StepTerms(pairs, whole, logps, losses, regularizers, self.objective)

    def coupled(self, batches: Sequence[Rows], mismatched: Sequence[Rows], control: Control | None) -> StepTerms:
        """Two passes: the objective's gradient in the [B] log-probabilities of the step, then through the model."""
        pairs, values = self._values(batches)
        whole = self.table.rows(pairs)
        other = self._values(mismatched).sides if "mismatched" in self.objective.needs else None
        away = None if other is None else (other.chosen + other.rejected) / 2
        totals = whole.totals()
        seen = whole.join(values, totals, mismatched=away)
        objective = self.objective if control is None else control(self.objective, seen)
        leaves = SideLogps(values.chosen.clone().requires_grad_(), values.rejected.clone().requires_grad_())
        loss, regularizer = self._checked(objective, whole.join(leaves, totals, mismatched=away), pairs)
        total = (objective.value(loss, regularizer) * whole.weight).sum() / whole.weight.sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)

        def coefficients(rows: Rows, span: Span, values: TokenValues) -> Tensor:
            at = torch.searchsorted(pairs, rows.pairs[span.pairs].to(pairs.device))
            with torch.enable_grad():
                leaf = values.logps.detach().requires_grad_()
                found = torch.autograd.grad(sides_of(rows, span, leaf), leaf, [gradient[at] for gradient in gradients])
            return found[0]

        for rows in batches:
            self.forward.push(rows, partial(coefficients, rows))
        return StepTerms(pairs, whole, seen, loss.detach(), regularizer.detach(), objective)

    def _values(self, batches: Sequence[Rows]) -> _Values:
        own = self._pairs(batches)
        sides = [sides_of(rows, rows.whole, self.forward.values(rows).logps) for rows in batches]
        chosen, rejected = _whole(own, sides, columns=2, like=self.table.weight)
        return _Values(gather(own).sort().values, SideLogps(chosen, rejected))

    def _pairs(self, batches: Sequence[Rows]) -> Int[Tensor, " b"]:
        """The indices of the pairs in these rows, one after the other."""
        device = self.table.weight.device
        none = torch.empty(0, dtype=torch.long, device=device)
        return torch.cat([none, *(rows.pairs.to(device) for rows in batches)])

    def _checked(self, objective: Objective, logps: PairLogps, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """The terms of some of the step's pairs, refused if not finite."""
        loss, regularizer = objective.terms(logps)
        bad = ~(loss.detach().isfinite() & regularizer.detach().isfinite())
        if bad.any():
            if not all(per_pair(part) for part in (objective.loss, objective.regularizer) if part is not None):
                # Value i is that of a rank: the pairs to look at are those whose own values are not finite, or all.
                read = torch.stack([logps.policy_chosen, logps.policy_rejected, logps.ref_chosen, logps.ref_rejected])
                culprits = ~read.isfinite().all(dim=0)
                bad = culprits if culprits.any() else torch.ones_like(bad)
            ids = [self.ids[index] for index in pairs[bad].tolist()]
            raise NumericsError(
                f"step {self.number}: the loss of {len(ids)} of {len(bad)} pairs is not finite; no update was made. "
                f"Pairs: {', '.join(ids[:8])}. Lower the learning rate, or look at these pairs"
            )
        return loss, regularizer


def _whole(
    own: Int[Tensor, " b"], parts: Sequence[tuple[Tensor, ...]], *, columns: int, like: Tensor
) -> list[Float[Tensor, " B"]]:
    """The columns of all processes' pairs, by ascending index; a process without pairs has no part."""
    order = gather(own).argsort()
    joined = [torch.cat([like.new_empty(0), *(part[column] for part in parts)]) for column in range(columns)]
    return [gather(column)[order] for column in joined]
