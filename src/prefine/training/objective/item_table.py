"""Per-item constants of a training, combined each step with the policy's current values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.losses.kinds import StepLogps
from prefine.training.forward.token_values import ItemTokens, completions_of
from prefine.training.items import Ids, TokenizedItem
from prefine.training.relations.protocol import LossExtras, Relation, StepTotals

INITIAL, REFERENCE = "initial", "reference"
"""The names of the policy at step 0 and of the model that losses compare with."""


@dataclass(frozen=True)
class Compared:
    """The references that the loss compares with.

    Args:
        names: In the order of the configuration.
        weights: Theirs; they sum to 1.
        held_out_weights: Those of held-out pairs, see `OtherReferences`; None without such pairs.
    """

    names: tuple[str, ...] = (REFERENCE,)
    weights: tuple[float, ...] = (1.0,)
    held_out_weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ItemTable:
    """Constants of n items with C completions.

    `counts`, on the CPU, has the completions of each item, `prompts` the number of the prompt of
    each, equal for items of one prompt. `of_items` and `of_completions` are the
    numbers that the relation states, [n] and [C]. `references` are log-probabilities [C] under
    fixed models, by name: the initial policy, the reference, others; `compared` says which of them
    the loss compares with, the reference first. `cross_ref` is the reference's mean value of
    another item's completions under this item's prompt, `ref_tokens` are its values of single
    tokens, `initial_tokens` those of the initial policy where it is another model; they are None if
    no loss reads them.
    """

    relation: Relation
    counts: Int[Tensor, " n"]
    prompts: Int[Tensor, " n"]
    of_items: Mapping[str, Float[Tensor, " n"]]
    of_completions: Mapping[str, Float[Tensor, " C"]]
    references: Mapping[str, Float[Tensor, " C"]]
    compared: Compared = Compared()
    cross_ref: Float[Tensor, " n"] | None = None
    ref_tokens: ItemTokens | None = None
    initial_tokens: ItemTokens | None = None

    @classmethod
    def of(
        cls,
        relation: Relation,
        items: Sequence[TokenizedItem],
        references: Mapping[str, Float[Tensor, " C"]],
        *,
        compared: Compared = Compared(),
        cross_ref: Float[Tensor, " n"] | None = None,
        ref_tokens: ItemTokens | None = None,
        initial_tokens: ItemTokens | None = None,
    ) -> "ItemTable":
        """Join items with their values under fixed models, the initial policy among them.

        Without a model of that name, the initial policy is the reference.
        """
        like = references[INITIAL]

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)

        stated = relation.stated(items)
        numbers: dict[Ids, int] = {}
        prompts = [numbers.setdefault(item.texts[0].prompt, len(numbers)) for item in items]
        texts = [text for item in items for text in item.texts]
        lengths = [len(text.scored) for text in texts]
        # Without its first token, which nothing predicts.
        prompt_lengths = [len(text.prompt) - 1 for text in texts]
        return cls(
            relation,
            counts=torch.tensor([len(item.texts) for item in items]),
            prompts=torch.tensor(prompts, device=like.device),
            of_items={name: column(values) for name, values in stated.of_items.items()},
            of_completions={
                "tokens": column(lengths),
                "prompt_tokens": column(prompt_lengths),
                **{name: column(values) for name, values in stated.of_completions.items()},
            },
            references={REFERENCE: like, **references},
            compared=compared,
            cross_ref=cross_ref,
            ref_tokens=ref_tokens,
            initial_tokens=initial_tokens,
        )

    @property
    def weight(self) -> Float[Tensor, " n"]:
        """The items' weights in the mean over a step."""
        return self.of_items["weight"]

    @property
    def tokens(self) -> Float[Tensor, " C"]:
        """The completions' scored tokens."""
        return self.of_completions["tokens"]

    @property
    def prompts_of_completions(self) -> Int[Tensor, " C"]:
        """The number of the prompt of each completion."""
        return self.prompts.repeat_interleave(self.counts.to(self.prompts.device))

    def rows(self, items: Int[Tensor, " B"]) -> "ItemTable":
        """Return a table of some of the items."""
        on_cpu = items.cpu()
        rows = on_cpu.to(self.weight.device)
        completions = completions_of(self.counts, on_cpu).to(self.weight.device)
        return replace(
            self,
            counts=self.counts[on_cpu],
            prompts=self.prompts[rows],
            of_items={name: values[rows] for name, values in self.of_items.items()},
            of_completions={
                name: values[completions] for name, values in self.of_completions.items()
            },
            references={name: values[completions] for name, values in self.references.items()},
            cross_ref=None if self.cross_ref is None else self.cross_ref[rows],
            ref_tokens=None if self.ref_tokens is None else self.ref_tokens.rows(on_cpu),
            initial_tokens=None
            if self.initial_tokens is None
            else self.initial_tokens.rows(on_cpu),
        )

    def totals(self) -> StepTotals:
        """The totals of a step of all these items."""
        return self.relation.totals(self)

    def join(
        self,
        policy: Float[Tensor, " C"],
        totals: StepTotals,
        extras: LossExtras = LossExtras(),  # noqa: B008  # it is frozen
    ) -> StepLogps:
        """Combine the constants with the policy's current values: the input of a loss.

        Args:
            policy: Summed log-probabilities of the completions.
            totals: Those of the whole step.
            extras: What only some losses need.
        """
        return self.relation.inputs(self, policy, totals, extras)
