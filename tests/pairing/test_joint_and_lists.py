"""Pairs across prompts, and whole rankings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_worlds import PROMPT, completion, ranked
from pydantic import ValidationError

from prefine.config.base import Component
from prefine.config.sections import PairConfig
from prefine.errors import ConfigError
from prefine.pairing.filters import TOO_CLOSE, TOO_UNEQUAL
from prefine.pairing.protocol import Choice
from prefine.pairing.select import NO_LIST
from prefine.pairing.selectors.joint import joint
from prefine.records import PreferenceList, Prompt
from prefine.run.item_rows import list_of, list_row, pair_of, pair_row
from prefine.stages.joining import RankedPrompt
from prefine.stages.pair_options import PairCounts
from prefine.stages.selection import WITHOUT_PARTNER, BoundSelector

LETTERS = "abcd"


def world(number: int, *, scores=(3.0, 2.0, 1.0, 0.0), width=1) -> RankedPrompt:
    """One prompt; its completions are called a to d, with texts of its own."""
    prompt = Prompt.from_text(f"question {number}")
    texts = {i: completion(i, f"{i}{number}" * width, prompt=prompt) for i in LETTERS}
    return RankedPrompt(prompt, texts, ranked(scores, prompt=prompt))


def bound(selector="joint", *, strategy=None, options=None, **settings) -> BoundSelector:
    component = Component(name=selector, **(options or {}))
    return BoundSelector(PairConfig(selector=component, **settings), strategy)


def test_joint_merges_pairs_within_and_across_prompts():
    groups = [world(n) for n in range(6)]
    pairs = bound().pairs(groups, (), PairCounts())
    assert len(pairs) == 12
    across = [pair for pair in pairs if pair.rejected_prompt is not None]
    assert len(across) == 6
    for pair in pairs:
        assert pair.chosen.id == "a"
        assert pair.rejected.id != "a"
        assert pair.chosen.prompt_id == pair.prompt.id
    for pair in across:
        assert pair.rejected_prompt != pair.prompt
        assert pair.rejected.prompt_id == pair.rejected_prompt.id
        assert (pair.p_chosen, pair.score_gap) == (None, None), (
            "scores of two prompts have no common zero"
        )
    assert {pair.prompt.id for pair in across} == {pair.rejected_prompt.id for pair in across}
    assert pairs == bound().pairs(groups, (), PairCounts())
    assert [pair_of(pair_row(pair)) for pair in pairs] == pairs


def test_joint_across_alone_and_with_more_per_prompt():
    groups = [world(n) for n in range(4)]
    alone = bound(options={"keep": "across"}, pairs_per_prompt=1).pairs(groups, (), PairCounts())
    assert len(alone) == 4
    assert all(pair.rejected_prompt is not None for pair in alone)
    more = bound(pairs_per_prompt=5).pairs(groups, (), PairCounts())
    sides = {(p.prompt.id, p.rejected.id, p.rejected_prompt and p.rejected_prompt.id) for p in more}
    assert len(more) == len(sides) == 20
    counts = PairCounts()
    assert bound(options={"keep": "across"}).pairs(groups[:1], (), counts) == []
    assert counts.dropped == {WITHOUT_PARTNER: 1}


def test_joint_never_touches_what_is_held_out():
    groups = [world(n) for n in range(5)]
    kept_out = {groups[0].prompt.id, groups[3].prompt.id}
    pairs = bound().pairs(groups, kept_out, PairCounts())
    beside = [pair for pair in pairs if pair.prompt.id in kept_out]
    assert len(beside) == 4, "as many as pairs_per_prompt says, which is 2 by default"
    assert all(pair.rejected_prompt is None for pair in beside)
    more = bound(pairs_per_prompt=3).pairs(groups, kept_out, PairCounts())
    assert sum(pair.prompt.id in kept_out for pair in more) == 6
    assert not {pair.rejected_prompt.id for pair in pairs if pair.rejected_prompt} & kept_out


def test_it_is_noted_that_no_pair_joins_two_prompts():
    groups, counts = [world(n) for n in range(3)], PairCounts()
    pairs = bound(pairs_per_prompt=1).pairs(groups, (), counts)
    assert {pair.rejected_prompt for pair in pairs} == {None}
    assert any(
        "no pair joins two prompts: raise pair.pairs_per_prompt" in note for note in counts.notes()
    )
    counts = PairCounts()
    bound().pairs(groups, (), counts)
    assert counts.notes() == []


def test_joint_looks_at_a_few_partners_only():
    """Counted, not timed: each prompt's proposals are read from the ring without walking it."""

    class Counting(dict):
        looked = 0

        def __getitem__(self, key):
            self.looked += 1
            return super().__getitem__(key)

    choices = Counting({f"p{n}": [Choice("a", "b")] for n in range(500)})
    for proposals in joint(choices, seed=1).values():
        next(proposals), next(proposals)
    assert choices.looked < 500 * 10


def test_options_hold_across_prompts_too():
    groups = [world(0), world(1, width=10), world(2), world(3, scores=(3.0, 2.9, 2.8, 2.7))]
    counts = PairCounts()
    pairs = bound(max_length_ratio=2.0, min_gap=0.5).pairs(groups, (), counts)
    for pair in pairs:
        short, long = sorted(len(side.text) for side in (pair.chosen, pair.rejected))
        assert long <= 2 * short
        assert groups[3].prompt.id not in {
            pair.prompt.id,
            pair.rejected_prompt and pair.rejected_prompt.id,
        }
    assert counts.dropped[TOO_CLOSE] == 3
    assert counts.dropped[TOO_UNEQUAL] > 0


def test_a_new_prompt_changes_the_partner_of_one_other():
    def first_partner(number: int) -> dict[str, str | None]:
        choices = {f"p{n}": [Choice("a", "b")] for n in range(number)}
        return {
            id_: next(c.rejected_prompt for c in found if c.rejected_prompt)
            for id_, found in joint(choices, seed=5).items()
        }

    before, after = first_partner(9), first_partner(10)
    assert sum(before[id_] != after[id_] for id_ in before) == 1


def lists_of(group: RankedPrompt, **settings) -> tuple[list[PreferenceList], PairCounts]:
    counts = PairCounts()
    return bound("lists", **settings).lists([group], counts), counts


def test_a_list_has_scores_or_else_ranks():
    (found,), _ = lists_of(world(0, scores=(1.0, 3.0, 1.0, 2.0)))
    assert [c.id for c in found.completions] == ["b", "d", "a", "c"]
    assert (found.scores, found.ranks, found.weight) == ((3.0, 2.0, 1.0, 1.0), None, 1.0)
    assert list_of(list_row(found)) == found
    group = world(0)
    bare = group._replace(
        ranking=group.ranking.model_copy(update={"scores": None, "standard_errors": None})
    )
    (found,), _ = lists_of(bare)
    assert (found.scores, found.ranks) == (None, (1, 2, 3, 4))
    assert list_of(list_row(found)) == found


def test_a_list_is_thinned_by_gap_and_length():
    (found,), _ = lists_of(world(0, scores=(3.0, 2.5, 2.2, 0.0)), min_gap=0.6)
    assert [c.id for c in found.completions] == ["a", "c", "d"]
    group = world(0)
    texts = group.completions | {"b": completion("b", "b" * 50, prompt=group.prompt)}
    (found,), _ = lists_of(group._replace(completions=texts), max_length_ratio=2.0)
    assert [c.id for c in found.completions] == ["a", "c", "d"]
    cut = group.completions | {"a": completion("a", "a0", prompt=group.prompt, finish="length")}
    (found,), counts = lists_of(group._replace(completions=cut), drop_truncated=True)
    assert [c.id for c in found.completions] == ["b", "c", "d"]
    assert counts.truncated == 1


def test_a_list_holds_each_answer_once():
    group = world(0)
    thought = group.completions["b"].message.model_copy(update={"reasoning": "hm", "content": "a0"})
    texts = group.completions | {
        "b": group.completions["b"].model_copy(update={"message": thought})
    }
    (found,), _ = lists_of(group._replace(completions=texts))
    assert [c.id for c in found.completions] == ["a", "c", "d"]
    with pytest.raises(ValidationError, match="the same answer"):
        PreferenceList(prompt=group.prompt, completions=(texts["a"], texts["b"]), ranks=(1, 2))


@pytest.mark.parametrize(
    ("scores", "settings", "reason"),
    [((1.0,) * 4, {}, TOO_CLOSE), ((3.0, 2.0, 1.0, 0.0), {"min_gap": 9.0}, TOO_CLOSE)],
)
def test_a_list_without_a_preference_is_counted(scores, settings, reason):
    found, counts = lists_of(world(0, scores=scores), **settings)
    assert found == []
    assert counts.dropped == {reason: 1}


def test_a_ranking_without_order_gives_no_list():
    group = world(0)
    found, counts = lists_of(
        group._replace(ranking=group.ranking.model_copy(update={"scores": None, "order": None}))
    )
    assert found == []
    assert counts.dropped == {NO_LIST: 1}


def test_labels_of_lists_cannot_be_shuffled():
    with pytest.raises(ConfigError, match=r"pair\.labels: shuffled swaps"):
        bound("lists", labels="shuffled")


@given(st.lists(st.integers(0, 5), min_size=2, max_size=5))
def test_only_preferences_can_be_stored_as_lists(scores):
    completions = tuple(completion(f"c{n}", f"text {n}") for n in range(len(scores)))
    good = scores == sorted(scores, reverse=True) and scores[0] > scores[-1]
    values = {"prompt": PROMPT, "completions": completions, "scores": tuple(scores)}
    if good:
        assert PreferenceList(**values).id == PreferenceList(**values).id
        return
    with pytest.raises(ValidationError):
        PreferenceList(**values)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"scores": (1.0, 0.0), "ranks": (1, 2)},
        {"ranks": (1,)},
        {"ranks": (2, 1)},
        {"ranks": (0, 1)},
        {"ranks": (1, 2), "completions": (completion("a", "x"), completion("b", "x"))},
        {"ranks": (1, 2), "weight": 0.0},
    ],
)
def test_malformed_lists_are_refused(fields):
    completions = (completion("a", "x"), completion("b", "y"))
    with pytest.raises(ValidationError):
        PreferenceList(**{"prompt": PROMPT, "completions": completions} | fields)
