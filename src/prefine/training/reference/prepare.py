"""Before the first step: models made ready, and items with their reference values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from prefine.config.training import TrainConfig
from prefine.errors import ConfigError, NumericsError
from prefine.losses.protocol import Need
from prefine.models.hf.architecture import freeze_other_parts, positions
from prefine.training.batches.packing import PackedBatch
from prefine.training.distributed.processes import own_items
from prefine.training.forward.layers import ComputeDtype
from prefine.training.forward.passes import Forward
from prefine.training.forward.sharing import check_causal, why_not_shared
from prefine.training.forward.token_values import ItemTokens
from prefine.training.items import PlainItem, TokenizedItem, longest
from prefine.training.memory import retry_smaller_batches
from prefine.training.objective.item_table import INITIAL, REFERENCE, Compared, ItemTable
from prefine.training.reference.cache import ReferenceCache
from prefine.training.relations.protocol import Relation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefine.training.token_sample import TokenSample

Result = TypeVar("Result")
Batches = list[PackedBatch]

# Per scored token [nats]: above what other padding changes in a sum, far below a wrong reference.
_TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 3e-2,
}


class ReferenceValues(NamedTuple):
    """Values of n items with C completions under a reference.

    `logps` are those of the completions. Only the first reference may have the others, as losses
    need them: of single tokens and of prompts, and the mean of each item's prompt with another
    item's completions.
    """

    logps: Float[Tensor, " C"]
    tokens: ItemTokens | None = None
    cross_logps: Float[Tensor, " n"] | None = None


@dataclass(frozen=True)
class PreparedItems:
    """Items with their values under the initial policy and the references.

    Args:
        examples: The items.
        cross_prompt: Their prompts with other items' completions; empty if no loss reads them.
        table: Their values, to be joined with the policy's current ones.
        forward: The passes through the policy.
        sample: Some of them with their tokens' values at step 0; None where none are wanted.
    """

    examples: Sequence[TokenizedItem]
    cross_prompt: Sequence[TokenizedItem]
    table: ItemTable
    forward: Forward
    sample: "TokenSample | None" = None

    @property
    def read(self) -> list[Sequence[TokenizedItem]]:
        """The sets of examples that a step reads."""
        return [self.examples, self.cross_prompt] if self.cross_prompt else [self.examples]

    def cut(self, indices: Sequence[int]) -> tuple[Batches, Batches]:
        """This process's batches of some items, and of the same ones across prompts."""
        batches, *cross_prompt = (
            self.forward.cut(some, own_items(some, indices)) for some in self.read
        )
        return batches, cross_prompt[0] if cross_prompt else []

    def retry_smaller(
        self,
        attempt: Callable[[], Result],
        indices: Sequence[int],
        *,
        on_retry: Callable[[], None] = lambda: None,
    ) -> Result:
        """Return the result of `attempt` on some items, see `retry_smaller_batches`."""

        def cut() -> Batches:
            return [batch for some in self.read for batch in self.forward.cut(some, indices)]

        return retry_smaller_batches(attempt, self.forward, cut, self.examples, on_retry=on_retry)


def forward_of(
    model: "PreTrainedModel",
    examples: Sequence[TokenizedItem],
    config: TrainConfig,
    *,
    score_prompts: bool = False,
) -> tuple[Forward, tuple[str, ...]]:
    """The passes through a model, and a note if prompts are not shared though they should be.

    Raises:
        ConfigError: The model is not causal, or cannot compute text alone.
    """
    plain = Forward(model, shared=False)
    check_causal(plain, plain.cut(examples, [0])[0])
    off = config.sharing == "off"
    reason = None if off else why_not_shared(model, examples)
    forward = Forward(
        model,
        dtype=config.dtype,
        shared=not off and reason is None,
        tokens=config.micro_batch_tokens,
        score_prompts=score_prompts,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    if reason is None:
        return forward, ()
    return forward, (f"every completion is computed with its own copy of the prompt: {reason}",)


def prepare_model(
    model: "PreTrainedModel", examples: Sequence[TokenizedItem], config: TrainConfig
) -> None:
    """Convert to float32 master weights (float64 stays) and switch dropout off.

    What text does not pass through, such as a vision tower, is frozen.

    Raises:
        ConfigError: An item is longer than the model reads.
    """
    # Frozen weights that the layers round anyway stay as they were stored, which halves their
    # memory.
    frozen = config.adapter is not None and config.dtype == "bfloat16"
    if not frozen and next(model.parameters()).dtype != torch.float64:
        model.float()  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    freeze_other_parts(model)
    limit = positions(model)
    largest = max(examples, key=longest)
    if limit is not None and longest(largest) > limit:
        raise ConfigError(
            f"{largest.word} {largest.id} takes {longest(largest)} positions, the model reads "
            f"{limit}; "
            "lower train.max_prompt_tokens or train.max_completion_tokens"
        )


def prepare_items(
    relation: Relation,
    examples: Sequence[TokenizedItem],
    forward: Forward,
    config: TrainConfig,
    needs: frozenset[Need],
    cache: ReferenceCache,
    *,
    references: Sequence[ReferenceValues | None],
    compared: Compared,
    since: ReferenceValues | None = None,
    sampled: bool = False,
) -> PreparedItems:
    """Score items under the initial policy and join them with their values under the references.

    Args:
        relation: What the items are.
        examples: The items.
        forward: The passes through the policy with its initial weights.
        config: The settings.
        needs: The values that the loss and the regularizer read.
        cache: Where values are looked up and kept.
        references: The values under each reference; None where it is the policy at step 0.
        compared: The references' names and weights.
        since: The values under the policy that counts as the initial one, where this training goes
            on from another that began with it; None is the policy at step 0.
        sampled: Keep the values of some items' tokens at step 0; rewards have none.
    """
    if forward.gives_rewards:
        # Rewards are compared with each other, and with no reference.
        model = forward.model
        zero = torch.zeros(
            sum(len(item.texts) for item in examples),
            dtype=torch.promote_types(next(model.parameters()).dtype, torch.float32),
            device=forward.device,
        )
        table = ItemTable.of(relation, examples, {INITIAL: zero})
        return PreparedItems(examples, [], table, forward)
    own = cache.tokens(forward, examples)
    like = own.values.logps
    logps = {INITIAL: own.logps() if since is None else since.logps.to(like)}
    for name, values in zip(compared.names, references, strict=True):
        if values is not None:
            logps[name] = values.logps.to(like)
        elif since is not None:
            logps[name] = own.logps()
    first, tokens, initial = references[0], own, own
    cross_prompt: list[PlainItem] = []
    cross_ref = None
    if "mismatched" in needs:
        from prefine.training.cross_prompt import cross_prompt_items

        cross_prompt = cross_prompt_items(examples)
        prepare_model(forward.model, cross_prompt, config)
        if first is None:
            cross_ref = cache.tokens(forward, cross_prompt).mean_logps()
        else:
            assert first.cross_logps is not None, "the needs are the same"
            cross_ref = first.cross_logps.to(like)
    if first is not None and first.tokens is not None:
        tokens = _like(first.tokens, like)
    if since is not None and since.tokens is not None:
        initial = _like(since.tokens, like)
    table = ItemTable.of(
        relation,
        examples,
        logps,
        compared=compared,
        cross_ref=cross_ref,
        ref_tokens=tokens if needs & {"tokens", "prompt"} else None,
        initial_tokens=initial
        if needs >= {"tokens", "initial"} and not (first is None and since is None)
        else None,
    )
    sample = None
    if sampled:
        # Here and not above: only held-out items are sampled.
        from prefine.training.token_sample import TokenSample

        sample = TokenSample.of(examples, own)
    return PreparedItems(examples, cross_prompt, table, forward, sample)


def _like(tokens: ItemTokens, like: Tensor) -> ItemTokens:
    """The values of tokens in the dtype and on the device of another tensor."""
    return tokens._replace(values=tokens.values.map(lambda column: column.to(like)))


def names_of(references: Sequence[object | None]) -> tuple[str, ...]:
    """The names of references in a table of items; None stands for the policy at step 0."""
    return tuple(
        REFERENCE if number == 0 else INITIAL if one is None else f"{REFERENCE} {number + 1}"
        for number, one in enumerate(references)
    )


def confidence_weights(table: ItemTable, names: Sequence[str]) -> tuple[float, ...]:
    """The references' shares of |log-probability of chosen minus that of rejected|, over pairs.

    Equal ones where all of these are 0.
    """
    sides = torch.stack([table.references[name].double() for name in names]).view(len(names), -1, 2)
    sizes = (sides[..., 0] - sides[..., 1]).abs().mean(1)
    shares = sizes / sizes.sum() if sizes.sum() > 0 else torch.full_like(sizes, 1 / len(names))
    return tuple(shares.tolist())


def check_start(
    table: ItemTable,
    policy: Float[Tensor, " C"],
    ids: Sequence[str],
    *,
    dtype: ComputeDtype = "float32",
) -> None:
    """Check that a policy that is its own reference has margin 0 before its first update.

    Args:
        table: The first step's items.
        policy: The policy's log-probabilities of their completions.
        ids: The items' ids.
        dtype: The dtype that the layers compute in.

    Raises:
        NumericsError: Two log-ratios of an item are too far apart, or a lone one too far from 0:
            the reference was scored with other weights, tokens or arithmetic.
    """
    counts = table.counts.tolist()
    logratios = torch.split(policy - table.references[REFERENCE], counts)
    margin = torch.stack([one.max() - one.min() if len(one) > 1 else one[0] for one in logratios])
    tokens = torch.stack([one.sum() for one in torch.split(table.tokens, counts)])
    tolerance = _TOLERANCE[torch.bfloat16 if dtype == "bfloat16" else margin.dtype] * tokens
    bad = (~(margin.abs() <= tolerance)).nonzero().flatten().tolist()
    if bad:
        worst = float(margin[bad].abs().max())
        words = table.relation.name
        raise NumericsError(
            f"step 1: the policy is its own reference, yet {len(bad)} {words} have a margin that "
            f"is not 0 (up to {worst:.3g} nats); {words}: {', '.join(ids[i] for i in bad[:8])}"
        )
