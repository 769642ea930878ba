"""Values that the head computes for each scored token, and the same in the order of the items."""

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


class ItemTokens(NamedTuple):
    """Values of the T scored tokens of n items with C completions, item after item.

    Each completion's tokens are followed by those of its prompt if prompts are scored. `counts` has
    the completions of each item, `lengths` the tokens of the t texts of each completion; both are
    on the CPU.
    """

    values: TokenValues
    lengths: Int[Tensor, "C t"]
    counts: Int[Tensor, " n"]

    @classmethod
    def of(cls, values: TokenValues, batch: PackedBatch, span: Span) -> "ItemTokens":
        """Select the items of a span from the values of its scored positions."""
        index, lengths = token_index(batch, span)
        index = index.to(values.logps.device)
        counts = batch.counts[span.items].cpu()
        return cls(values.map(lambda column: column[index]), lengths, counts)

    def sums(self, column: Float[Tensor, " T"]) -> Float[Tensor, "C t"]:
        """Sum a column over each text, in a fixed order of additions on every device."""
        lengths = self.lengths.flatten().to(column.device)
        sums: Tensor = torch.segment_reduce(column, "sum", lengths=lengths, initial=0)
        return sums.view(self.lengths.shape)

    def logps(self) -> Float[Tensor, " C"]:
        """Summed log-probabilities of the completions."""
        return self.sums(self.values.logps)[:, 0]

    def mean_logps(self) -> Float[Tensor, " n"]:
        """The mean of each item's completions."""
        counts = self.counts.to(self.values.logps.device)
        sums: Tensor = torch.segment_reduce(
            self.logps().contiguous(), "sum", lengths=counts, initial=0
        )
        return sums / counts

    def prompt_logps(self) -> Float[Tensor, " C"]:
        """Summed log-probabilities of each completion's prompt; they must have been scored."""
        return self.sums(self.values.logps)[:, 1]

    def rows(self, items: Int[Tensor, " b"]) -> "ItemTokens":
        """Return the values of some of the items."""
        items = items.cpu()
        completions = completions_of(self.counts, items)
        tokens = self.lengths.sum(1)
        index = _ranges((tokens.cumsum(0) - tokens)[completions], tokens[completions])
        index = index.to(self.values.logps.device)
        return ItemTokens(
            self.values.map(lambda column: column[index]),
            self.lengths[completions],
            self.counts[items],
        )

    def padded(self, completions: slice) -> TokenValues:
        """The values of some completions [c, longest], right-padded with 0."""
        lengths, t = self.lengths.flatten().tolist(), self.lengths.shape[1]
        return self.values.map(
            lambda column: pad_sequence(
                list(torch.split(column, lengths))[::t][completions], batch_first=True
            )
        )


def completions_of(counts: Int[Tensor, " n"], items: Int[Tensor, " b"]) -> Int[Tensor, " c"]:
    """The indices of the completions of some items, given how many each item has."""
    return _ranges((counts.cumsum(0) - counts)[items], counts[items])


def token_index(batch: PackedBatch, span: Span) -> tuple[Int[Tensor, " T"], Int[Tensor, "c t"]]:
    """Return the indices of a span's tokens among its scored positions, and each text's length.

    A completion that several items share is there once for each of them. Both are on the CPU.
    """
    starts = batch.text_starts[span.completions].cpu() - span.scored.start
    lengths = batch.text_lengths[span.completions].cpu()
    return _ranges(starts.flatten(), lengths.flatten()), lengths


def on_tokens(
    batch: PackedBatch, span: Span, of_texts: Float[Tensor, "c t"]
) -> Float[Tensor, " S"]:
    """Put a number of each text on all its tokens; a completion of several items gets their sum.

    Args:
        batch: The batch.
        span: Its items.
        of_texts: One number for each of the span's texts.
    """
    index, lengths = token_index(batch, span)
    of_tokens = of_texts.flatten().repeat_interleave(lengths.flatten().to(of_texts.device))
    none = of_texts.new_zeros(span.positions)
    return none.index_put_((index.to(of_texts.device),), of_tokens, accumulate=True)


def concatenate_items(parts: Sequence[ItemTokens]) -> ItemTokens:
    """Concatenate the values of several runs of items; there must be at least one."""
    values, lengths, counts = zip(*parts, strict=True)
    return ItemTokens(concatenate(values), torch.cat(lengths), torch.cat(counts))


def gather_items(
    items: Int[Tensor, " b"], tokens: ItemTokens
) -> tuple[Int[Tensor, " B"], ItemTokens]:
    """Collect the items of all processes, by ascending index.

    Every process must have the same columns, also one without items.
    """
    every = gather(items)
    order = every.argsort()
    lengths, counts = (
        gather(one.to(items.device)).cpu() for one in (tokens.lengths, tokens.counts)
    )
    return every[order], ItemTokens(tokens.values.map(gather), lengths, counts).rows(order)


def _ranges(starts: Int[Tensor, " r"], lengths: Int[Tensor, " r"]) -> Int[Tensor, " t"]:
    """The indices of several ranges, one after the other."""
    ends = lengths.cumsum(0)
    return torch.arange(int(lengths.sum())) + torch.repeat_interleave(
        starts - ends + lengths, lengths
    )
