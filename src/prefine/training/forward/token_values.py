"""What the head says of scored tokens, and from it of completions."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prefine.training.batches.packing import PackedBatch, Span


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


class SideLogps(NamedTuple):
    """Summed log-probabilities of the two sides of B pairs, nats."""

    chosen: Float[Tensor, " B"]
    rejected: Float[Tensor, " B"]


class PairTokens(NamedTuple):
    """A value for each of the T scored tokens of n pairs.

    A pair has its chosen completion's tokens, then the rejected one's; with prompts, then those of
    the chosen side's prompt and of the rejected side's, which are the same unless the pair is
    joint. `lengths` is on the CPU and says how many tokens each of these k (2 or 4) has.
    """

    values: Float[Tensor, " T"]
    lengths: Int[Tensor, "n k"]

    def sides(self) -> SideLogps:
        """Sums over both completions."""
        return SideLogps(*self._sums()[:2])

    def prompts(self) -> SideLogps:
        """Sums over both sides' prompts; they must have been scored."""
        return SideLogps(*self._sums()[2:])

    def rows(self, pairs: Int[Tensor, " b"]) -> "PairTokens":
        """Those of some of the pairs."""
        return PairTokens(self.values[self.at(pairs)], self.lengths[pairs.cpu()])

    def at(self, pairs: Int[Tensor, " b"]) -> Int[Tensor, " t"]:
        """Where the values of some of the pairs are."""
        tokens, some = self.lengths.sum(1), pairs.cpu()
        return runs((tokens.cumsum(0) - tokens)[some], tokens[some]).to(self.values.device)

    def padded(self, side: int) -> Float[Tensor, "n longest"]:
        """Those of one of the k, right-padded with 0."""
        pieces = list(torch.split(self.values, self.lengths.flatten().tolist()))
        return pad_sequence(pieces[side :: self.lengths.shape[1]], batch_first=True)

    def _sums(self) -> tuple[Tensor, ...]:
        lengths = self.lengths.flatten().to(self.values.device)
        return segment_sums(self.values, lengths).view(self.lengths.shape).unbind(1)


class Places(NamedTuple):
    """Where the tokens of a span's pairs are among its scored positions; a shared completion is there repeatedly."""

    at: Int[Tensor, " T"]
    lengths: Int[Tensor, "b k"]

    def of(self, values: Float[Tensor, " S"]) -> PairTokens:
        """The values of all scored positions, by pair."""
        return PairTokens(values[self.at.to(values.device)], self.lengths)


def places(rows: PackedBatch, span: Span) -> Places:
    """Where the tokens of a span's pairs are.

    Args:
        rows: As they were cut, on any device.
        span: Whole groups of them.
    """
    own = [side[span.pairs].cpu() for side in (rows.chosen, rows.rejected, *(rows.prompts or ()))]
    segments = torch.stack(own, dim=1) - span.texts.start
    lengths = rows.lengths[span.texts].cpu()
    starts = lengths.cumsum(0) - lengths
    return Places(runs(starts[segments.flatten()], lengths[segments.flatten()]), lengths[segments])


def runs(starts: Int[Tensor, " r"], lengths: Int[Tensor, " r"]) -> Int[Tensor, " t"]:
    """The indices of several runs, one after the other."""
    ends = lengths.cumsum(0)
    return torch.arange(int(lengths.sum())) + torch.repeat_interleave(
        starts - ends + lengths, lengths
    )


def concat_pairs(parts: Sequence[PairTokens]) -> PairTokens:
    """Those of several runs of pairs, one after the other."""
    values, lengths = zip(*parts, strict=True)
    return PairTokens(torch.cat(values), torch.cat(lengths))
