"""Rankings become labelled answers, good above a threshold."""

from collections.abc import Mapping
from typing import Any

import pytest
from pair_worlds import PROMPT, completion, ranked

from prefine.config.base import Component
from prefine.config.components import lookup
from prefine.config.sections import PairConfig
from prefine.errors import ConfigError
from prefine.pairing.protocol import selector
from prefine.pairing.select import NO_LABEL, SAME_ANSWER
from prefine.pairing.selectors.labelled import labelled
from prefine.ranking.protocol import facts_of
from prefine.records import Ranking
from prefine.run.item_rows import label_of, label_row
from prefine.stages.joining import RankedPrompt
from prefine.stages.pair_options import PairCounts
from prefine.stages.selection import BoundSelector

LETTERS, HERE = "abcd", "test_labelled"


def world(*scores: float) -> RankedPrompt:
    texts = {i: completion(i, f"{i}0", prompt=PROMPT) for i in LETTERS}
    return RankedPrompt(PROMPT, texts, ranked(scores, prompt=PROMPT))


def bound(name: str = "labelled", strategy: str | None = None, **settings: Any) -> BoundSelector:
    options = settings.pop("options", {})
    return BoundSelector(
        PairConfig(selector=Component(name=name, **options), **settings),
        None if strategy is None else Component(name=strategy),
    )


def labels_of(group: RankedPrompt, **settings: Any) -> tuple[dict[str, bool], PairCounts]:
    counts = PairCounts()
    found = bound(**settings).labels([group], counts)
    assert [label_of(label_row(one)) for one in found] == found
    return {one.completion.id: one.desirable for one in found}, counts


@pytest.mark.parametrize(
    ("above", "scores", "good"),
    [
        (None, (3.0, 2.0, 1.0, 0.0), "ab"),
        (None, (9.0, 2.0, 1.0, 0.0), "a"),
        (2.0, (3.0, 2.0, 1.0, 0.0), "a"),
        (-1.0, (3.0, 2.0, 1.0, 0.0), "abcd"),
        (5.0, (3.0, 2.0, 1.0, 0.0), ""),
        (0.0, (1.0, 1.0, 1.0, 1.0), "abcd"),
    ],
)
def test_good_is_what_has_more_than_the_threshold_or_the_mean(
    above: float | None, scores: tuple[float, ...], good: str
) -> None:
    found, counts = labels_of(world(*scores), options={} if above is None else {"above": above})
    assert found == {letter: letter in good for letter in LETTERS}
    assert counts.dropped == {}


def test_equal_scores_have_no_mean_to_be_above_and_missing_ones_no_label() -> None:
    group = world(1, 1, 1, 1)
    found, counts = labels_of(group)
    assert (found, counts.dropped, counts.prompts_without) == ({}, {NO_LABEL: 1}, 1)
    failed = world(3, 2, 1, 0)
    bare = failed.ranking.model_copy(update={"scores": None, "standard_errors": None})
    assert labelled(bare, above=0.0) == {}
    assert bound().productive([group, failed._replace(ranking=bare)]) == set()
    assert bound().productive([failed]) == {PROMPT.id}


def test_an_answer_stands_once_with_its_best_label_and_cut_ones_are_left_out() -> None:
    group = world(3, 2, 1, 0)
    twice = group.completions | {"d": completion("d", "a0", prompt=PROMPT)}
    found, counts = labels_of(group._replace(completions=twice))
    assert found == {"a": True, "b": True, "c": False}
    assert counts.dropped == {SAME_ANSWER: 1}
    cut = group.completions | {"a": completion("a", "a0", prompt=PROMPT, finish="length")}
    found, counts = labels_of(group._replace(completions=cut), drop_truncated=True)
    assert found == {"b": True, "c": False, "d": False} and counts.truncated == 1


def test_a_penalty_on_length_comes_before_the_threshold() -> None:
    group = world(3, 2, 1, 0)
    longer = group.completions | {"a": completion("a", "a" * 40, prompt=PROMPT)}
    found, _ = labels_of(
        group._replace(completions=longer), options={"above": 0.5}, length_penalty=0.1
    )
    assert found == {"a": False, "b": True, "c": True, "d": False}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"min_gap": 1.0}, "pair.min_gap: a prompt gives single answers and no pairs; leave"),
        ({"max_length_ratio": 2.0}, "pair.max_length_ratio: a prompt gives single answers"),
        ({"pairs_per_prompt": 2}, "pair.pairs_per_prompt: a prompt gives single answers"),
        ({"labels": "shuffled"}, "pair.labels: shuffled swaps the sides of pairs, and a labelled"),
        ({"options": {"above": "3"}}, "pair.selector.above: Input should be a valid number"),
        ({"options": {"above": float("nan")}}, "pair.selector.above: Input should be a finite"),
        ({"options": {"over": 3}}, "pair.selector.over: unknown option of selector 'labelled'"),
    ],
)
def test_options_that_do_not_go_with_labels_are_refused(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        bound(strategy="round_robin", **settings)
    assert says in str(refused.value)


def test_a_strategy_without_scores_is_refused() -> None:
    assert "scores" not in facts_of(lookup("strategy", "merge", where="")).guarantees
    with pytest.raises(ConfigError, match="'labelled' needs scores, which strategy 'merge'"):
        bound(strategy="merge")


@selector(needs=set(), makes="labels")
def listed(ranking: Ranking) -> Any:
    return ["a"]


@selector(needs=set(), makes="labels")
def numbered(ranking: Ranking) -> Mapping[str, Any]:
    return {"a": 1}


@selector(needs=set(), makes="labels")
def unknown(ranking: Ranking) -> Mapping[str, bool]:
    return {"z": True}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("listed", r"returns \['a'\]; return a mapping from completion ids to True or False"),
        ("numbered", r"labels a 1; give True \(good\) or False"),
        ("unknown", "names completion 'z', which is not among those that it was given"),
    ],
)
def test_labels_that_are_none(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{HERE}:{name}' on prompt {PROMPT.id} {says}"):
        bound(f"{HERE}:{name}").labels([world(3, 2, 1, 0)], PairCounts())
