"""Check on the run's own rows that a model looks back only, and that prompts can be shared."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from prefine.errors import ConfigError
from prefine.models.hf.architecture import rounding_error
from prefine.training.batches.packing import PackedBatch
from prefine.training.forward.passes import Forward
from prefine.training.items import PlainItem, Text, TokenizedItem, longest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ITEMS = 8
"""The number of items that are compared."""

_POSITIONS = 512
# Code of any model, which plain rows have just passed through, may fail so on packed ones.
_FAILURES = (
    *(TypeError, ValueError, AttributeError, IndexError, KeyError),
    *(AssertionError, RuntimeError),
)


@torch.no_grad()
def check_causal(forward: Forward, batch: PackedBatch) -> None:
    """Check that other tokens in a row's second half do not change its first half.

    Args:
        forward: The passes through a model, prompts not shared.
        batch: Any batch of it.

    Raises:
        ConfigError: They change its hidden states, as in models that fill in gaps (BERT).
    """
    row = batch.input_ids[:1, :_POSITIONS].to(forward.device)
    half = row.shape[1] // 2
    # Of the same length, on which frequencies of positions and ties in a top-k may depend.
    other = row.clone()
    other[:, half:] = row.flip(1)[:, half:]
    if half == 0:
        return
    first, again = (forward.last_hidden(some)[:, :half].float() for some in (row, other))
    difference = float((first - again).abs().max())
    # Not finite says nothing; the first step refuses it.
    if difference > (allowed := rounding_error(forward.model, first)):
        raise ConfigError(
            f"{type(forward.model).__name__} looks ahead: a token's hidden state changes by "
            f"{difference:.2g} with the tokens after it (rounding: {allowed:.2g}), so it cannot "
            "score or write answers; choose a causal model, or set is_decoder: true in config.json "
            "where the model was trained so"
        )


def why_not_shared(model: "PreTrainedModel", examples: Sequence[TokenizedItem]) -> str | None:
    """The reason why prompts cannot be computed once for all their completions; None if they can.

    Compares, in the weights' own precision, the log-probabilities of packed trees with those of
    plain rows.

    Args:
        model: A causal language model, dropout off.
        examples: All that will be read.
    """
    if (reason := _by_position(model, max(map(longest, examples)))) is not None:
        return reason
    # Several completions of one prompt show whether one leaks into the next, if the first has
    # several tokens: such items first, and those of one prompt together.
    prompts = Counter(text.prompt for example in examples for text in example.texts)
    places = {prompt: place for place, prompt in enumerate(prompts)}

    def telling(example: TokenizedItem) -> tuple[bool, bool, int]:
        text = example.texts[0]
        return prompts[text.prompt] == 1, len(text.completion) == 1, places[text.prompt]

    first = [_shortened(example) for example in sorted(examples, key=telling)[:ITEMS]]
    expected = _logps(Forward(model, shared=False), first)
    try:
        found = _logps(Forward(model, shared=True), first)
    except torch.OutOfMemoryError:
        raise
    except NotImplementedError as error:
        return str(error)
    except _FAILURES as error:
        why = " ".join(str(error).split())[:200]
        return f"the model cannot read packed rows ({type(error).__name__}: {why})"
    difference = float((found - expected).abs().max())
    # What is no number is no difference that is allowed.
    if not difference <= (allowed := rounding_error(model, expected)):
        return (
            f"packed log-probabilities differ from plain ones by {difference:.2g} nats "
            f"(allowed: {allowed:.2g})"
        )
    return None


def _logps(forward: Forward, examples: Sequence[TokenizedItem]) -> Float[Tensor, " T"]:
    """Log-probabilities of all scored tokens, in the order of the examples.

    All in this process: another one need not know what it raises.
    """
    items, tokens = forward.item_values(forward.cut(examples, range(len(examples))))
    return tokens.rows(items.argsort()).values.logps


def _by_position(model: "PreTrainedModel", longest: int) -> str | None:
    """Name what depends on more of a row than on each token's own position, if anything does.

    Args:
        model: The model.
        longest: Positions of the longest row.
    """
    settings = model.config.get_text_config(decoder=True)
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


def _shortened(example: TokenizedItem) -> PlainItem:
    """The end of a long prompt and the beginnings of its completions, all of them scored."""
    texts = (
        Text(text.prompt[-_POSITIONS:], text.completion[:_POSITIONS]) for text in example.texts
    )
    return PlainItem(example.id, tuple(texts))
