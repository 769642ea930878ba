"""Answers to other prompts."""

from dataclasses import replace

import pytest
import tiny_training as tiny

from prefine.errors import DataError
from prefine.training.cross_prompt import cross_prompt_pairs
from prefine.training.items import TokenizedPair


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
    found = cross_prompt_pairs(rows)
    assert [row.prompt_ids for row in found] == [row.prompt_ids for row in rows]
    assert [row.chosen_ids[0] for row in found] == partners
    assert [row.rejected_ids[0] for row in found] == partners
    assert all(prompts[partner] != own for partner, own in zip(partners, prompts, strict=True))


def test_a_single_prompt_has_no_answers_to_others() -> None:
    with pytest.raises(DataError, match="all pairs have the same prompt"):
        cross_prompt_pairs(_rows("aaa"))


def test_nothing_else_of_a_pair_changes_but_what_it_is_called() -> None:
    rows = tiny.examples()
    found = cross_prompt_pairs(rows)
    assert found[0].id == "pair-0 with the answers of pair-1"
    for before, after in zip(rows, found, strict=True):
        answers = {"chosen_ids": before.chosen_ids, "rejected_ids": before.rejected_ids}
        assert replace(after, id=before.id, **answers) == before
