"""Packed and padded rows: every token once, scored positions and their targets, limits."""

from itertools import pairwise

import tiny_training as tiny
import torch

from prefine.training.batches.packing import Tree, groups_of, join_spans, pack, pad
from prefine.training.relations.pairs import TokenizedPair

TWO = [TokenizedPair("a", (5, 6), (7, 1), (8, 9, 1)), TokenizedPair("b", (3,), (4,), (2, 1))]


def test_a_packed_row_has_each_prompt_once_and_positions_that_start_again_after_it() -> None:
    (rows,) = pack(TWO, [0, 1], 100)
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9, 3, 2]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 2, 3, 0, 1]]
    assert rows.trees == (Tree(0, 2, ((2, 3), (3, 5))), Tree(5, 1, ((6, 6), (6, 7))))
    assert rows.scored.tolist() == [1, 2, 1, 3, 4, 5, 5, 6]
    assert rows.targets.tolist() == [7, 1, 8, 9, 1, 4, 2, 1]
    assert rows.items.tolist() == [0, 1]
    assert rows.text_starts.tolist() == [[0], [2], [5], [6]]
    assert rows.text_lengths.tolist() == [[2], [3], [1], [2]]


def test_padded_rows_have_each_completion_with_its_own_prompt() -> None:
    (rows,) = pad(TWO, [0, 1], 100)
    assert rows.input_ids.tolist() == [[5, 6, 7, 0], [5, 6, 8, 9], [3, 0, 0, 0], [3, 2, 0, 0]]
    assert rows.scored.tolist() == [1, 2, 5, 6, 7, 8, 12, 13]
    assert rows.targets.tolist() == [7, 1, 8, 9, 1, 4, 2, 1]
    assert rows.trees is None


def test_pairs_of_one_prompt_share_it_and_a_completion_that_two_pairs_name_is_there_once() -> None:
    examples = [
        TokenizedPair("a", (5, 6), (7, 1), (8, 1)),
        TokenizedPair("b", (9,), (7, 1), (8, 1)),
        TokenizedPair("c", (5, 6), (8, 1), (4, 4, 1)),
    ]
    first, second = groups_of(examples, [0, 1, 2], 100)
    assert first.completions == {(5, 6): {((7, 1), ()): 0, ((8, 1), ()): 1, ((4, 4, 1), ()): 2}}
    assert second.completions == {(9,): {((7, 1), ()): 0, ((8, 1), ()): 1}}
    assert (first.items, second.items) == ([0, 2], [1])
    assert first.tokens == 2 + 1 + 1 + 2
    (rows,) = pack(examples, [0, 1, 2], 100)
    assert rows.items.tolist() == [0, 2, 1]
    assert rows.text_starts.tolist() == [[0], [2], [2], [4], [7], [9]]
    assert rows.text_lengths.tolist() == [[2], [2], [2], [3], [2], [2]]
    assert len(rows.input_ids[0]) == first.tokens + second.tokens


def test_a_prompt_with_more_completions_than_fit_becomes_several_groups() -> None:
    examples = [TokenizedPair(str(n), (1, 2, 3), (n, 5, 5, 5), (n, 6, 6, 6)) for n in range(10, 20)]
    groups = groups_of(examples, range(10), 16)
    assert [len(group.items) for group in groups] == [2] * 5
    assert all(group.tokens <= 16 for group in groups)


def test_rows_keep_the_limit_and_lose_no_pair_and_do_not_depend_on_chance() -> None:
    examples = tiny.examples(40)
    for cut in (pack, pad):
        rows = cut(examples, range(40), 60)
        assert sorted(torch.cat([some.items for some in rows]).tolist()) == list(range(40))
        assert all(some.positions <= 60 for some in rows)
        again = cut(examples, range(40), 60)
        assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(rows, again, strict=True))
    # First fit, longest first, leaves less than one group's room in all rows but the last ones.
    packed = pack(examples, range(40), 60)
    assert sum(some.positions for some in packed) / (60 * len(packed)) > 0.8


def test_a_group_longer_than_the_limit_is_alone() -> None:
    examples = [*tiny.examples(3), TokenizedPair("long", tuple(range(30)), (1,) * 30, (2,) * 30)]
    rows = pack(examples, range(4), 40)
    (alone,) = [some for some in rows if 3 in some.items.tolist()]
    assert alone.items.tolist() == [3]
    assert alone.positions == 88


def test_spans_are_joined_up_to_a_number_of_positions_and_never_cut() -> None:
    examples = tiny.examples(12)
    (rows,) = pack(examples, range(12), 10_000)
    chunks = list(join_spans(rows.spans, 40))
    assert chunks[0].scored.start == 0
    assert chunks[-1].scored.stop == len(rows.targets)
    assert all(a.scored.stop == b.scored.start for a, b in pairwise(chunks))
    assert all(chunk.positions <= 40 for chunk in chunks)
    assert {chunk.scored.stop for chunk in chunks} <= {span.scored.stop for span in rows.spans}
