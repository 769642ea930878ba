"""Whether a model's layers let completions share their prompt: asked of the model, on the user's own first rows."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from prefine.training.forward.passes import Forward
from prefine.training.items import TokenizedPair
from prefine.training.reference.scoring import score_tokens_here

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAIRS = 8
"""How many of the first pairs are looked at."""

_POSITIONS = 512


def why_not_shared(model: "PreTrainedModel", examples: Sequence[TokenizedPair]) -> str | None:
    """Why the prompts of these examples cannot be computed once for all their completions; None if they can.

    Compares, in the weights' own precision, the log-probabilities of packed trees with those of
    plain rows.

    Args:
        model: A causal language model, dropout off.
        examples: All that will be read.
    """
    settings = model.config.get_text_config()
    longest = max(example.longest for example in examples)
    if (reason := _by_position(settings, longest)) is not None:
        return reason
    # Sides of several tokens show whether one completion leaks into the next.
    telling = sorted(
        range(len(examples)), key=lambda i: min(len(examples[i].chosen_ids), 2), reverse=True
    )[:PAIRS]
    first = [_shortened(examples[index]) for index in telling]
    plain, shared = (Forward(model, shared=some) for some in (False, True))
    expected = score_tokens_here(plain, first).values
    try:
        found = score_tokens_here(shared, first).values
    except NotImplementedError as error:
        return str(error)
    difference = float((found - expected).abs().max())
    if difference > (allowed := tolerance(model, expected)):
        return (
            f"packed log-probabilities differ from plain ones by {difference:.2g} nats "
            f"(allowed: {allowed:.2g})"
        )
    return None


def tolerance(model: "PreTrainedModel", logps: torch.Tensor) -> float:
    """What another order of additions may change in a token's log-probability, nats.

    A hidden value is a sum of about d products in each of L layers, so its rounding error walks at
    random to eps * sqrt(d * L) of its size; 8 of these cover the head, and the largest of many
    tokens. For half precision that says nothing, so there half a nat must do, far above the
    rounding of a token.
    """
    settings = model.config.get_text_config()
    # Layers compute parts in float32 even where the weights are float64.
    dtype = next(model.parameters()).dtype
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    walk = math.sqrt(settings.hidden_size * settings.num_hidden_layers)
    return min(0.5, 8 * eps * walk * max(1.0, float(logps.abs().max())))


def _by_position(settings: object, longest: int) -> str | None:
    """What depends on more of a row than on each token's own position."""
    rope = getattr(settings, "rope_parameters", None) or {}
    by_layer = rope.values() if all(isinstance(value, dict) for value in rope.values()) else [rope]
    for parameters in by_layer:
        original = parameters.get("original_max_position_embeddings") or getattr(
            settings, "original_max_position_embeddings", None
        )
        limit = original or getattr(settings, "max_position_embeddings", None) or longest
        if parameters.get("rope_type") in ("dynamic", "longrope") and longest > limit:
            return f"its rotary frequencies change with a row's length beyond {limit} positions"
    if getattr(settings, "attn_temperature_tuning", None):
        return "its attention is scaled by the place in the row"
    return None


def _shortened(example: TokenizedPair) -> TokenizedPair:
    """A long example's own tokens, fewer of them."""
    return replace(
        example,
        prompt_ids=example.prompt_ids[-_POSITIONS:],
        rejected_prompt_ids=example.rejected_prompt_ids
        and example.rejected_prompt_ids[-_POSITIONS:],
        chosen_ids=example.chosen_ids[:_POSITIONS],
        rejected_ids=example.rejected_ids[:_POSITIONS],
    )
