"""Values that the head computes for each scored token, and the same in the order of the pairs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prefine.training.batches.packing import PackedBatch, Span
from prefine.training.distributed.processes import gather


class Wanted(NamedTuple):
    """Statistics of each next-token distribution to compute beside the token's log-probability.

    `sum_p2` asks for the sum of squared probabilities, `top_k` for the statistics of the k
    likeliest tokens.
    """

    sum_p2: bool = False
    top_k: int | None = None


LOGPS_ONLY = Wanted()


class TokenValues(NamedTuple):
    """Values of S scored tokens, nats; statistics that were not wanted are None.

    `log_sum_p2` is the logarithm of the sum of squared probabilities over the vocabulary,
    `top_mass` the probability of the k likeliest tokens together, `top_entropy` minus the sum of p
    log p over these, `entropy` the same over all.
    """

    logps: Float[Tensor, " S"]
    log_sum_p2: Float[Tensor, " S"] | None = None
    top_mass: Float[Tensor, " S"] | None = None
    top_entropy: Float[Tensor, " S"] | None = None
    entropy: Float[Tensor, " S"] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "TokenValues":
        """Apply a function to every column that is there."""
        columns: Any = (None if column is None else change(column) for column in self)
        return TokenValues(*columns)

    @classmethod
    def empty(cls, like: Tensor, wanted: Wanted = LOGPS_ONLY) -> "TokenValues":
        """Values of no token, with the wanted columns, in the dtype and on the device of `like`."""
        none = like.new_empty(0)
        squares = none if wanted.sum_p2 else None
        top = None if wanted.top_k is None else none
        return cls(none, squares, top, top, top)


def statistics(
    probabilities: Float[Tensor, "n V"], logps: Float[Tensor, " n"], wanted: Wanted
) -> TokenValues:
    """Join the tokens' log-probabilities with the wanted statistics of their distributions."""
    found: dict[str, Tensor] = {}
    if wanted.sum_p2:
        found["log_sum_p2"] = torch.linalg.vector_norm(probabilities, dim=-1).log().mul_(2)
    if wanted.top_k is not None:
        top = probabilities.topk(min(wanted.top_k, probabilities.shape[1]), dim=-1).values
        found["top_mass"] = top.sum(-1)
        found["top_entropy"] = torch.special.entr(top).sum(-1)
        found["entropy"] = torch.special.entr(probabilities).sum(-1)
    return TokenValues(logps, **found)


def concatenate(parts: Sequence[TokenValues]) -> TokenValues:
    """Concatenate values of the same columns; there must be at least one part."""
    columns: list[Any] = [
        None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)
    ]
    return TokenValues(*columns)


def slices(total: int, size: int) -> Iterator[slice]:
    """Neighbouring slices of `size` that make up `total`; the last may be smaller."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


class SideLogps(NamedTuple):
    """Summed log-probabilities of the two sides of B pairs, nats."""

    chosen: Float[Tensor, " B"]
    rejected: Float[Tensor, " B"]


class PairTokens(NamedTuple):
    """Values of the T scored tokens of n pairs, pair after pair.

    Each pair has its chosen completion's tokens, then the rejected one's; if prompts are scored,
    then those of the chosen side's prompt and of the rejected side's, which are the same unless the
    pair is joint. `lengths`, on the CPU, has the number of tokens of each of these k texts.
    """

    values: TokenValues
    lengths: Int[Tensor, "n k"]

    @classmethod
    def of(cls, values: TokenValues, batch: PackedBatch, span: Span) -> "PairTokens":
        """Select the pairs of a span from the values of its scored positions."""
        index, lengths = token_index(batch, span)
        index = index.to(values.logps.device)
        return cls(values.map(lambda column: column[index]), lengths)

    def sums(self, column: Float[Tensor, " T"]) -> Float[Tensor, "n k"]:
        """Sum a column over each text, in a fixed order of additions on every device."""
        lengths = self.lengths.flatten().to(column.device)
        sums: Tensor = torch.segment_reduce(column, "sum", lengths=lengths, initial=0)
        return sums.view(self.lengths.shape)

    def sides(self) -> SideLogps:
        """Summed log-probabilities of both completions."""
        return SideLogps(*self.sums(self.values.logps).unbind(1)[:2])

    def prompts(self) -> SideLogps:
        """Summed log-probabilities of both sides' prompts; they must have been scored."""
        return SideLogps(*self.sums(self.values.logps).unbind(1)[2:])

    def rows(self, pairs: Int[Tensor, " b"]) -> "PairTokens":
        """Return the values of some of the pairs."""
        pairs = pairs.cpu()
        tokens = self.lengths.sum(1)
        index = _ranges((tokens.cumsum(0) - tokens)[pairs], tokens[pairs])
        index = index.to(self.values.logps.device)
        return PairTokens(self.values.map(lambda column: column[index]), self.lengths[pairs])

    def padded(self, text: int) -> TokenValues:
        """The values of text number `text` of every pair [n, longest], right-padded with 0."""
        lengths, k = self.lengths.flatten().tolist(), self.lengths.shape[1]
        return self.values.map(
            lambda column: pad_sequence(
                list(torch.split(column, lengths))[text::k], batch_first=True
            )
        )


def token_index(batch: PackedBatch, span: Span) -> tuple[Int[Tensor, " T"], Int[Tensor, "b k"]]:
    """Return the indices of a span's tokens among its scored positions, and each text's length.

    A completion that several pairs share is there once for each of them. Both are on the CPU.
    """
    starts = batch.text_starts[span.pairs].cpu() - span.scored.start
    lengths = batch.text_lengths[span.pairs].cpu()
    return _ranges(starts.flatten(), lengths.flatten()), lengths


def concatenate_pairs(parts: Sequence[PairTokens]) -> PairTokens:
    """Concatenate the values of several runs of pairs; there must be at least one."""
    values, lengths = zip(*parts, strict=True)
    return PairTokens(concatenate(values), torch.cat(lengths))


def gather_pairs(
    pairs: Int[Tensor, " b"], tokens: PairTokens
) -> tuple[Int[Tensor, " B"], PairTokens]:
    """Collect the pairs of all processes, by ascending index.

    Every process must have the same columns, also one without pairs.
    """
    every = gather(pairs)
    order = every.argsort()
    lengths = gather(tokens.lengths.to(pairs.device)).cpu()
    return every[order], PairTokens(tokens.values.map(gather), lengths).rows(order)


def _ranges(starts: Int[Tensor, " r"], lengths: Int[Tensor, " r"]) -> Int[Tensor, " t"]:
    """The indices of several ranges, one after the other."""
    ends = lengths.cumsum(0)
    return torch.arange(int(lengths.sum())) + torch.repeat_interleave(
        starts - ends + lengths, lengths
    )
