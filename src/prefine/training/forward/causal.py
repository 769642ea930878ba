"""Check on one of the run's own rows that a model's tokens do not see those after them."""

from typing import TYPE_CHECKING

import torch

from prefine.errors import ConfigError
from prefine.models.hf.architecture import rounding_error
from prefine.training.batches.packing import PackedBatch

if TYPE_CHECKING:
    from prefine.training.forward.passes import Forward

_POSITIONS = 512


@torch.no_grad()
def check_causal(forward: "Forward", batch: PackedBatch) -> None:
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
