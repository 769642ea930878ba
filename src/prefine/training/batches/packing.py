"""The rows that go through the model: prompts with all their completions, packed or padded.

Pairs of one prompt become one group, and a completion that several pairs share is there once.
Packed, the groups of `tokens` positions lie one after the other in a single row, a prompt once
before all its completions. Padded, every completion is a row with its own copy of the prompt, for
models whose layers cannot share it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from prefine.training.items import TokenizedPair


class Tree(NamedTuple):
    """A prompt and its completions within a row; all numbers are offsets in that row.

    The prompt takes `start` to `start + prompt`, completion k takes `branches[k][0]` to
    `branches[k][1]`. A completion's positions go on from the prompt's end, so a token's position is
    the number of tokens that it sees.
    """

    start: int
    prompt: int
    branches: tuple[tuple[int, int], ...]

    @property
    def stop(self) -> int:
        """The end of the last completion."""
        return self.branches[-1][1] if self.branches else self.start + self.prompt

    @property
    def longest(self) -> int:
        """Positions of the prompt with its longest completion."""
        return self.prompt + max((stop - start for start, stop in self.branches), default=0)


Layout = tuple[Tree, ...]
"""The trees of a row, which fill it from left to right."""

Ids = tuple[int, ...]
Place = tuple[int, int]
"""Of a completion within a group: which prompt, and which of its completions."""


class Prompted(NamedTuple):
    """A prompt and its distinct completions."""

    prompt: Ids
    completions: tuple[Ids, ...]


class Group(NamedTuple):
    """What belongs together: one prompt, or the two of a joint pair, and per pair its index and its two completions."""

    prompted: tuple[Prompted, ...]
    pairs: tuple[tuple[int, Place, Place], ...]

    @property
    def tokens(self) -> int:
        """Positions when a prompt is shared: the last token of a completion is no input."""
        return sum(
            len(prompt) + sum(len(ids) - 1 for ids in completions)
            for prompt, completions in self.prompted
        )

    @property
    def longest(self) -> int:
        """Positions of a prompt with its longest completion."""
        return max(
            len(prompt) + max(map(len, completions)) - 1 for prompt, completions in self.prompted
        )

    @property
    def num_completions(self) -> int:
        """How many completions all prompts have together."""
        return sum(len(completions) for _, completions in self.prompted)


class Span(NamedTuple):
    """Whole groups within a `PackedBatch`: the slices of its pairs, scored texts and scored positions that are theirs."""

    pairs: slice
    texts: slice
    scored: slice

    @property
    def positions(self) -> int:
        """How many positions the head computes."""
        return int(self.scored.stop - self.scored.start)


@dataclass(frozen=True)
class PackedBatch:
    """b pairs, C scored texts, S scored positions: what one pass through the layers takes.

    The scored texts are completions, and if asked for, prompts from their second token on. `scored`
    are the positions (in the flattened rows) whose next token belongs to one, `targets` those
    tokens, both text after text; `lengths` says how many a text has. `chosen` and `rejected` number
    each pair's completions among the texts, `prompts` the prompts of both. `spans` are the groups.
    Only a packed row has `trees`. Padding needs no mask: it stands after all that is read, and no
    layer looks ahead.
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
    prompts: tuple[Int[Tensor, " b"], Int[Tensor, " b"]] | None = None
    trees: Layout | None = None

    @property
    def positions(self) -> int:
        """Positions that the layers compute, padding included."""
        return self.input_ids.numel()

    @property
    def whole(self) -> Span:
        """All of it."""
        return Span(
            slice(0, len(self.pairs)), slice(0, len(self.lengths)), slice(0, len(self.targets))
        )

    def to(self, device: torch.device) -> "PackedBatch":
        """The same on another device."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def groups_of(examples: Sequence[TokenizedPair], pairs: Sequence[int], tokens: int) -> list[Group]:
    """The pairs by prompt, in the order of their first pair; a prompt with more than `tokens` becomes several groups.

    A joint pair, whose answers are to two prompts, is a group of its own.

    Args:
        examples: All examples.
        pairs: Indices of those that are wanted.
        tokens: Most positions of a group, if it has more than one pair.
    """
    open_groups: dict[Ids, list[int]] = {}
    members: list[list[int]] = []
    sizes: list[int] = []
    seen: list[set[Ids]] = []
    for index in pairs:
        example = examples[index]
        if example.rejected_prompt_ids is not None:
            members.append([index])
            sizes.append(tokens)
            seen.append(set())
            continue
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


def _group(examples: Sequence[TokenizedPair], pairs: Sequence[int]) -> Group:
    numbers: dict[Ids, tuple[int, dict[Ids, int]]] = {}

    def place(prompt: Ids, completion: Ids) -> Place:
        at, known = numbers.setdefault(prompt, (len(numbers), {}))
        return at, known.setdefault(completion, len(known))

    placed = []
    for index in pairs:
        example = examples[index]
        chosen = place(example.prompt_ids, example.chosen_ids)
        placed.append(
            (
                index,
                chosen,
                place(example.rejected_prompt_ids or example.prompt_ids, example.rejected_ids),
            )
        )
    return Group(
        tuple(Prompted(prompt, tuple(known)) for prompt, (_, known) in numbers.items()),
        tuple(placed),
    )


def pack(
    examples: Sequence[TokenizedPair],
    pairs: Sequence[int],
    tokens: int,
    *,
    score_prompts: bool = False,
) -> list[PackedBatch]:
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
    return [_packed(groups, score_prompts) for groups in bins]


def pad(
    examples: Sequence[TokenizedPair],
    pairs: Sequence[int],
    tokens: int,
    *,
    score_prompts: bool = False,
) -> list[PackedBatch]:
    """Padded rows, of like length together: at most `tokens` positions with padding, but for a group that has more."""
    cut: list[list[Group]] = []
    rows = 0
    for group in sorted(groups_of(examples, pairs, tokens), key=lambda group: -group.longest):
        rows += group.num_completions
        if not cut or rows * cut[-1][0].longest > tokens:
            cut.append([])
            rows = group.num_completions
        cut[-1].append(group)
    return [_padded(groups, score_prompts) for groups in cut]


def _packed(groups: Sequence[Group], score_prompts: bool) -> PackedBatch:
    ids: list[int] = []
    positions: list[int] = []
    scored: list[int] = []
    trees: list[Tree] = []
    for prompt, completions in _prompted(groups):
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
        if score_prompts:
            scored.extend(range(start, end - 1))
        trees.append(Tree(start, len(prompt), tuple(branches)))
    return PackedBatch(
        **_texts(groups, score_prompts),
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        scored=torch.tensor(scored),
        trees=tuple(trees),
    )


def _padded(groups: Sequence[Group], score_prompts: bool) -> PackedBatch:
    width = max(group.longest for group in groups)
    rows: list[Ids] = []
    scored: list[int] = []
    for prompt, completions in _prompted(groups):
        for completion in completions:
            start = len(rows) * width + len(prompt) - 1
            scored.extend(range(start, start + len(completion)))
            rows.append(prompt + completion[:-1])
        if score_prompts:
            scored.extend(range((len(rows) - 1) * width, (len(rows) - 1) * width + len(prompt) - 1))
    input_ids = np.zeros((len(rows), width), dtype=np.int64)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = ids
    return PackedBatch(
        **_texts(groups, score_prompts),
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.arange(width).repeat(len(rows), 1),
        scored=torch.tensor(scored),
    )


def _prompted(groups: Sequence[Group]) -> Iterator[Prompted]:
    return (prompted for group in groups for prompted in group.prompted)


def _texts(groups: Sequence[Group], score_prompts: bool) -> dict[str, Any]:
    """What packed and padded rows have in common."""
    columns: list[tuple[int, ...]] = []
    lengths: list[int] = []
    targets: list[int] = []
    spans = []
    for group in groups:
        before = len(columns), len(lengths), len(targets)
        first: list[int] = []
        for prompt, completions in group.prompted:
            first.append(len(lengths))
            for text in (*completions, prompt[1:]) if score_prompts else completions:
                lengths.append(len(text))
                targets.extend(text)
        for index, *sides in group.pairs:
            own = [first[prompt] + completion for prompt, completion in sides]
            theirs = [
                first[prompt] + len(group.prompted[prompt].completions) for prompt, _ in sides
            ]
            columns.append((index, *own, *theirs))
        after = len(columns), len(lengths), len(targets)
        spans.append(Span(*(slice(a, b) for a, b in zip(before, after, strict=True))))
    index, chosen, rejected, *prompts = torch.tensor(columns).T.contiguous()
    return {
        "pairs": index,
        "chosen": chosen,
        "rejected": rejected,
        "prompts": tuple(prompts) if score_prompts else None,
        "lengths": torch.tensor(lengths),
        "targets": torch.tensor(targets),
        "spans": tuple(spans),
    }


def join_spans(spans: Sequence[Span], positions: int) -> Iterator[Span]:
    """Neighbouring spans put together while they have at most `positions` scored positions."""
    current: Span | None = None
    for span in spans:
        if current is not None and current.positions + span.positions > positions:
            yield current
            current = None
        current = (
            span
            if current is None
            else Span(*(slice(a.start, b.stop) for a, b in zip(current, span, strict=True)))
        )
    if current is not None:
        yield current
