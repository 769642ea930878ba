"""Batches of token rows: every prompt with all its completions, packed or padded.

Items of one prompt form a group, and a completion that several items name is there once. Packed,
the groups lie one after the other in a single row of at most `tokens` positions, each prompt once
before all its completions. Padded, every completion is a row with its own copy of the prompt, for
models whose layers cannot share it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from prefine.training.items import Answer, Ids, Text, TokenizedItem


class Tree(NamedTuple):
    """A prompt and its completions within a packed row; all numbers are offsets in that row.

    The prompt takes `start` to `start + prompt_length`, completion k takes `branches[k][0]` to
    `branches[k][1]`. A completion's position ids go on from the prompt's end, so a token's position
    is the number of tokens that it attends to, itself excluded.
    """

    start: int
    prompt_length: int
    branches: tuple[tuple[int, int], ...]

    @property
    def stop(self) -> int:
        """The end of the last completion."""
        return self.branches[-1][1]

    @property
    def longest(self) -> int:
        """Positions of the prompt with its longest completion."""
        return self.prompt_length + max(stop - start for start, stop in self.branches)


Layout = tuple[Tree, ...]
"""The trees of a row, which fill it from left to right."""


@dataclass
class Group:
    """Items that share a prompt, or a single item that answers several prompts.

    `completions` numbers the distinct completions of each prompt. `tokens` counts the positions
    when each prompt and completion is computed once: a completion's last token is no input.
    """

    items: list[int] = field(default_factory=list)
    completions: dict[Ids, dict[Answer, int]] = field(default_factory=dict)
    tokens: int = 0

    def add(self, index: int, item: TokenizedItem) -> None:
        """Add an item; a prompt or completion that is there already takes no room."""
        self.items.append(index)
        for text in item.texts:
            if text.prompt not in self.completions:
                self.completions[text.prompt] = {}
                self.tokens += len(text.prompt)
            numbers = self.completions[text.prompt]
            if text.answer not in numbers:
                numbers[text.answer] = len(numbers)
                self.tokens += len(text.completion) - 1

    @property
    def longest(self) -> int:
        """Positions of a prompt with its longest completion."""
        return max(
            Text(prompt, *answer).positions
            for prompt, numbers in self.completions.items()
            for answer in numbers
        )

    @property
    def num_completions(self) -> int:
        """The completions of all prompts."""
        return sum(map(len, self.completions.values()))


class Span(NamedTuple):
    """Whole groups of a `PackedBatch`: the slices of items, completions and scored positions."""

    items: slice
    completions: slice
    scored: slice

    @property
    def positions(self) -> int:
        """Positions that the head computes."""
        return int(self.scored.stop - self.scored.start)


@dataclass(frozen=True)
class PackedBatch:
    """b items with c completions and S scored positions: the input of one forward pass.

    Scored texts are the completions, of several turns the assistant's, and, if prompts are scored,
    each prompt from its second token on. `scored` holds the positions (in the flattened rows) that
    predict their tokens, `targets` these tokens, both text after text. Item i has `counts[i]`
    completions, which follow those of the items before it. Each completion has t texts: itself and,
    if scored, its prompt; `text_starts` and `text_lengths` say where they are in `scored`. Only
    packed rows have `trees`. Padding needs no mask: it stands behind everything that is read, and
    no layer looks ahead.
    """

    items: Int[Tensor, " b"]
    counts: Int[Tensor, " b"]
    text_starts: Int[Tensor, "c t"]
    text_lengths: Int[Tensor, "c t"]
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
    def whole_span(self) -> Span:
        """The span of all groups."""
        ends = len(self.items), len(self.text_starts), len(self.targets)
        return Span(*(slice(0, end) for end in ends))

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the batch on another device."""
        tensors: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def groups_of(items: Sequence[TokenizedItem], indices: Sequence[int], tokens: int) -> list[Group]:
    """Group items by prompt, in the order of their first item.

    A group takes further items while it has at most `tokens` positions; then another group of the
    same prompt begins. An item that answers several prompts is a group of its own.
    """
    groups: list[Group] = []
    by_prompt: dict[Ids, list[Group]] = {}
    for index in indices:
        texts = items[index].texts
        prompt = texts[0].prompt
        several = any(text.prompt != prompt for text in texts)
        same_prompt = [] if several else by_prompt.setdefault(prompt, [])
        answers = {text.answer for text in texts}
        for group in same_prompt:
            added = answers.difference(group.completions[prompt])
            if group.tokens + sum(len(completion) - 1 for completion, _ in added) <= tokens:
                break
        else:
            group = Group()
            groups.append(group)
            same_prompt.append(group)
        group.add(index, items[index])
    return groups


def pack(
    items: Sequence[TokenizedItem],
    indices: Sequence[int],
    tokens: int,
    *,
    score_prompts: bool = False,
) -> list[PackedBatch]:
    """Packed rows of at most `tokens` positions, without padding; a longer group is a row alone.

    The result depends on the arguments alone.
    """
    # First fit, longest first: a group goes into the first row that has room for it.
    rows: list[list[Group]] = []
    room: list[int] = []
    for group in sorted(groups_of(items, indices, tokens), key=lambda group: -group.tokens):
        row = next((row for row, left in enumerate(room) if group.tokens <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(tokens)
        rows[row].append(group)
        room[row] -= group.tokens
    return [_batch(items, groups, score_prompts) for groups in rows]


def pad(
    items: Sequence[TokenizedItem],
    indices: Sequence[int],
    tokens: int,
    *,
    score_prompts: bool = False,
) -> list[PackedBatch]:
    """Padded batches of at most `tokens` positions, padding included; a longer group is alone."""
    batches: list[list[Group]] = []
    rows = 0
    # Longest first, so that rows of a batch are about equally long.
    for group in sorted(groups_of(items, indices, tokens), key=lambda group: -group.longest):
        rows += group.num_completions
        if not batches or rows * batches[-1][0].longest > tokens:
            batches.append([])
            rows = group.num_completions
        batches[-1].append(group)
    return [_batch(items, groups, score_prompts, width=groups[0].longest) for groups in batches]


def _batch(
    items: Sequence[TokenizedItem],
    groups: Sequence[Group],
    score_prompts: bool,
    width: int | None = None,
) -> PackedBatch:
    """Lay groups out in one row, or, given a width, every completion in a padded row of its own."""
    ids: list[int] = []
    positions: list[int] = []
    scored: list[int] = []
    targets: list[int] = []
    trees: list[Tree] = []
    numbers: list[int] = []
    counts: list[int] = []
    text_starts: list[list[int]] = []
    text_lengths: list[list[int]] = []
    ends = [(0, 0, 0)]
    for group in groups:
        # First the group's texts, each prompt behind its completions, then its items, which look up
        # where their texts are: spans end with groups, so an item's texts are in its own group.
        starts: dict[Ids, list[int]] = {}
        for prompt, answers in group.completions.items():
            starts[prompt] = []
            copies = [[answer] for answer in answers] if width else [list(answers)]
            for together in copies:
                start, end = len(ids), len(ids) + len(prompt)
                ids.extend(prompt)
                positions.extend(range(len(prompt)))
                branches = []
                for text in (Text(prompt, *answer) for answer in together):
                    starts[prompt].append(len(targets))
                    targets.extend(text.scored)
                    branch = len(ids)
                    ids.extend(text.completion[:-1])
                    positions.extend(range(len(prompt), text.positions))
                    # The prompt's last token predicts the first one of every completion.
                    before = (end - 1, *range(branch, len(ids)))
                    scored.extend(chain.from_iterable(before[slice(*run)] for run in text.runs))
                    branches.append((branch, len(ids)))
                trees.append(Tree(start, len(prompt), tuple(branches)))
                if width:
                    filled = len(ids) - start
                    ids.extend([0] * (width - filled))
                    positions.extend(range(filled, width))
            if score_prompts:
                starts[prompt].append(len(targets))
                targets.extend(prompt[1:])
                scored.extend(range(start, end - 1))
        for index in group.items:
            texts = items[index].texts
            numbers.append(index)
            counts.append(len(texts))
            for text in texts:
                prompt_starts = starts[text.prompt]
                found = [prompt_starts[group.completions[text.prompt][text.answer]]]
                lengths = [len(text.scored)]
                if score_prompts:
                    found.append(prompt_starts[-1])
                    lengths.append(len(text.prompt) - 1)
                text_starts.append(found)
                text_lengths.append(lengths)
        ends.append((len(numbers), len(text_starts), len(targets)))
    return PackedBatch(
        items=torch.tensor(numbers),
        counts=torch.tensor(counts),
        text_starts=torch.tensor(text_starts),
        text_lengths=torch.tensor(text_lengths),
        input_ids=torch.tensor(ids).view(-1, width or len(ids)),
        position_ids=torch.tensor(positions).view(-1, width or len(ids)),
        scored=torch.tensor(scored),
        targets=torch.tensor(targets),
        spans=tuple(Span(*map(slice, start, end)) for start, end in pairwise(ends)),
        trees=None if width else tuple(trees),
    )


def join_spans(spans: Sequence[Span], positions: int) -> Iterator[Span]:
    """Join neighbouring spans while they have at most `positions` scored positions."""
    current = spans[0]
    for span in spans[1:]:
        if current.positions + span.positions > positions:
            yield current
            current = span
        else:
            current = Span(*(slice(a.start, b.stop) for a, b in zip(current, span, strict=True)))
    yield current
