"""Before the first step: models made ready, and what the initial policy and the reference say of the pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prefine.config.sections import TrainConfig
from prefine.errors import ConfigError
from prefine.losses.protocol import Need
from prefine.training.forward.passes import Forward
from prefine.training.forward.sharing import why_not_shared
from prefine.training.forward.token_values import PairTokens
from prefine.training.items import TokenizedPair
from prefine.training.objective.pair_table import PairTable
from prefine.training.reference.cache import cached_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def forward_of(
    model: "PreTrainedModel",
    examples: Sequence[TokenizedPair],
    config: TrainConfig,
    *,
    score_prompts: bool = False,
) -> tuple[Forward, tuple[str, ...]]:
    """The passes through a model, and a note if its prompts are not shared though they should be."""
    why = "train.sharing is off" if config.sharing == "off" else why_not_shared(model, examples)
    forward = Forward(
        model,
        dtype=config.dtype,
        shared=why is None,
        tokens=config.micro_batch_tokens,
        score_prompts=score_prompts,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    noted = why is not None and config.sharing != "off"
    return forward, (
        f"every completion is computed with its own copy of the prompt: {why}",
    ) if noted else ()


def prepare(
    model: "PreTrainedModel", examples: Sequence[TokenizedPair], config: TrainConfig
) -> None:
    """Float32 (or float64) master weights, dropout off.

    Raises:
        ConfigError: A pair is longer than the model reads.
    """
    # Frozen weights that the layers round anyway stay as they were stored, which halves their
    # memory.
    frozen = config.adapter is not None and config.dtype == "bfloat16"
    if not frozen and next(model.parameters()).dtype != torch.float64:
        model.float()  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(examples, key=lambda example: example.longest)
    if limit is not None and longest.longest > limit:
        raise ConfigError(
            f"pair {longest.id} takes {longest.longest} positions, the model reads {limit}; "
            "lower train.max_prompt_tokens or train.max_completion_tokens"
        )


@dataclass
class ReferenceCache:
    """Values that are kept in a folder, and whether all that were asked for had been there."""

    folder: Path
    should_stop: Callable[[], bool] | None
    all_known: bool = True

    def of(self, forward: Forward, examples: Sequence[TokenizedPair]) -> PairTokens:
        """Of some pairs, computed if they are not there."""
        tokens, reused = cached_tokens(
            forward, examples, folder=self.folder, should_stop=self.should_stop
        )
        self.all_known &= reused
        return tokens


def start_values(
    forward: Forward,
    ref_model: "PreTrainedModel | None",
    examples: Sequence[TokenizedPair],
    others: Sequence[TokenizedPair],
    config: TrainConfig,
    needs: frozenset[Need],
    known: ReferenceCache,
) -> PairTable:
    """Values under the initial policy and the reference.

    `others` are the prompts with other pairs' completions, if a loss reads them.
    """
    initial = reference = known.of(forward, examples)
    ref_forward = forward
    if ref_model is not None:
        prepare(ref_model, examples, config)
        ref_forward, _ = forward_of(
            ref_model, examples, config, score_prompts=forward.score_prompts
        )
        reference = known.of(ref_forward, examples)
        reference = reference._replace(
            values=reference.values.map(lambda column: column.to(initial.values.logps))
        )
    mismatched_ref = None
    if others:
        for read in (forward, ref_forward):
            prepare(read.model, others, config)
        cross_logps = known.of(ref_forward, others).sides()
        mismatched_ref = (cross_logps.chosen + cross_logps.rejected) / 2
        mismatched_ref = mismatched_ref.to(initial.values.logps)
    return PairTable.of(
        examples,
        initial=initial.sides(),
        reference=reference.sides(),
        mismatched_ref=mismatched_ref,
        ref_tokens=reference if needs & {"tokens", "prompt"} else None,
    )
