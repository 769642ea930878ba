"""A user's own selector that is wrong: the message names it and the prompt, and says what it
did.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pair_worlds import PROMPT, completion, ranked

from prefine.config.base import Component
from prefine.config.sections import PairConfig
from prefine.errors import ConfigError
from prefine.pairing.protocol import Choice, selector
from prefine.records import Ranking
from prefine.stages.joining import RankedPrompt
from prefine.stages.pair_options import PairCounts
from prefine.stages.selection import BoundSelector

HERE = __name__
GROUP = RankedPrompt(PROMPT, {i: completion(i, i * 5) for i in "abc"}, ranked((2.0, 1.0, 0.0)))


@selector(needs=set())
def raising(ranking: Ranking) -> list[Choice]:
    return [Choice(ranking.completions[0], ranking.completions[99])]


@selector(needs=set())
def raising_later(ranking: Ranking) -> Iterator[Choice]:
    yield Choice("a", "b")
    raise KeyError("x")


@selector(needs=set())
def itself(ranking: Ranking) -> list[Choice]:
    return [Choice("a", "a")]


@selector(needs=set())
def unknown(ranking: Ranking) -> list[Choice]:
    return [Choice("a", "z")]


@selector(needs=set())
def tuples(ranking: Ranking) -> list[Any]:
    return [("a", "b")]


@selector(needs=set())
def nothing(ranking: Ranking) -> Any:
    return None


@selector(needs=set())
def secretly_joint(ranking: Ranking) -> list[Choice]:
    return [Choice("a", "b", "p")]


@selector(needs=set(), makes="lists")
def worst_first(ranking: Ranking) -> list[str]:
    return ["c", "b", "a"]


@selector(needs=set(), makes="lists")
def twice(ranking: Ranking) -> list[str]:
    return ["a", "a"]


@selector(needs=set(), makes="joint")
def nobodys_loser(choices: Mapping[str, Any]) -> dict[str, list[Choice]]:
    return {id_: [Choice("a", "b", "nowhere")] for id_ in choices}


@selector(needs=set(), makes="joint")
def no_mapping(choices: Mapping[str, Any]) -> list[Choice]:
    return []


@selector(needs=set(), makes="joint")
def silent(choices: Mapping[str, Any]) -> dict[str, list[Choice]]:
    return {}


def bound(name: str, **settings: Any) -> BoundSelector:
    return BoundSelector(PairConfig(selector=Component(name=f"{HERE}:{name}"), **settings), None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raising", f"on prompt {PROMPT.id} raises IndexError"),
        ("raising_later", f"on prompt {PROMPT.id} raises KeyError"),
        ("itself", "proposes a over itself"),
        ("unknown", "names completion 'z', which is not among those that it was given"),
        ("tuples", r"proposes \('a', 'b'\); give Choice"),
        ("nothing", "returns None; return a list"),
        ("secretly_joint", "declare the selector with makes='joint'"),
        ("nobodys_loser", "proposes Choice.*be rejected in those of the prompt"),
        ("no_mapping", r"returns \[\]; return the choices of each prompt by its id"),
    ],
)
def test_pairs_that_are_none(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"pair\.selector\.name: '{HERE}:{name}'.*{says}"):
        bound(name).pairs([GROUP], (), PairCounts())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("worst_first", r"not best first: c \(score 0\) stands before b \(1\)"),
        ("twice", "lists a completion twice"),
    ],
)
def test_lists_that_are_none(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{HERE}:{name}' on prompt {PROMPT.id}.*{says}"):
        bound(name).lists([GROUP], PairCounts())


def test_what_was_left_out_is_unknown_to_the_selector() -> None:
    cut = GROUP._replace(
        completions=GROUP.completions | {"b": completion("b", "b", finish="length")}
    )
    with pytest.raises(ConfigError, match="names completion 'b'"):
        bound("raising_later", drop_truncated=True).pairs([cut], (), PairCounts())


def test_a_joint_selector_may_leave_a_prompt_out() -> None:
    counts = PairCounts()
    assert bound("silent").pairs([GROUP], (), counts) == []
    assert counts.prompts_without == 1


@pytest.mark.parametrize(
    "facts",
    [{"makes": "pair"}, {"needs": {"bset"}}, {"needs_one_of": {"x"}}, {"pairs_per_prompt": 0}],
)
def test_facts_that_are_none(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="selector: "):
        selector(**{"needs": set()} | facts)
