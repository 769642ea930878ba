"""Before the first step: models made ready, and the pairs with their reference values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from prefine.config.sections import TrainConfig
from prefine.errors import ConfigError, NumericsError
from prefine.losses.protocol import Need
from prefine.models.hf.architecture import freeze_other_parts, positions
from prefine.training.batches.packing import PackedBatch
from prefine.training.cross_prompt import cross_prompt_pairs
from prefine.training.distributed.processes import own_pairs
from prefine.training.forward.causal import check_causal
from prefine.training.forward.layers import ComputeDtype
from prefine.training.forward.passes import Forward
from prefine.training.forward.sharing import why_not_shared
from prefine.training.items import TokenizedPair
from prefine.training.memory import retry_smaller_batches
from prefine.training.objective.pair_table import PairTable
from prefine.training.reference.cache import ReferenceCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")
Batches = list[PackedBatch]

# Per scored token [nats]: above what other padding changes in a sum, far below a wrong reference.
_TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 3e-2,
}


@dataclass(frozen=True)
class PreparedPairs:
    """Pairs with their values under the initial policy and the reference.

    Args:
        examples: The pairs.
        cross_prompt: Their prompts with other pairs' completions; empty if no loss reads them.
        table: Their values, to be joined with the policy's current ones.
        forward: The passes through the policy.
    """

    examples: Sequence[TokenizedPair]
    cross_prompt: Sequence[TokenizedPair]
    table: PairTable
    forward: Forward

    @property
    def read(self) -> list[Sequence[TokenizedPair]]:
        """The sets of examples that a step reads."""
        return [self.examples, self.cross_prompt] if self.cross_prompt else [self.examples]

    def cut(self, pairs: Sequence[int]) -> tuple[Batches, Batches]:
        """This process's batches of some pairs, and of the same ones across prompts."""
        batches, *cross_prompt = (
            self.forward.cut(some, own_pairs(some, pairs)) for some in self.read
        )
        return batches, cross_prompt[0] if cross_prompt else []

    def retry_smaller(
        self,
        attempt: Callable[[], Result],
        pairs: Sequence[int],
        *,
        on_retry: Callable[[], None] = lambda: None,
    ) -> Result:
        """Return the result of `attempt` on some pairs, see `retry_smaller_batches`."""

        def cut() -> Batches:
            return [batch for some in self.read for batch in self.forward.cut(some, pairs)]

        return retry_smaller_batches(attempt, self.forward, cut, self.examples, on_retry=on_retry)


def forward_of(
    model: "PreTrainedModel",
    examples: Sequence[TokenizedPair],
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
    model: "PreTrainedModel", examples: Sequence[TokenizedPair], config: TrainConfig
) -> None:
    """Convert to float32 master weights (float64 stays) and switch dropout off.

    What text does not pass through, such as a vision tower, is frozen.

    Raises:
        ConfigError: A pair is longer than the model reads.
    """
    # Frozen weights that the layers round anyway stay as they were stored, which halves their
    # memory.
    frozen = config.adapter is not None and config.dtype == "bfloat16"
    if not frozen and next(model.parameters()).dtype != torch.float64:
        model.float()  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    freeze_other_parts(model)
    limit = positions(model)
    longest = max(examples, key=lambda example: example.longest)
    if limit is not None and longest.longest > limit:
        raise ConfigError(
            f"pair {longest.id} takes {longest.longest} positions, the model reads {limit}; "
            "lower train.max_prompt_tokens or train.max_completion_tokens"
        )


def prepare_pairs(
    examples: Sequence[TokenizedPair],
    forward: Forward,
    ref_model: "PreTrainedModel | None",
    config: TrainConfig,
    needs: frozenset[Need],
    cache: ReferenceCache,
) -> PreparedPairs:
    """Score pairs under the initial policy and the reference.

    Args:
        examples: The pairs.
        forward: The passes through the policy, with its initial weights.
        ref_model: The reference; None is the initial policy.
        config: The settings.
        needs: The values that the loss and the regularizer read.
        cache: Where values are looked up and kept.
    """
    initial = reference = cache.tokens(forward, examples)
    ref_forward = forward
    if ref_model is not None:
        prepare_model(ref_model, examples, config)
        ref_forward, _ = forward_of(
            ref_model, examples, config, score_prompts=forward.score_prompts
        )
        reference = cache.tokens(ref_forward, examples)
        reference = reference._replace(
            values=reference.values.map(lambda column: column.to(initial.values.logps))
        )
    cross_prompt: list[TokenizedPair] = []
    cross_logps = None
    if "mismatched" in needs:
        cross_prompt = cross_prompt_pairs(examples)
        for read in (forward, ref_forward):
            prepare_model(read.model, cross_prompt, config)
        sides = cache.tokens(ref_forward, cross_prompt).sides()
        cross_logps = ((sides.chosen + sides.rejected) / 2).to(initial.values.logps)
    table = PairTable.of(
        examples,
        initial=initial.sides(),
        reference=reference.sides(),
        mismatched_ref=cross_logps,
        ref_tokens=reference if needs & {"tokens", "prompt"} else None,
    )
    return PreparedPairs(examples, cross_prompt, table, forward)


def check_start(
    margin: torch.Tensor,
    tokens: torch.Tensor,
    ids: Sequence[str],
    *,
    dtype: ComputeDtype = "float32",
) -> None:
    """Check that a policy that is its own reference has margin 0 before its first update.

    Args:
        margin: Margins of the first step's pairs [B], nats.
        tokens: Scored tokens of both sides [B].
        ids: Their pair ids.
        dtype: The dtype that the layers compute in.

    Raises:
        NumericsError: A margin is too large: the reference was scored with other weights, tokens or
            arithmetic.
    """
    tolerance = _TOLERANCE[torch.bfloat16 if dtype == "bfloat16" else margin.dtype] * tokens
    bad = (~(margin.abs() <= tolerance)).nonzero().flatten().tolist()
    if bad:
        worst = float(margin[bad].abs().max())
        raise NumericsError(
            f"step 1: the policy is its own reference, yet {len(bad)} pairs have a margin that is "
            f"not 0 (up to {worst:.3g} nats); pairs: {', '.join(ids[i] for i in bad[:8])}"
        )
