"""Batched sampling with a KV cache whose every row is a function of its own prompt, seed and place in the batch.

All tensors of a batch have shapes that do not depend on which rows are wanted, so that a resumed or
extended run draws the same bytes as a fresh one (same machine, versions and dtype).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.errors import NumericsError

PROMPT_BUCKET = 64


class Drawn(NamedTuple):
    """One drawn completion: its tokens with the stop token, their summed log-probability, why it ended."""

    token_ids: tuple[int, ...]
    logp: float
    stopped: bool


def uniforms(keys: list[str], count: int) -> Float[np.ndarray, "rows count"]:
    """The random stream of each row, from its key alone [rows, count], in [0, 1)."""
    return np.stack(
        [np.random.Generator(np.random.Philox(key=int(key, 16))).random(count) for key in keys]
    )


def padded_length(tokens: int) -> int:
    """The bucket that a prompt of this many tokens is padded to."""
    return -(-tokens // PROMPT_BUCKET) * PROMPT_BUCKET


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
) -> list[Drawn | None]:
    """Draw `group` completions of each prompt; row = prompt * group + sample.

    Args:
        model: A causal language model of transformers, in eval mode.
        prompts: Token ids; all are padded on the left to one bucket.
        group: Samples per prompt in this batch.
        streams: One uniform number per row and step [rows, steps]; steps is the longest completion
            allowed.
        wanted: Which rows to draw; the others are carried along as padding and come back as None.
        temperature: 0 is greedy.
        top_p: Keep the most likely tokens up to this mass.
        stop_ids: Tokens that end a completion.
        pad_id: Token for padding.
    Returns: Per row the completion, or None. Log-probabilities are the model's own (temperature 1),
        in nats.
    """
    device = model.device
    width = padded_length(max(len(ids) for ids in prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=_positions(mask),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = out.past_key_values
    cache.batch_repeat_interleave(group)
    mask = mask.repeat_interleave(group, dim=0)
    logits = out.logits[:, -1].repeat_interleave(group, dim=0)
    position = mask.sum(dim=1, keepdim=True)

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
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        out = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=position + step,
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1]
    return _collect(torch.stack(chosen, 1), torch.stack(alive, 1), logp, wanted, stop_ids)


def _positions(mask: Int[Tensor, "rows width"]) -> Int[Tensor, "rows width"]:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _choose(
    logps: Float[Tensor, "rows vocabulary"],
    number: Float[Tensor, " rows"],
    temperature: float,
    top_p: float,
) -> Int[Tensor, " rows"]:
    """The token whose share of the cumulative probability contains the row's uniform number."""
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


def _collect(
    tokens: Int[Tensor, "rows steps"],
    alive: Tensor,
    logp: Tensor,
    wanted: list[bool],
    stop_ids: frozenset[int],
) -> list[Drawn | None]:
    lengths = alive.sum(dim=1).tolist()
    drawn: list[Drawn | None] = []
    for ids, length, value, want in zip(
        tokens.tolist(), lengths, logp.tolist(), wanted, strict=True
    ):
        kept = tuple(ids[:length])
        drawn.append(Drawn(kept, value, bool(kept) and kept[-1] in stop_ids) if want else None)
    return drawn
