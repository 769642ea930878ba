"""Batched sampling in which each row depends only on its own prompt, seed and place in the batch.

All tensors of a batch have shapes that do not depend on which rows are wanted, so that a resumed or
extended run draws the same bytes as a fresh one (same machine, versions and dtype).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.errors import NumericsError
from prefine.models.hf.open_rows import PaddedRows, Way

LIKELIEST = 100


class Drawn(NamedTuple):
    """One drawn completion: tokens with the stop token, summed log-probability, why it ended."""

    token_ids: tuple[int, ...]
    logp: float
    stopped: bool


def uniforms(keys: list[str], count: int) -> Float[np.ndarray, "rows count"]:
    """Return the random numbers of each row, from its key alone [rows, count], in [0, 1)."""
    return np.stack(
        [np.random.Generator(np.random.Philox(key=int(key, 16))).random(count) for key in keys]
    )


@torch.inference_mode()
def draw(
    model: Any,
    prompts: list[list[int]],
    *,
    group: int,
    streams: Float[np.ndarray, "rows steps"],
    wanted: list[bool],
    temperature: float,
    top_p: float,
    stop_ids: frozenset[int],
    pad_id: int,
    way: Way = PaddedRows,
) -> list[Drawn | None]:
    """Draw `group` completions of each prompt; row = prompt * group + sample.

    Args:
        model: A causal language model of transformers, in eval mode.
        prompts: Token ids.
        group: Samples per prompt in this batch.
        streams: One uniform number per row and step [rows, steps]; steps is the longest completion
            allowed.
        wanted: Which rows to draw; the others are carried along as padding and come back as None.
        temperature: 0 is greedy.
        top_p: Keep the most likely tokens up to this mass.
        stop_ids: Tokens that end a completion.
        pad_id: Token for padding.
        way: How rows are read and continued, see `open_rows.way_of`.
    Returns: Per row the completion, or None. Log-probabilities are the model's own (temperature 1),
        in nats.
    """
    # First the prompts are read; then one token per row and step is drawn and fed back. Rows that
    # have ended are carried along as padding, because shapes must not depend on them.
    device = model.device
    open_rows = way(model, prompts, group=group, pad_id=pad_id, fed=True)
    logits = open_rows.logits

    if bool(torch.isnan(logits).any(dim=-1).all()):
        raise NumericsError(
            "the model's logits are not numbers (NaN) before the first token; its weights are "
            "damaged"
        )

    rows, steps = streams.shape
    numbers = torch.from_numpy(streams).to(device)
    stops = torch.tensor(sorted(stop_ids), device=device)
    done = ~torch.tensor(wanted, device=device)
    logp = torch.zeros(rows, dtype=torch.float64, device=device)
    chosen: list[Tensor] = []
    alive: list[Tensor] = []
    for step in range(steps):
        logps = torch.log_softmax(logits.float(), dim=-1)
        token = _choose(logps, numbers[:, step], temperature, top_p)
        token = torch.where(done, pad_id, token)
        logp += torch.where(done, 0.0, logps.gather(1, token[:, None])[:, 0].double())
        chosen.append(token)
        alive.append(~done)
        done = done | torch.isin(token, stops)
        if bool(done.all()) or step == steps - 1:
            break
        logits = open_rows.feed(token)
    lengths = torch.stack(alive, 1).sum(dim=1).tolist()
    rows_of_tokens = torch.stack(chosen, 1).tolist()
    drawn: list[Drawn | None] = []
    for tokens, length, value, want in zip(
        rows_of_tokens, lengths, logp.tolist(), wanted, strict=True
    ):
        kept = tuple(tokens[:length])
        drawn.append(Drawn(kept, value, bool(kept) and kept[-1] in stop_ids) if want else None)
    return drawn


@torch.inference_mode()
def first_token_logps(
    model: Any, prompts: list[list[int]], *, pad_id: int, way: Way = PaddedRows
) -> list[dict[int, float]]:
    """Return the likeliest first tokens after each prompt with their log-probabilities [nat].

    Args:
        model: A causal language model of transformers, in eval mode.
        prompts: Token ids.
        pad_id: Token for padding.
        way: How rows are read, see `open_rows.way_of`.

    Raises:
        NumericsError: The logits of a prompt are not finite numbers.
    """
    logits = way(model, prompts, group=1, pad_id=pad_id, fed=False).logits
    logps = torch.log_softmax(logits.float(), dim=-1)
    if bool(torch.isnan(logps).any()):
        raise NumericsError("the judge's logits are not numbers (NaN); its weights are damaged")
    values, tokens = logps.topk(min(LIKELIEST, logps.shape[-1]), dim=-1)
    return [
        dict(zip(t, v, strict=True)) for t, v in zip(tokens.tolist(), values.tolist(), strict=True)
    ]


def _choose(
    logps: Float[Tensor, "rows vocabulary"],
    number: Float[Tensor, " rows"],
    temperature: float,
    top_p: float,
) -> Int[Tensor, " rows"]:
    """Return the token whose share of the cumulative probability contains the uniform number."""
    if temperature == 0:
        return logps.argmax(dim=-1)
    probs = torch.softmax(logps.double() / temperature, dim=-1)
    order = None
    if top_p < 1:
        probs, order = probs.sort(dim=-1, descending=True, stable=True)
        before = probs.cumsum(dim=-1) - probs
        probs = torch.where(before < top_p, probs, 0.0)
    edges = probs.cumsum(dim=-1)
    # Scaling the number instead of the probabilities; the clamp guards the last edge against
    # rounding.
    token = torch.searchsorted(edges, (number * edges[:, -1])[:, None], right=True)[:, 0]
    token = torch.minimum(token, (edges < edges[:, -1:]).sum(dim=-1))
    return token if order is None else order.gather(1, token[:, None])[:, 0]
