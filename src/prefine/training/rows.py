"""The rows that go through the model: prompts with all their completions, packed or padded.

Pairs of one prompt become one group, and a completion that several pairs share is there once. Packed, the groups of
`tokens` positions lie one after the other in a single row, a prompt once before all its completions. Padded, every
completion is a row with its own copy of the prompt, for models whose layers cannot share it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from prefine.training.examples import Example
from prefine.training.tree import Layout, Tree


class Group(NamedTuple):
    """One prompt, its distinct completions, and per pair: its index and those of its two completions in here."""

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int, int], ...]

    @property
    def tokens(self) -> int:
        """Positions when the prompt is shared: the last token of a completion is no input."""
        return len(self.prompt) + sum(map(len, self.completions)) - len(self.completions)

    @property
    def longest(self) -> int:
        """Positions of the prompt with its longest completion."""
        return len(self.prompt) + max(map(len, self.completions)) - 1


class Span(NamedTuple):
    """Whole groups within `Rows`: which of its pairs, completions and scored positions are theirs, as slices."""

    pairs: slice
    completions: slice
    scored: slice

    @property
    def positions(self) -> int:
        """How many positions the head computes."""
        return int(self.scored.stop - self.scored.start)


@dataclass(frozen=True)
class Rows:
    """b pairs, C completions, S scored positions: what one pass through the layers takes.

    `scored` are the positions (in the flattened rows) whose next token belongs to a completion, `targets` those tokens,
    both completion after completion; `lengths` says how many a completion has. `chosen` and `rejected` number each
    pair's completions. `spans` are the groups. Only a packed row has `trees`. Padding needs no mask: it
    stands after all that is read, and no layer looks ahead.
    """

    pairs: Int[Tensor, " b"]
    chosen: Int[Tensor, " b"]
    rejected: Int[Tensor, " b"]
    lengths: Int[Tensor, " C"]
    input_ids: Int[Tensor, "rows positions"]
    position_ids: Int[Tensor, "rows positions"]
    scored: Int[Tensor, " S"]
    targets: Int[Tensor, " S"]
    spans: tuple[Span, ...] = field(repr=False)
    trees: Layout | None = None

    @property
    def positions(self) -> int:
        """Positions that the layers compute, padding included."""
        return self.input_ids.numel()

    @property
    def whole(self) -> Span:
        """All of it."""
        return Span(slice(0, len(self.pairs)), slice(0, len(self.lengths)), slice(0, len(self.targets)))

    def to(self, device: torch.device) -> "Rows":
        """The same on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def groups_of(examples: Sequence[Example], pairs: Sequence[int], tokens: int) -> list[Group]:
    """The pairs by prompt, in the order of their first pair; a prompt with more than `tokens` becomes several groups.

    Args:
        examples: All examples.
        pairs: Indices of those that are wanted.
        tokens: Most positions of a group, if it has more than one pair.
    """
    open_groups: dict[tuple[int, ...], list[int]] = {}
    members: list[list[int]] = []
    sizes: list[int] = []
    seen: list[set[tuple[int, ...]]] = []
    for index in pairs:
        example = examples[index]
        sides = {example.chosen_ids, example.rejected_ids}
        found = open_groups.setdefault(example.prompt_ids, [])
        for at in found:
            more = sum(len(side) - 1 for side in sides - seen[at])
            if sizes[at] + more <= tokens:
                break
        else:
            at, more = len(members), len(example.prompt_ids) + sum(len(side) - 1 for side in sides)
            found.append(at)
            members.append([])
            sizes.append(0)
            seen.append(set())
        members[at].append(index)
        sizes[at] += more
        seen[at] |= sides
    return [_group(examples, some) for some in members]


def _group(examples: Sequence[Example], pairs: Sequence[int]) -> Group:
    numbers: dict[tuple[int, ...], int] = {}

    def number(ids: tuple[int, ...]) -> int:
        return numbers.setdefault(ids, len(numbers))

    sides = [(index, number(examples[index].chosen_ids), number(examples[index].rejected_ids)) for index in pairs]
    return Group(examples[pairs[0]].prompt_ids, tuple(numbers), tuple(sides))


def pack(examples: Sequence[Example], pairs: Sequence[int], tokens: int) -> list[Rows]:
    """Packed rows of at most `tokens` positions, longest group first into the first row with room; no padding.

    A longer group has a row of its own. The result depends on the arguments alone.
    """
    bins: list[list[Group]] = []
    room: list[int] = []
    for group in sorted(groups_of(examples, pairs, tokens), key=lambda group: -group.tokens):
        at = next((at for at, left in enumerate(room) if group.tokens <= left), None)
        if at is None:
            bins.append([group])
            room.append(tokens - group.tokens)
        else:
            bins[at].append(group)
            room[at] -= group.tokens
    return [_packed(groups) for groups in bins]


def pad(examples: Sequence[Example], pairs: Sequence[int], tokens: int) -> list[Rows]:
    """Padded rows, of like length together: at most `tokens` positions with padding, but for a group that has more."""
    cut: list[list[Group]] = []
    rows = 0
    for group in sorted(groups_of(examples, pairs, tokens), key=lambda group: -group.longest):
        rows += len(group.completions)
        if not cut or rows * cut[-1][0].longest > tokens:
            cut.append([])
            rows = len(group.completions)
        cut[-1].append(group)
    return [_padded(groups) for groups in cut]


def _packed(groups: Sequence[Group]) -> Rows:
    ids: list[int] = []
    positions: list[int] = []
    scored: list[int] = []
    trees: list[Tree] = []
    for prompt, completions, _ in groups:
        start, end = len(ids), len(ids) + len(prompt)
        ids.extend(prompt)
        positions.extend(range(len(prompt)))
        branches = []
        for completion in completions:
            a = len(ids)
            ids.extend(completion[:-1])
            positions.extend(range(len(prompt), len(prompt) + len(completion) - 1))
            scored.append(end - 1)
            scored.extend(range(a, len(ids)))
            branches.append((a, len(ids)))
        trees.append(Tree(start, len(prompt), tuple(branches)))
    return Rows(
        **_sides(groups),
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        scored=torch.tensor(scored),
        trees=tuple(trees),
    )


def _padded(groups: Sequence[Group]) -> Rows:
    sequences = [(prompt, completion) for prompt, completions, _ in groups for completion in completions]
    width = max(len(prompt) + len(completion) - 1 for prompt, completion in sequences)
    input_ids = np.zeros((len(sequences), width), dtype=np.int64)
    scored: list[int] = []
    for row, (prompt, completion) in enumerate(sequences):
        length = len(prompt) + len(completion) - 1
        input_ids[row, :length] = prompt + completion[:-1]
        scored.extend(range(row * width + len(prompt) - 1, row * width + length))
    return Rows(
        **_sides(groups),
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.arange(width).repeat(len(sequences), 1),
        scored=torch.tensor(scored),
    )


def _sides(groups: Sequence[Group]) -> dict[str, Any]:
    """What packed and padded rows have in common."""
    pairs: list[tuple[int, int, int]] = []
    lengths: list[int] = []
    targets: list[int] = []
    spans = []
    for group in groups:
        before = len(pairs), len(lengths), len(targets)
        pairs += [(index, len(lengths) + chosen, len(lengths) + rejected) for index, chosen, rejected in group.pairs]
        for completion in group.completions:
            lengths.append(len(completion))
            targets.extend(completion)
        after = len(pairs), len(lengths), len(targets)
        spans.append(Span(*(slice(a, b) for a, b in zip(before, after, strict=True))))
    index, chosen, rejected = torch.tensor(pairs).T.contiguous()
    return {
        "pairs": index,
        "chosen": chosen,
        "rejected": rejected,
        "lengths": torch.tensor(lengths),
        "targets": torch.tensor(targets),
        "spans": tuple(spans),
    }


def joined(spans: Sequence[Span], positions: int) -> Iterator[Span]:
    """Neighbouring spans put together while they have at most `positions` scored positions."""
    current: Span | None = None
    for span in spans:
        if current is not None and current.positions + span.positions > positions:
            yield current
            current = None
        current = (
            span if current is None else Span(*(slice(a.start, b.stop) for a, b in zip(current, span, strict=True)))
        )
    if current is not None:
        yield current
