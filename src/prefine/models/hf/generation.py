"""Batched sampling in which each row depends only on its own prompt, seed and place in the batch.

A row has the same bits whichever rows are wanted and however long the others are, so that a resumed
or extended run draws the same bytes as a fresh one (same machine, versions and dtype).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.errors import NumericsError
from prefine.models.hf.open_rows import PaddedPrompts, ReadPrompts, Way

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
    read: ReadPrompts,
    *,
    group: int,
    streams: Float[np.ndarray, "rows steps"],
    wanted: list[bool],
    temperature: float,
    top_p: float,
    top_k: int | None = None,
    stop_ids: frozenset[int],
) -> list[Drawn | None]:
    """Draw `group` completions of each prompt; row = prompt * group + sample.

    Args:
        read: The prompts, for appending tokens.
        group: Samples per prompt in this batch.
        streams: One uniform number per row and step [rows, steps]; steps is the longest completion
            allowed.
        wanted: Which rows to draw; the others are padding and come back as None.
        temperature: 0 is greedy.
        top_p: Keep the most likely tokens up to this mass, of those that `top_k` keeps.
        top_k: Keep so many tokens, the likeliest; None keeps all. Of equal ones the lower ids stay.
        stop_ids: Tokens that end a completion.
    Returns: Per row the completion, or None. Log-probabilities are the model's own (temperature 1),
        in nats.
    """
    # One token per row and step is drawn and fed back. A row that has ended leaves the batch as
    # soon as that changes no bit of the others, and is carried along until then.
    open_rows = read.rows(group)
    logits = open_rows.logits
    device = logits.device

    if bool(torch.isnan(logits).any(dim=-1).all()):
        raise NumericsError(
            "the model's logits are not numbers (NaN) before the first token; its weights are "
            "damaged"
        )

    rows, steps = streams.shape
    numbers = torch.from_numpy(streams).to(device)
    stops = torch.tensor(sorted(stop_ids), device=device)
    # Of the rows that are in the batch: their numbers, and which are still drawn.
    row = torch.arange(rows, device=device)
    alive = torch.tensor(wanted, device=device)
    logp = torch.zeros(rows, dtype=torch.float64, device=device)
    lengths = torch.zeros(rows, dtype=torch.long, device=device)
    chosen = torch.zeros(rows, steps, dtype=torch.long, device=device)
    for step in range(steps):
        logps = torch.log_softmax(logits.float(), dim=-1)
        token = _choose(logps, numbers[row, step], temperature, top_p, top_k)
        drawn_logp = logps.gather(1, token[:, None])[:, 0].double()
        logp[row] += torch.where(alive, drawn_logp, 0.0)
        lengths[row] += alive
        chosen[row, step] = token
        alive = alive & ~torch.isin(token, stops)
        if not bool(alive.any()) or step == steps - 1:
            break
        if (kept := open_rows.shrink(alive)) is not None:
            row, alive, token = row[kept], alive[kept], token[kept]
        logits = open_rows.feed(token)
    rows_of_tokens = chosen.tolist()
    drawn: list[Drawn | None] = []
    for tokens, length, value, want in zip(
        rows_of_tokens, lengths.tolist(), logp.tolist(), wanted, strict=True
    ):
        own = tuple(tokens[:length])
        drawn.append(Drawn(own, value, bool(own) and own[-1] in stop_ids) if want else None)
    return drawn


@torch.inference_mode()
def first_token_logps(
    model: Any, prompts: list[list[int]], *, pad_id: int, way: Way = PaddedPrompts
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
    logits = way(model, prompts, pad_id=pad_id, fed=False).rows(1).logits
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
    top_k: int | None = None,
) -> Int[Tensor, " rows"]:
    """Return the token whose share of the cumulative probability contains the uniform number."""
    if temperature == 0:
        return logps.argmax(dim=-1)
    probs = torch.softmax(logps.double() / temperature, dim=-1)
    order = None
    if top_p < 1 or top_k is not None:
        probs, order = probs.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        probs = probs[:, :top_k]
        probs = probs / probs.sum(dim=-1, keepdim=True)
    if top_p < 1:
        before = probs.cumsum(dim=-1) - probs
        probs = torch.where(before < top_p, probs, 0.0)
    edges = probs.cumsum(dim=-1)
    # Scaling the number instead of the probabilities; the clamp guards the last edge against
    # rounding.
    token = torch.searchsorted(edges, (number * edges[:, -1])[:, None], right=True)[:, 0]
    token = torch.minimum(token, (edges < edges[:, -1:]).sum(dim=-1))
    return token if order is None else order.gather(1, token[:, None])[:, 0]
