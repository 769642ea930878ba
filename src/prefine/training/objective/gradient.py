"""The exact gradient of a step: the weighted mean over its items, for any batches and processes.

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

from prefine.errors import NumericsError
from prefine.losses.facts import per_pair
from prefine.losses.kinds import StepLogps
from prefine.training.batches.packing import PackedBatch, Span
from prefine.training.distributed.processes import add_up_gradients, gather
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import (
    LOGPS_ONLY,
    ItemTokens,
    TokenValues,
    Wanted,
    completions_of,
    gather_items,
    token_index,
)
from prefine.training.items import TokenizedItem
from prefine.training.memory import synchronized_oom
from prefine.training.objective.head_norms import head_norms
from prefine.training.objective.item_table import ItemTable
from prefine.training.objective.objective import Control, Objective
from prefine.training.relations.protocol import LossExtras, StepTotals

Pull = Callable[[Forward], None]
"""Adds a gradient of this process's own to the parameters' `.grad`."""


@dataclass(frozen=True)
class StepTerms:
    """The values of a step before its update, detached; its items are in ascending order.

    `policy` has the log-probability of each completion; `objective` is the one that was minimised,
    with the hyper-parameters of this step. `slopes`, if they were asked for, are the sizes of its
    derivatives in the log-probabilities of tokens: their sum over a completion, in the mean of the
    item's completions.
    """

    items: Int[Tensor, " B"]
    table: ItemTable
    policy: Float[Tensor, " C"]
    logps: StepLogps
    loss: Float[Tensor, " B"]
    regularizer: Float[Tensor, " B"]
    objective: Objective
    slopes: Float[Tensor, " B"] | None = None


def accumulate_gradients(
    forward: Forward,
    batches: Sequence[PackedBatch],
    table: ItemTable,
    objective: Objective,
    *,
    examples: Sequence[TokenizedItem],
    step: int,
    mismatched: Sequence[PackedBatch] = (),
    control: Control | None = None,
    pull: Pull | None = None,
    slopes: bool = False,
) -> StepTerms:
    """Add the gradient of the step's objective to the parameters' `.grad`.

    With several processes, each is given its share of the batches, and all end with the whole
    step's gradient; `.grad` must be empty before.

    Args:
        forward: The passes through the policy.
        batches: The batches of the step, or this process's share of them.
        table: All items, indexed by `PackedBatch.items`.
        objective: What is minimised.
        examples: All items.
        step: Its number, for messages.
        mismatched: The same items' prompts with other items' completions, if a loss reads them.
        control: Called once with the whole step's values if the objective is coupled.
        pull: Adds the gradient of answers outside the step's items.
        slopes: The values returned have the derivatives' sizes, too.

    Raises:
        NumericsError: The loss or regularizer of an item is not finite.
        OutOfMemory: There is no room for a batch; `.grad` holds part of the gradient.
    """
    wanted = Wanted(sum_p2="vocabulary" in objective.needs)
    run = _Step(forward, table, objective, examples, f"step {step}", wanted, slopes=slopes)
    terms = (
        run.local(batches)
        if objective.kind == "local"
        else run.coupled(batches, mismatched, control)
    )
    if pull is not None:
        pull(forward)
    add_up_gradients(forward.model.parameters())
    return terms


def evaluate(
    forward: Forward,
    batches: Sequence[PackedBatch],
    table: ItemTable,
    objective: Objective,
    *,
    examples: Sequence[TokenizedItem],
    step: int,
    top_k: int | None,
    mismatched: Sequence[PackedBatch] = (),
) -> tuple[StepTerms, ItemTokens]:
    """The values of a step of these items, without gradients, and those of all their tokens.

    Args:
        forward: The passes through the policy.
        batches: The batches of all items, or this process's share of them.
        table: All items, indexed by `PackedBatch.items`.
        objective: What would be minimised.
        examples: All items.
        step: Updates made so far, for messages.
        top_k: The number of likeliest tokens in the statistics of the next-token distributions;
            None computes none.
        mismatched: The same items' prompts with other items' completions, if a loss reads them.

    Raises:
        NumericsError: The loss or regularizer of an item is not finite.
    """
    wanted = Wanted(sum_p2="vocabulary" in objective.needs, top_k=top_k)
    run = _Step(
        forward, table, objective, examples, f"evaluation after step {step}", wanted, effect=""
    )
    items, policy_tokens = run.policy_tokens(batches, wanted)
    known, cross_logps = table.rows(items), run.cross_logps(mismatched)
    with torch.no_grad():
        logps = run.join(known, items, policy_tokens, known.totals(), cross_logps)
        loss, regularizer = run.terms(objective, logps, items)
    policy = policy_tokens.logps()
    return StepTerms(items, known, policy, logps, loss, regularizer, objective), policy_tokens


@dataclass(frozen=True)
class _Step:
    """A step; `when` names it in messages, `effect` says what a refusal left undone."""

    forward: Forward
    table: ItemTable
    objective: Objective
    examples: Sequence[TokenizedItem]
    when: str
    wanted: Wanted
    effect: str = "; no update was made"
    slopes: bool = False

    def local(self, batches: Sequence[PackedBatch]) -> StepTerms:
        """One pass over the batches, for losses that depend on one item at a time.

        First the items of the whole step are collected, because each is divided by the step's
        totals. Then, as soon as the head has a chunk's log-probabilities, the losses of its items
        are differentiated in these and pushed back: nothing of a chunk is kept.
        """
        device = self.table.weight.device
        none = torch.empty(0, dtype=torch.long, device=device)
        all_items = gather(torch.cat([none, *(batch.items.to(device) for batch in batches)]))
        order = all_items.argsort()
        items = all_items[order]
        step_table = self.table.rows(items)
        step_totals, total_weight = step_table.totals(), step_table.weight.sum()
        policy = [step_table.weight.new_empty(0)]
        terms = [step_table.weight.new_empty(0, 3 if self.slopes else 2)]

        def coefficients(
            batch: PackedBatch, span: Span, values: TokenValues
        ) -> Float[Tensor, " n"]:
            chunk_items = batch.items[span.items]
            known = self.table.rows(chunk_items)
            with torch.enable_grad():
                leaf = values.logps.detach().requires_grad_()
                policy_tokens = ItemTokens.of(values._replace(logps=leaf), batch, span)
                logps = self.join(known, chunk_items, policy_tokens, step_totals)
                loss, regularizer = self.terms(self.objective, logps, chunk_items)
                share = self.objective.value(loss, regularizer) * known.weight / total_weight
                (gradient,) = torch.autograd.grad(share.sum(), leaf)
            policy.append(policy_tokens.logps().detach())
            columns = [loss, regularizer]
            if self.slopes:
                columns.append(ItemTokens.of(TokenValues(gradient.abs()), batch, span).mean_logps())
            terms.append(torch.stack(columns, dim=1).detach())
            return gradient

        self._push(batches, coefficients, self.wanted)
        # A process's values are in the order of its batches, as its items were.
        losses, regularizers, *slopes = gather(torch.cat(terms))[order].unbind(1)
        counts = self.table.counts[all_items.cpu()]
        completions = completions_of(counts, order.cpu()).to(device)
        step_policy = gather(torch.cat(policy))[completions]
        logps = step_table.join(step_policy, step_totals)
        return StepTerms(
            items,
            step_table,
            step_policy,
            logps,
            losses,
            regularizers,
            self.objective,
            slopes[0] if slopes else None,
        )

    def coupled(
        self,
        batches: Sequence[PackedBatch],
        mismatched: Sequence[PackedBatch],
        control: Control | None,
    ) -> StepTerms:
        """Two passes over the batches, for losses in which an item's value depends on the others.

        First all processes collect the log-probabilities of the whole step, and each computes the
        same loss and its derivative in every token. Then a second pass, which computes the hidden
        states again, pushes the derivatives of this process's own tokens back.
        """
        items, policy_tokens = self.policy_tokens(batches, self.wanted)
        step_table, cross_logps = self.table.rows(items), self.cross_logps(mismatched)
        step_totals = step_table.totals()
        norms = None
        if control is not None and "head_norms" in self.objective.needs:
            norms = head_norms(self.forward, batches, self.table, self.examples)
        logps = self.join(step_table, items, policy_tokens, step_totals, cross_logps, norms)
        objective = self.objective if control is None else control(self.objective, logps)
        leaf = policy_tokens.values.logps.clone().requires_grad_()
        with_leaf = policy_tokens._replace(values=policy_tokens.values._replace(logps=leaf))
        loss, regularizer = self.terms(
            objective, self.join(step_table, items, with_leaf, step_totals, cross_logps), items
        )
        weight = step_table.weight
        total = (objective.value(loss, regularizer) * weight).sum() / weight.sum()
        (found,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
        gradient = policy_tokens._replace(values=TokenValues(found))

        def coefficients(
            batch: PackedBatch, span: Span, values: TokenValues
        ) -> Float[Tensor, " n"]:
            rows = torch.searchsorted(items, batch.items[span.items].to(items.device))
            index, _ = token_index(batch, span)
            # A completion of several items gets the sum of their derivatives.
            return torch.zeros_like(values.logps).index_put_(
                (index.to(values.logps.device),), gradient.rows(rows).values.logps, accumulate=True
            )

        self._push(batches, coefficients, LOGPS_ONLY)
        sizes = gradient._replace(values=TokenValues(found.abs())) if self.slopes else None
        return StepTerms(
            items,
            step_table,
            policy_tokens.logps(),
            logps,
            loss.detach(),
            regularizer.detach(),
            objective,
            None if sizes is None else sizes.mean_logps(),
        )

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
    ) -> tuple[Int[Tensor, " B"], ItemTokens]:
        """The items of all processes' batches, by ascending index, and the policy's values."""
        with synchronized_oom(in_step=self.forward.in_step):
            local = self.forward.item_values(batches, wanted)
        return gather_items(*local)

    def cross_logps(self, mismatched: Sequence[PackedBatch]) -> Float[Tensor, " B"] | None:
        """The policy's mean value of the mismatched completions, if a loss reads it."""
        if "mismatched" not in self.objective.needs:
            return None
        return self.policy_tokens(mismatched, LOGPS_ONLY)[1].mean_logps()

    def join(
        self,
        table: ItemTable,
        items: Int[Tensor, " B"],
        policy: ItemTokens,
        totals: StepTotals,
        cross_logps: Float[Tensor, " B"] | None = None,
        head_norms: Float[Tensor, " 2"] | None = None,
    ) -> StepLogps:
        """The input of the objective: constants and current values of some items.

        Args:
            table: The constants of these items.
            items: Their indices.
            policy: The policy's values of their tokens.
            totals: Those of the whole step.
            cross_logps: The policy's values of the mismatched completions.
            head_norms: How far the output head moves the two sides of pairs.
        """
        extras = LossExtras(
            self.objective.needs,
            [self.examples[index] for index in items.tolist()],
            policy,
            cross_logps,
            head_norms,
            self.objective.differences,
        )
        return table.join(policy.logps(), totals, extras)

    def terms(
        self, objective: Objective, logps: StepLogps, items: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Loss and regularizer of some of the step's items.

        Raises:
            NumericsError: One is not finite.
        """
        loss, regularizer = objective.terms(logps)
        bad = ~(loss.detach().isfinite() & regularizer.detach().isfinite())
        if bad.any():
            unreadable = ~logps.finite()
            if not all(map(per_pair, objective.functions)):
                # Value i is that of a rank: name the items that have a log-probability which is not
                # finite, or all.
                bad = unreadable if unreadable.any() else torch.ones_like(bad)
            found = [self.examples[index] for index in items[bad.to(items.device)].tolist()]
            words = f"{found[0].word}s"
            raise NumericsError(
                f"{self.when}: the loss of {len(found)} of {len(bad)} {words} is not finite"
                f"{self.effect}. {words.capitalize()}: {', '.join(one.id for one in found[:8])}. "
                f"{_remedy(bool(unreadable.any()), words)}"
            )
        return loss, regularizer


def _remedy(unreadable: bool, words: str) -> str:
    if unreadable:
        return (
            f"Lower the learning rate, or look at these {words}; where nothing was trained yet, "
            "the weights themselves are damaged: restore the model's folder"
        )
    return (
        "All values of the model are finite, so the loss overflows: look at its options, and at "
        f"the scores and weights of these {words}"
    )
