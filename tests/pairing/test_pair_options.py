"""The options that all selectors share: restricted rankings, refused proposals, limits, and
options that do not fit.
"""

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_worlds import PROMPT, completion, ranked

from prefine.config.base import Component
from prefine.config.components import TABLES, UNRANKED
from prefine.config.sections import PairConfig
from prefine.errors import ConfigError, DataError
from prefine.pairing.filters import (
    SAME_ANSWER,
    TOO_CLOSE,
    TOO_UNEQUAL,
    TOO_UNSURE,
    check_options,
)
from prefine.pairing.protocol import Choice, SelectorFacts
from prefine.pairing.select import CHAMPION_CUT, NO_PAIR, select_pairs
from prefine.pairing.selectors.best_vs import best_vs_random, best_vs_worst
from prefine.pairing.view import narrowed
from prefine.ranking.protocol import StrategyFacts
from prefine.records import DuelRecord, Ranking
from prefine.stages.joining import RankedPrompt
from prefine.stages.pair_options import PairCounts
from prefine.stages.selection import BoundSelector

FIVE = {c.id: c for c in (completion(id_, id_ * 10) for id_ in "abcde")}
SCORES = (5.0, 4.0, 3.0, 2.0, 0.0)


def select(
    ranking: Any,
    propose: Any = best_vs_worst,
    *,
    limit: int | None = 1,
    completions: Any = FIVE,
    **options: Any,
):
    return select_pairs(PROMPT, completions, ranking, propose, PairConfig(**options), limit=limit)


def chosen(selected: Any) -> list[tuple[str, str]]:
    return [(pair.chosen.id, pair.rejected.id) for pair in selected.pairs]


def test_proposals_are_taken_in_their_order_up_to_the_limit():
    assert chosen(select(ranked(SCORES))) == [("a", "e")]
    assert chosen(select(ranked(SCORES), limit=3)) == [("a", "e"), ("a", "d"), ("a", "c")]
    assert chosen(select(ranked(SCORES), limit=None)) == [
        ("a", "e"),
        ("a", "d"),
        ("a", "c"),
        ("a", "b"),
    ]


def test_what_is_passed_over_is_counted_by_reason():
    assert select(ranked(SCORES), limit=None, min_gap=2.0).dropped == {TOO_CLOSE: 2}
    assert chosen(select(ranked(SCORES), limit=None, min_gap=2.0)) == [("a", "e"), ("a", "d")]
    found = select(ranked(SCORES), limit=None, min_p_chosen=0.97)
    assert chosen(found) == [("a", "e")]
    assert found.dropped == {TOO_UNSURE: 3}
    assert select(ranked(SCORES, champion=None)).dropped == {NO_PAIR: 1}
    assert select(ranked(SCORES, scores=None, standard_errors=None), min_gap=0.0).dropped == {
        TOO_CLOSE: 4
    }


def test_lengths_are_matched_in_tokens_where_both_are_known_else_in_characters():
    texts = FIVE | {"e": completion("e", "e" * 21), "d": completion("d", "d" * 20)}
    found = select(ranked(SCORES), completions=texts, max_length_ratio=2.0)
    assert chosen(found) == [("a", "d")]
    assert found.dropped == {TOO_UNEQUAL: 1}
    tokens = texts | {"a": completion("a", "a", tokens=3), "e": completion("e", "e" * 99, tokens=6)}
    assert chosen(select(ranked(SCORES), completions=tokens, max_length_ratio=2.0)) == [("a", "e")]
    empty = FIVE | {"e": completion("e", "")}
    assert chosen(select(ranked(SCORES), completions=empty, max_length_ratio=99.0)) == [("a", "d")]


def test_truncated_completions_are_out_before_the_selector_looks():
    cut = FIVE | {id_: completion(id_, id_ * 3, finish="length") for id_ in "ae"}
    assert chosen(select(ranked(SCORES), completions=cut, drop_truncated=True)) == [("b", "d")]
    scan = ranked(SCORES, worst=None, order=None, scores=None, standard_errors=None)
    found = select(
        scan, lambda view: best_vs_random(view, seed=1), completions=cut, drop_truncated=True
    )
    assert found.pairs == []
    assert found.dropped == {CHAMPION_CUT: 1}


def test_a_length_penalty_moves_champion_and_worst_to_where_the_scores_then_are():
    texts = FIVE | {"a": completion("a", "a" * 100), "c": completion("c", "c" * 200)}
    # At .05 a character: a 5 - 5 = 0, b 3.5, c 3 - 10 = -7, d 1.5, e -.5.
    (pair,) = select(ranked(SCORES), completions=texts, length_penalty=0.05).pairs
    assert (pair.chosen.id, pair.rejected.id) == ("b", "c")
    assert pair.score_gap == pytest.approx(10.5)
    assert pair.p_chosen == pytest.approx(0.75), (
        "what the judge said of the two, whatever their lengths"
    )
    (against,) = select(ranked(SCORES), completions=texts, length_penalty=0.05, limit=3).pairs[1:2]
    assert (against.chosen.id, against.rejected.id) == ("b", "e")
    missing = ranked(SCORES, scores=None, standard_errors=None)
    assert select(missing, completions=texts, length_penalty=0.05).dropped == {NO_PAIR: 1}


def test_a_selector_that_repeats_itself_gives_a_pair_once():
    assert chosen(select(ranked(SCORES), lambda _: [Choice("a", "b")] * 3, limit=None)) == [
        ("a", "b")
    ]


def test_the_same_answer_with_other_reasoning_is_passed_over_and_counted():
    thought = FIVE["e"].message.model_copy(update={"content": "a" * 10, "reasoning": "hm"})
    same = FIVE | {"e": FIVE["e"].model_copy(update={"message": thought})}
    found = select(ranked(SCORES), completions=same)
    assert chosen(found) == [("a", "d")]
    assert found.dropped == {SAME_ANSWER: 1}


def test_what_a_ranking_knows_is_looked_up_once():
    """Counted, not timed: 32 completions have 496 duels and 496 pairs, and no pair may look
    through all duels.
    """

    class Counting(tuple):
        walks = 0

        def __iter__(self):
            Counting.walks += 1
            return super().__iter__()

    ids = [f"c{n:02d}" for n in range(12)]
    texts = {id_: completion(id_, id_) for id_ in ids}
    duels = Counting(DuelRecord(first=a, second=b, p_first=0.75) for a, b in combinations(ids, 2))
    full = Ranking(prompt_id=PROMPT.id, strategy="s", completions=tuple(ids), champion=ids[0])
    full = full.model_copy(update={"duels": duels})
    pairs = [Choice(a, b) for a, b in combinations(ids, 2)]
    found = select(full, lambda _: pairs, limit=None, completions=texts).pairs
    assert [pair.p_chosen for pair in found] == [0.75] * 66
    assert Counting.walks == 1


def test_an_unknown_completion_is_refused():
    with pytest.raises(DataError, match="names completion e, which is not among the completions"):
        select(ranked(SCORES), completions={id_: FIVE[id_] for id_ in "abcd"})


FIELDS = ("champion", "worst", "last_loser", "order", "scores")


@given(
    scores=st.lists(st.integers(-3, 3), min_size=2, max_size=6),
    cut=st.sets(st.sampled_from("abcdef")),
    lengths=st.lists(st.integers(1, 30), min_size=6, max_size=6),
    unknown=st.sets(st.sampled_from(FIELDS)),
    penalty=st.sampled_from([0.0, 0.1]),
)
def test_a_restricted_ranking_is_consistent(scores, cut, lengths, unknown, penalty):
    full = ranked([float(score) for score in scores])
    full = full.model_copy(
        update=dict.fromkeys(unknown) | ({"standard_errors": None} if "scores" in unknown else {})
    )
    texts = {
        id_: completion(id_, id_ * length, finish="length" if id_ in cut else "stop")
        for id_, length in zip("abcdef", lengths, strict=True)
    }
    view = narrowed(full, texts, PairConfig(drop_truncated=True, length_penalty=penalty))
    left = sorted(set(full.completions) - cut)
    assert list(view.completions) == left
    for name in unknown:
        assert getattr(view, name) is None, "nothing becomes known that was not"
    assert {view.champion, view.worst, view.last_loser} <= {None, *left}
    if view.order is not None:
        assert sorted(view.order) == left
        if view.champion is not None:
            assert view.champion == view.order[0]
        if view.worst is not None:
            assert view.worst == view.order[-1]
    if view.scores is not None:
        value = dict(zip(view.completions, view.scores, strict=True))
        original = dict(zip(full.completions, full.scores or (), strict=True))
        assert value == pytest.approx(
            {id_: original[id_] - penalty * len(texts[id_].text) for id_ in left}
        )
        if view.champion is not None:
            assert value[view.champion] == max(value.values())
        if view.worst is not None:
            assert value[view.worst] == min(value.values())
    if left and "champion" not in unknown and not {"order", "scores"} <= unknown and not penalty:
        assert view.champion is not None


ALL = StrategyFacts(frozenset({"best", "worst", "order", "scores", "last_loser"}), len, len)
SCAN = StrategyFacts(frozenset({"best", "last_loser"}), len, len)
RATED = StrategyFacts(frozenset({"best", "scores"}), len, len, frozenset({"ratings"}))
PAIRS = SelectorFacts(frozenset())
LISTS = SelectorFacts(frozenset(), makes="lists")


@pytest.mark.parametrize(
    ("options", "makes", "facts", "says"),
    [
        ({"min_gap": 0.0}, PAIRS, SCAN, r"pair\.min_gap: needs scores.*min_p_chosen"),
        (
            {"length_penalty": 0.1},
            PAIRS,
            SCAN,
            r"pair\.length_penalty: needs scores, which strategy 'x'",
        ),
        ({"min_p_chosen": 0.6}, PAIRS, RATED, r"pair\.min_p_chosen: strategy 'x' compares no two"),
        ({"min_p_chosen": 0.6}, LISTS, ALL, r"pair\.min_p_chosen: a prompt gives one list"),
        ({"pairs_per_prompt": 2}, LISTS, ALL, r"pair\.pairs_per_prompt: a prompt gives one list"),
    ],
)
def test_an_option_that_cannot_be_applied_is_an_error(options, makes, facts, says):
    with pytest.raises(ConfigError, match=says):
        check_options(PairConfig(**options), makes, "x", facts)
    check_options(PairConfig(max_length_ratio=2.0, drop_truncated=True), makes, "x", facts)


PAIR_SELECTORS = sorted(set(TABLES["selector"]) - {"lists", "joint", "labelled"} - UNRANKED)


@pytest.mark.parametrize("name", PAIR_SELECTORS)
@given(
    scores=st.lists(st.integers(0, 8), min_size=2, max_size=6),
    lengths=st.lists(st.integers(0, 9), min_size=6, max_size=6),
    cut=st.sets(st.sampled_from("abcdef"), max_size=3),
    met=st.permutations(range(6)),
    limit=st.integers(1, 4),
    gap=st.sampled_from([None, 0.0, 2.0]),
    ratio=st.sampled_from([None, 1.5]),
    penalty=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 9),
)
def test_every_selector_keeps_to_every_option(
    name, scores, lengths, cut, met, limit, gap, ratio, penalty, seed
):
    settings = PairConfig(
        selector=Component(name=name), min_gap=gap, max_length_ratio=ratio, length_penalty=penalty,
        drop_truncated=True, pairs_per_prompt=limit, seed=seed,
    )  # fmt: skip
    bound = BoundSelector(settings, None)
    full = ranked([float(score) for score in scores])
    texts = {
        id_: completion(id_, f"{id_}{'.' * length}", finish="length" if id_ in cut else "stop")
        for id_, length in zip("abcdef", lengths, strict=True)
    }
    counts = PairCounts()
    pairs = bound.pairs([RankedPrompt(PROMPT, texts, full)], (), counts)
    assert len(pairs) <= limit
    assert len({pair.id for pair in pairs}) == len(pairs)
    assert bool(pairs) or sum(counts.dropped.values()) > 0
    assert counts.prompts_without == (not pairs)
    corrected = {
        id_: score - penalty * len(texts[id_].text)
        for id_, score in zip(full.completions, scores, strict=True)
    }
    for pair in pairs:
        assert pair.chosen.id != pair.rejected.id
        assert {pair.chosen.finish_reason, pair.rejected.finish_reason} == {"stop"}
        assert pair.score_gap is None or pair.score_gap == pytest.approx(
            corrected[pair.chosen.id] - corrected[pair.rejected.id]
        )
        if gap is not None:
            assert pair.score_gap is not None
            assert pair.score_gap > gap
        if ratio is not None:
            short, long = sorted(len(side.text) for side in (pair.chosen, pair.rejected))
            assert long <= ratio * short
    # Another prompt beside it and another order of the completions change nothing.
    order = [place for place in met if place < len(scores)]
    shuffled = full.model_copy(
        update={
            "completions": tuple(full.completions[place] for place in order),
            "scores": tuple(full.scores[place] for place in order),
            "standard_errors": tuple(0.1 for _ in order),
        }
    )
    assert (
        bound.pairs(
            [RankedPrompt(PROMPT, texts, shuffled), RankedPrompt(PROMPT, texts, full)],
            (),
            PairCounts(),
        )
        == pairs * 2
    )


def test_counts_of_the_tally_become_notes():
    assert PairCounts().notes() == []
    notes = PairCounts(Counter(), prompts_without=2, truncated=3).notes()
    unknown = PairCounts()
    unknown.count_truncated([completion("a", "x", finish="unknown"), completion("b", "x")])
    assert "1 completions do not say whether they were cut" in unknown.notes()[0]
    assert notes == [
        "2 prompts give nothing to train on",
        "3 completions left out: cut by the generation limit",
    ]
