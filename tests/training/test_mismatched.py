"""Answers to other prompts."""

import pytest
import tiny_training as tiny

from prefine.errors import DataError
from prefine.training.cross_prompt import cross_prompt_items
from prefine.training.relations.pairs import TokenizedPair


def _rows(prompts: str) -> list[TokenizedPair]:
    return [TokenizedPair(f"pair-{i}", (ord(p),), (i, 1), (i, 2)) for i, p in enumerate(prompts)]


@pytest.mark.parametrize(
    ("prompts", "partners"),
    [
        ("abc", [1, 2, 0]),
        ("aab", [2, 2, 0]),
        ("aba", [1, 2, 1]),
        ("aabb", [2, 2, 0, 0]),
        ("abaa", [1, 2, 1, 1]),
        ("ba" + "a" * 5, [1, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_each_prompt_gets_the_next_answers_to_another_one(
    prompts: str, partners: list[int]
) -> None:
    rows = _rows(prompts)
    found = cross_prompt_items(rows)
    for side in (0, 1):
        texts = [row.texts[side] for row in found]
        assert [text.prompt for text in texts] == [row.prompt_ids for row in rows]
        assert [text.completion[0] for text in texts] == partners
    assert all(prompts[partner] != own for partner, own in zip(partners, prompts, strict=True))


def test_a_single_prompt_has_no_answers_to_others() -> None:
    with pytest.raises(DataError, match="all pairs have the same prompt"):
        cross_prompt_items(_rows("aaa"))


def test_both_answers_of_the_other_pair_are_named_and_in_order() -> None:
    rows = tiny.examples()
    found = cross_prompt_items(rows)
    assert found[0].id == "pair-0 with the answers of pair-1"
    assert found[0].texts == (
        (rows[0].prompt_ids, rows[1].chosen_ids, ()),
        (rows[0].prompt_ids, rows[1].rejected_ids, ()),
    )
