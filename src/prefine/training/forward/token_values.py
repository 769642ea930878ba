"""What the head says of scored tokens, and from it of completions."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Wanted(NamedTuple):
    """What is computed of each next-token distribution beside the token's log-probability."""

    sum_p2: bool = False
    spread_of: int | None = None


LOGPS_ONLY = Wanted()


class TokenValues(NamedTuple):
    """Of S scored tokens, nats; statistics that were not wanted are None.

    `log_sum_p2` is the logarithm of the sum of squared probabilities over the vocabulary,
    `top_mass` the probability of the k likeliest tokens together, `top_entropy` minus the sum of p
    log p over these, `entropy` the same over all.
    """

    logps: Float[Tensor, " S"]
    log_sum_p2: Float[Tensor, " S"] | None = None
    top_mass: Float[Tensor, " S"] | None = None
    top_entropy: Float[Tensor, " S"] | None = None
    entropy: Float[Tensor, " S"] | None = None


def statistics(
    probabilities: Float[Tensor, "n V"], logps: Float[Tensor, " n"], wanted: Wanted
) -> TokenValues:
    """The token's log-probabilities with the wanted statistics of their distributions."""
    found: dict[str, Tensor] = {}
    if wanted.sum_p2:
        found["log_sum_p2"] = torch.linalg.vector_norm(probabilities, dim=-1).log().mul_(2)
    if wanted.spread_of is not None:
        top = probabilities.topk(min(wanted.spread_of, probabilities.shape[1]), dim=-1).values
        found["top_mass"] = top.sum(-1)
        found["top_entropy"] = torch.special.entr(top).sum(-1)
        found["entropy"] = torch.special.entr(probabilities).sum(-1)
    return TokenValues(logps, **found)


def concatenated(parts: list[TokenValues], like: Tensor) -> TokenValues:
    """The values of several runs of tokens, one after the other; of none, if there is none."""
    if not parts:
        return TokenValues(like.new_empty(0))
    columns = [
        [column for column in some if column is not None] for some in zip(*parts, strict=True)
    ]
    logps, *others = columns
    return TokenValues(
        torch.cat(logps), *(torch.cat(column) if column else None for column in others)
    )


def slices(total: int, size: int) -> Iterator[slice]:
    """Neighbouring runs of `size` that make up `total`; the last may be smaller."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def segment_sums(values: Float[Tensor, " S"], lengths: Int[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Sums over neighbouring runs of the given lengths, in a fixed order of additions on every device."""
    return torch.segment_reduce(values, "sum", lengths=lengths, initial=0)
