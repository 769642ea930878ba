"""The exact gradient of a step: the weighted mean over its pairs, whatever the micro-batches and processes.

objective = sum of weight * (loss + regularizer_weight * regularizer) / sum of weight
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prefine.errors import NumericsError
from prefine.losses.facts import per_pair
from prefine.losses.protocol import PairLogps, PromptLogps, TokenLogps
from prefine.losses.token_diff import difference_marks
from prefine.training.batches.packing import PackedBatch, Span
from prefine.training.distributed.processes import add_up_gradients, gather
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import (
    PairTokens,
    Places,
    SideLogps,
    TokenValues,
    Wanted,
    concat_pairs,
    places,
)
from prefine.training.items import TokenizedPair
from prefine.training.memory import synchronized_oom
from prefine.training.objective.objective import Control, Objective
from prefine.training.objective.pair_table import PairTable, StepTotals


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
    batches: Sequence[PackedBatch],
    table: PairTable,
    objective: Objective,
    *,
    examples: Sequence[TokenizedPair],
    step: int,
    mismatched: Sequence[PackedBatch] = (),
    control: Control | None = None,
) -> StepTerms:
    """Add the gradient of the step's objective to the parameters' `.grad`.

    With several processes, each is given its share of the rows, and all end with the whole step's
    gradient; `.grad` must be empty before.

    Args:
        forward: The passes through the policy.
        batches: The rows of the step, or this process's share of them.
        table: All pairs, indexed by `Rows.pairs`.
        objective: What is minimised.
        examples: All examples.
        step: Its number, for messages.
        mismatched: The same pairs' prompts with other pairs' completions, if a loss reads them.
        control: Called once with the whole step's values if the objective is coupled.

    Raises:
        NumericsError: A pair's loss or regularizer is not finite.
        OutOfMemory: There is no room for a row; `.grad` holds part of the gradient.
    """
    run = _Step(forward, table, objective, examples, step)
    terms = (
        run.local(batches)
        if objective.kind == "local"
        else run.coupled(batches, mismatched, control)
    )
    add_up_gradients(forward.model.parameters())
    return terms


def evaluate(
    forward: Forward,
    batches: Sequence[PackedBatch],
    table: PairTable,
    objective: Objective,
    *,
    examples: Sequence[TokenizedPair],
    step: int,
    spread_of: int,
    mismatched: Sequence[PackedBatch] = (),
) -> tuple[StepTerms, "PolicyTokens"]:
    """What a step of these pairs would see, without gradients, and how the distributions over the next token spread.

    Args:
        forward: The passes through the policy.
        batches: The rows of all pairs, or this process's share of them.
        table: All pairs, indexed by `Rows.pairs`.
        objective: What would be minimised.
        examples: All examples.
        step: Updates made so far, for messages.
        spread_of: How many of the likeliest tokens are looked at.
        mismatched: The same pairs' prompts with other pairs' completions, if a loss reads them.

    Raises:
        NumericsError: A pair's loss or regularizer is not finite.
    """
    run = _Step(forward, table, objective, examples, step, spread_of)
    pairs, read = run.values(batches)
    whole = table.rows(pairs)
    with torch.no_grad():
        logps = run.join(whole, pairs, read, whole.totals(), run.away(mismatched))
        loss, regularizer = run.checked(objective, logps, pairs)
    return StepTerms(pairs, whole, logps, loss, regularizer, objective), read


class PolicyTokens(NamedTuple):
    """The columns of `TokenValues`, by pair; None where one was not wanted."""

    logps: PairTokens
    log_sum_p2: PairTokens | None = None
    top_mass: PairTokens | None = None
    top_entropy: PairTokens | None = None
    entropy: PairTokens | None = None

    @classmethod
    def of(cls, values: TokenValues, at: Places) -> "PolicyTokens":
        """From the values of scored positions."""
        logps, *others = values
        return cls(at.of(logps), *(None if column is None else at.of(column) for column in others))


@dataclass(frozen=True)
class _Step:
    """What all ways through a step share; one that looks at the spread only evaluates."""

    forward: Forward
    table: PairTable
    objective: Objective
    examples: Sequence[TokenizedPair]
    number: int
    spread_of: int | None = None

    @property
    def wanted(self) -> Wanted:
        """What the head computes beside log-probabilities."""
        return Wanted(sum_p2="vocabulary" in self.objective.needs, spread_of=self.spread_of)

    def local(self, batches: Sequence[PackedBatch]) -> StepTerms:
        """One pass: as soon as a pair's log-probabilities are known, its share of the step's mean is pushed."""
        own = self._pairs(batches)
        pairs = gather(own).sort().values
        whole = self.table.rows(pairs)
        totals, weights = whole.totals(), whole.weight.sum()
        parts: list[tuple[Tensor, ...]] = []

        def coefficients(rows: PackedBatch, span: Span, values: TokenValues) -> Tensor:
            indices = rows.pairs[span.pairs]
            known = self.table.rows(indices.to(weights.device))
            with torch.enable_grad():
                leaf = values.logps.detach().requires_grad_()
                read = PolicyTokens.of(values._replace(logps=leaf), places(rows, span))
                logps = self.join(known, indices, read, totals)
                loss, regularizer = self.checked(self.objective, logps, indices)
                total = (self.objective.value(loss, regularizer) * known.weight / weights).sum()
                (gradient,) = torch.autograd.grad(total, leaf)
            columns = (logps.policy_chosen, logps.policy_rejected, loss, regularizer)
            parts.append(tuple(t.detach() for t in columns))
            return gradient

        with synchronized_oom(in_step=self.forward.in_step):
            for rows in self.forward.passes(batches, backward=True):
                self.forward.push(rows, partial(coefficients, rows), self.wanted)
        chosen, rejected, losses, regularizers = _whole(own, parts, columns=4, like=whole.weight)
        logps = whole.join(SideLogps(chosen, rejected), totals)
        return StepTerms(pairs, whole, logps, losses, regularizers, self.objective)

    def coupled(
        self,
        batches: Sequence[PackedBatch],
        mismatched: Sequence[PackedBatch],
        control: Control | None,
    ) -> StepTerms:
        """Two passes: the objective's gradient in all token log-probabilities of the step, then through the model."""
        pairs, read = self.values(batches)
        whole = self.table.rows(pairs)
        away = self.away(mismatched)
        totals = whole.totals()
        seen = self.join(whole, pairs, read, totals, away)
        objective = self.objective if control is None else control(self.objective, seen)
        leaf = read.logps.values.clone().requires_grad_()
        moving = read._replace(logps=read.logps._replace(values=leaf))
        logps = self.join(whole, pairs, moving, totals, away)
        loss, regularizer = self.checked(objective, logps, pairs)
        total = (objective.value(loss, regularizer) * whole.weight).sum() / whole.weight.sum()
        (found,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
        gradient = read.logps._replace(values=found)

        def coefficients(rows: PackedBatch, span: Span, values: TokenValues) -> Tensor:
            at = torch.searchsorted(pairs, rows.pairs[span.pairs].to(pairs.device))
            place = places(rows, span).at.to(values.logps.device)
            # A completion of several pairs has the sum of what they make of it.
            return torch.zeros_like(values.logps).index_put_(
                (place,), gradient.rows(at).values, accumulate=True
            )

        with synchronized_oom(in_step=self.forward.in_step):
            for rows in self.forward.passes(batches, backward=True):
                self.forward.push(rows, partial(coefficients, rows))
        return StepTerms(pairs, whole, seen, loss.detach(), regularizer.detach(), objective)

    def away(self, mismatched: Sequence[PackedBatch]) -> Float[Tensor, " B"] | None:
        """The mean of both mismatched completions under the policy, if it is read."""
        if "mismatched" not in self.objective.needs:
            return None
        chosen, rejected = self.values(mismatched)[1].logps.sides()
        return (chosen + rejected) / 2

    def values(self, batches: Sequence[PackedBatch]) -> tuple[Int[Tensor, " B"], PolicyTokens]:
        """What is read of all pairs of the step, by ascending index."""
        own = self._pairs(batches)
        with synchronized_oom(in_step=self.forward.in_step):
            parts = [
                PolicyTokens.of(self.forward.values(rows, self.wanted), places(rows, rows.whole))
                for rows in self.forward.passes(batches)
            ]
        order = gather(own).argsort()

        def whole(some: list[PairTokens]) -> PairTokens:
            none = PairTokens(
                self.table.weight.new_empty(0), torch.empty(0, self._texts, dtype=torch.long)
            )
            values, lengths = concat_pairs([none, *some])
            everywhere = gather(lengths.flatten().to(values.device)).view(-1, self._texts).cpu()
            return PairTokens(gather(values), everywhere).rows(order)

        # The same columns on all processes, also on one without pairs.
        names = ["log_sum_p2"] * self.wanted.sum_p2
        names += ["top_mass", "top_entropy", "entropy"] * (self.spread_of is not None)
        columns = {name: whole([getattr(part, name) for part in parts]) for name in names}
        return gather(own).sort().values, PolicyTokens(
            whole([part.logps for part in parts]), **columns
        )

    @property
    def _texts(self) -> int:
        """How many scored texts a pair has: two completions, and two prompts if they are scored."""
        return 4 if self.forward.score_prompts else 2

    def _pairs(self, batches: Sequence[PackedBatch]) -> Int[Tensor, " b"]:
        """The indices of the pairs in these rows, one after the other."""
        device = self.table.weight.device
        none = torch.empty(0, dtype=torch.long, device=device)
        return torch.cat([none, *(rows.pairs.to(device) for rows in batches)])

    def join(
        self,
        known: PairTable,
        pairs: Int[Tensor, " B"],
        read: PolicyTokens,
        totals: StepTotals,
        mismatched: Float[Tensor, " B"] | None = None,
    ) -> PairLogps:
        """All that the objective reads of some pairs."""
        needs = self.objective.needs
        reference, policy = known.ref_tokens, read.logps
        tokens = prompts = None
        if needs & {"tokens", "prompt"} and reference is None:
            raise ValueError(
                "the loss reads single tokens or prompts, and the table has no reference values "
                "of them"
            )
        if "tokens" in needs and reference is not None:
            squares = read.log_sum_p2
            chosen, rejected = (
                self._marks(pairs, like=policy.values) if "differences" in needs else (None, None)
            )
            tokens = TokenLogps(
                policy_chosen=policy.padded(0),
                policy_rejected=policy.padded(1),
                ref_chosen=reference.padded(0),
                ref_rejected=reference.padded(1),
                chosen_log_sum_p2=None if squares is None else squares.padded(0),
                rejected_log_sum_p2=None if squares is None else squares.padded(1),
                chosen_marked=chosen,
                rejected_marked=rejected,
            )
        if "prompt" in needs and reference is not None:
            prompts = PromptLogps(*policy.prompts(), *reference.prompts())
        return known.join(
            policy.sides(), totals, mismatched=mismatched, tokens=tokens, prompts=prompts
        )

    def _marks(self, pairs: Int[Tensor, " B"], like: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens of either side only it has, padded as the values are."""
        some = [self.examples[index] for index in pairs.tolist()]
        marks = [difference_marks(example.chosen_ids, example.rejected_ids) for example in some]
        chosen, rejected = (
            pad_sequence(
                [torch.tensor(own, dtype=like.dtype) for own in side], batch_first=True
            ).to(like.device)
            for side in zip(*marks, strict=True)
        )
        return chosen, rejected

    def checked(
        self, objective: Objective, logps: PairLogps, pairs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The terms of some of the step's pairs, refused if not finite."""
        loss, regularizer = objective.terms(logps)
        bad = ~(loss.detach().isfinite() & regularizer.detach().isfinite())
        if bad.any():
            if not all(
                per_pair(part)
                for part in (objective.loss, objective.regularizer)
                if part is not None
            ):
                # Value i is that of a rank: the pairs to look at are those whose own values are not
                # finite, or all.
                read = torch.stack(
                    [
                        logps.policy_chosen,
                        logps.policy_rejected,
                        logps.ref_chosen,
                        logps.ref_rejected,
                    ]
                )
                culprits = ~read.isfinite().all(dim=0)
                bad = culprits if culprits.any() else torch.ones_like(bad)
            ids = [self.examples[index].id for index in pairs[bad].tolist()]
            when, effect = f"step {self.number}", "; no update was made"
            if self.spread_of is not None:
                when, effect = f"evaluation after step {self.number}", ""
            raise NumericsError(
                f"{when}: the loss of {len(ids)} of {len(bad)} pairs is not finite{effect}. "
                f"Pairs: {', '.join(ids[:8])}. Lower the learning rate, or look at these pairs"
            )
        return loss, regularizer


def _whole(
    own: Int[Tensor, " b"], parts: Sequence[tuple[Tensor, ...]], *, columns: int, like: Tensor
) -> list[Float[Tensor, " B"]]:
    """The columns of all processes' pairs, by ascending index; a process without pairs has no part."""
    order = gather(own).argsort()
    joined = [
        torch.cat([like.new_empty(0), *(part[column] for part in parts)])
        for column in range(columns)
    ]
    return list(gather(torch.stack(joined, dim=1))[order].unbind(1))
