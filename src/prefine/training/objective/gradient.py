"""The exact gradient of a step: the weighted mean over its pairs, for any batches and processes.

objective = sum of weight * (loss + regularizer_weight * regularizer) / sum of weight

The head and the layers are never part of one graph with the loss. The objective is differentiated
in the log-probability of each scored token only; these derivatives are the coefficients that
`Forward.push` carries back through head and layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

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
    LOGPS_ONLY,
    PairTokens,
    SideLogps,
    TokenValues,
    Wanted,
    gather_pairs,
    token_index,
)
from prefine.training.items import TokenizedPair
from prefine.training.memory import synchronized_oom
from prefine.training.objective.objective import Control, Objective
from prefine.training.objective.pair_table import PairTable, StepTotals


@dataclass(frozen=True)
class StepTerms:
    """The values of a step before its update, detached; its pairs are in ascending order.

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

    With several processes, each is given its share of the batches, and all end with the whole
    step's gradient; `.grad` must be empty before.

    Args:
        forward: The passes through the policy.
        batches: The batches of the step, or this process's share of them.
        table: All pairs, indexed by `PackedBatch.pairs`.
        objective: What is minimised.
        examples: All examples.
        step: Its number, for messages.
        mismatched: The same pairs' prompts with other pairs' completions, if a loss reads them.
        control: Called once with the whole step's values if the objective is coupled.

    Raises:
        NumericsError: A pair's loss or regularizer is not finite.
        OutOfMemory: There is no room for a batch; `.grad` holds part of the gradient.
    """
    wanted = Wanted(sum_p2="vocabulary" in objective.needs)
    run = _Step(forward, table, objective, examples, f"step {step}", wanted)
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
    top_k: int,
    mismatched: Sequence[PackedBatch] = (),
) -> tuple[StepTerms, PairTokens]:
    """The values of a step of these pairs, without gradients, and those of all their tokens.

    Args:
        forward: The passes through the policy.
        batches: The batches of all pairs, or this process's share of them.
        table: All pairs, indexed by `PackedBatch.pairs`.
        objective: What would be minimised.
        examples: All examples.
        step: Updates made so far, for messages.
        top_k: The number of likeliest tokens in the statistics of the next-token distributions.
        mismatched: The same pairs' prompts with other pairs' completions, if a loss reads them.

    Raises:
        NumericsError: A pair's loss or regularizer is not finite.
    """
    wanted = Wanted(sum_p2="vocabulary" in objective.needs, top_k=top_k)
    run = _Step(
        forward, table, objective, examples, f"evaluation after step {step}", wanted, effect=""
    )
    pairs, policy_tokens = run.policy_tokens(batches, wanted)
    known, cross_logps = table.rows(pairs), run.cross_logps(mismatched)
    with torch.no_grad():
        logps = run.join(known, pairs, policy_tokens, known.totals(), cross_logps)
        loss, regularizer = run.terms(objective, logps, pairs)
    return StepTerms(pairs, known, logps, loss, regularizer, objective), policy_tokens


@dataclass(frozen=True)
class _Step:
    """A step; `when` names it in messages, `effect` says what a refusal left undone."""

    forward: Forward
    table: PairTable
    objective: Objective
    examples: Sequence[TokenizedPair]
    when: str
    wanted: Wanted
    effect: str = "; no update was made"

    def local(self, batches: Sequence[PackedBatch]) -> StepTerms:
        """One pass over the batches, for losses that depend on one pair at a time.

        First the pairs of the whole step are collected, because each is divided by the step's
        totals. Then, as soon as the head has a chunk's log-probabilities, the losses of its pairs
        are differentiated in these and pushed back: nothing of a chunk is kept.
        """
        device = self.table.weight.device
        none = torch.empty(0, dtype=torch.long, device=device)
        all_pairs = gather(torch.cat([none, *(batch.pairs.to(device) for batch in batches)]))
        order = all_pairs.argsort()
        pairs = all_pairs[order]
        step_table = self.table.rows(pairs)
        step_totals, total_weight = step_table.totals(), step_table.weight.sum()
        columns = [step_table.weight.new_empty(0, 4)]

        def coefficients(
            batch: PackedBatch, span: Span, values: TokenValues
        ) -> Float[Tensor, " n"]:
            chunk_pairs = batch.pairs[span.pairs]
            known = self.table.rows(chunk_pairs.to(device))
            with torch.enable_grad():
                leaf = values.logps.detach().requires_grad_()
                policy_tokens = PairTokens.of(values._replace(logps=leaf), batch, span)
                logps = self.join(known, chunk_pairs, policy_tokens, step_totals)
                loss, regularizer = self.terms(self.objective, logps, chunk_pairs)
                share = self.objective.value(loss, regularizer) * known.weight / total_weight
                (gradient,) = torch.autograd.grad(share.sum(), leaf)
            found = logps.policy_chosen, logps.policy_rejected, loss, regularizer
            columns.append(torch.stack(found, dim=1).detach())
            return gradient

        self._push(batches, coefficients, self.wanted)
        # A process's columns are in the order of its batches, as its pairs were.
        chosen, rejected, losses, regularizers = gather(torch.cat(columns))[order].unbind(1)
        logps = step_table.join(SideLogps(chosen, rejected), step_totals)
        return StepTerms(pairs, step_table, logps, losses, regularizers, self.objective)

    def coupled(
        self,
        batches: Sequence[PackedBatch],
        mismatched: Sequence[PackedBatch],
        control: Control | None,
    ) -> StepTerms:
        """Two passes over the batches, for losses in which a pair's value depends on the others.

        First all processes collect the log-probabilities of the whole step, and each computes the
        same loss and its derivative in every token. Then a second pass, which computes the hidden
        states again, pushes the derivatives of this process's own tokens back.
        """
        pairs, policy_tokens = self.policy_tokens(batches, self.wanted)
        step_table, cross_logps = self.table.rows(pairs), self.cross_logps(mismatched)
        step_totals = step_table.totals()
        logps = self.join(step_table, pairs, policy_tokens, step_totals, cross_logps)
        objective = self.objective if control is None else control(self.objective, logps)
        leaf = policy_tokens.values.logps.clone().requires_grad_()
        with_leaf = PairTokens(policy_tokens.values._replace(logps=leaf), policy_tokens.lengths)
        loss, regularizer = self.terms(
            objective, self.join(step_table, pairs, with_leaf, step_totals, cross_logps), pairs
        )
        weight = step_table.weight
        total = (objective.value(loss, regularizer) * weight).sum() / weight.sum()
        (found,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
        gradient = PairTokens(TokenValues(found), policy_tokens.lengths)

        def coefficients(
            batch: PackedBatch, span: Span, values: TokenValues
        ) -> Float[Tensor, " n"]:
            rows = torch.searchsorted(pairs, batch.pairs[span.pairs].to(pairs.device))
            index, _ = token_index(batch, span)
            # A completion of several pairs gets the sum of their derivatives.
            return torch.zeros_like(values.logps).index_put_(
                (index.to(values.logps.device),), gradient.rows(rows).values.logps, accumulate=True
            )

        self._push(batches, coefficients, LOGPS_ONLY)
        return StepTerms(pairs, step_table, logps, loss.detach(), regularizer.detach(), objective)

    def _push(
        self,
        batches: Sequence[PackedBatch],
        coefficients: Callable[[PackedBatch, Span, TokenValues], Tensor],
        wanted: Wanted,
    ) -> None:
        with synchronized_oom(in_step=self.forward.in_step):
            for batch in self.forward.passes(batches, backward=True):
                self.forward.push(batch, partial(coefficients, batch), wanted)

    def policy_tokens(
        self, batches: Sequence[PackedBatch], wanted: Wanted
    ) -> tuple[Int[Tensor, " B"], PairTokens]:
        """The pairs of all processes' batches, by ascending index, and the policy's values."""
        with synchronized_oom(in_step=self.forward.in_step):
            local = self.forward.pair_values(batches, wanted)
        return gather_pairs(*local)

    def cross_logps(self, mismatched: Sequence[PackedBatch]) -> Float[Tensor, " B"] | None:
        """The policy's mean value of both mismatched completions, if a loss reads it."""
        if "mismatched" not in self.objective.needs:
            return None
        _, policy_tokens = self.policy_tokens(mismatched, LOGPS_ONLY)
        chosen, rejected = policy_tokens.sides()
        return (chosen + rejected) / 2

    def join(
        self,
        table: PairTable,
        pairs: Int[Tensor, " B"],
        policy: PairTokens,
        totals: StepTotals,
        cross_logps: Float[Tensor, " B"] | None = None,
    ) -> PairLogps:
        """The input of the objective: constants and current values of some pairs.

        Args:
            table: The constants of these pairs.
            pairs: Their indices.
            policy: The policy's values of their tokens.
            totals: Those of the whole step.
            cross_logps: The policy's values of the mismatched completions.
        """
        needs, reference = self.objective.needs, table.ref_tokens
        tokens = prompts = None
        if "tokens" in needs and reference is not None:
            chosen, rejected = policy.padded(0), policy.padded(1)
            marks = self._marks(pairs, chosen.logps) if "differences" in needs else (None, None)
            tokens = TokenLogps(
                policy_chosen=chosen.logps,
                policy_rejected=rejected.logps,
                ref_chosen=reference.padded(0).logps,
                ref_rejected=reference.padded(1).logps,
                chosen_log_sum_p2=chosen.log_sum_p2,
                rejected_log_sum_p2=rejected.log_sum_p2,
                chosen_marked=marks[0],
                rejected_marked=marks[1],
            )
        if "prompt" in needs and reference is not None:
            prompts = PromptLogps(*policy.prompts(), *reference.prompts())
        return table.join(
            policy.sides(), totals, mismatched=cross_logps, tokens=tokens, prompts=prompts
        )

    def _marks(self, pairs: Int[Tensor, " B"], like: Tensor) -> list[Float[Tensor, "B longest"]]:
        """1 for the tokens that only this side of a pair has, of both sides, padded with 0."""
        examples = [self.examples[index] for index in pairs.tolist()]
        marks = [difference_marks(example.chosen_ids, example.rejected_ids) for example in examples]
        return [
            pad_sequence([torch.tensor(row) for row in side], batch_first=True).to(like)
            for side in zip(*marks, strict=True)
        ]

    def terms(
        self, objective: Objective, logps: PairLogps, pairs: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Loss and regularizer of some of the step's pairs.

        Raises:
            NumericsError: One is not finite.
        """
        loss, regularizer = objective.terms(logps)
        bad = ~(loss.detach().isfinite() & regularizer.detach().isfinite())
        if bad.any():
            if not all(map(per_pair, objective.functions)):
                # Value i is that of a rank. A margin is finite only if all four of its values are:
                # name the pairs where it is not, or all.
                culprits = ~logps.margin.isfinite()
                bad = culprits if culprits.any() else torch.ones_like(bad)
            ids = [self.examples[index].id for index in pairs[bad.to(pairs.device)].tolist()]
            raise NumericsError(
                f"{self.when}: the loss of {len(ids)} of {len(bad)} pairs is not finite"
                f"{self.effect}. Pairs: {', '.join(ids[:8])}. Lower the learning rate, or look at "
                "these pairs"
            )
        return loss, regularizer
