"""Selector against strategy, and from a choice to a preference pair."""

import pytest

from prefine.errors import ConfigError, DataError
from prefine.pairing.base import Choice
from prefine.pairing.select import check_selector, needs_of, to_pair
from prefine.ranking.base import facts_of
from prefine.records import Completion, Duel, Message, Prompt, Ranking
from prefine.registry import TABLES, lookup

PROMPT = Prompt.from_text("Say something.")
TABLE = {name: lookup("selector", name, where="pair.selector") for name in TABLES["selector"]}
FITTING = {
    "iterative": {"best_vs_random", "best_vs_last_loser"},
    "round_robin": {"best_vs_random", "best_vs_worst", "all_pairs"},
}


def completion(id_: str, text: str, *, reasoning: str | None = None, prompt_id: str = PROMPT.id) -> Completion:
    message = Message(role="assistant", content=text, reasoning=reasoning)
    return Completion(id=id_, prompt_id=prompt_id, sample_index=0, message=message)


COMPLETIONS = {c.id: c for c in (completion("a", "x"), completion("b", "y"), completion("c", "z"))}


def ranking(*duels: tuple[str, str, float | None], scores=None) -> Ranking:
    return Ranking(
        prompt_id=PROMPT.id,
        strategy="s",
        completions=("a", "b", "c"),
        champion="a",
        scores=scores,
        duels=tuple(Duel(first=f, second=s, p_first=p) for f, s, p in duels),
    )


@pytest.mark.parametrize("strategy", FITTING)
@pytest.mark.parametrize("name", TABLE)
def test_a_selector_fits_or_the_error_names_those_that_do(strategy, name):
    facts = facts_of(lookup("strategy", strategy, where="rank.strategy"))
    if name in FITTING[strategy]:
        check_selector(name, TABLE[name], strategy, facts, TABLE)
        return
    with pytest.raises(ConfigError) as error:
        check_selector(name, TABLE[name], strategy, facts, TABLE)
    message = str(error.value)
    assert message.startswith(f"pair.selector.name: '{name}' needs ")
    assert f"Selectors that fit: {', '.join(sorted(FITTING[strategy]))};" in message


def test_an_undeclared_selector_is_refused():
    with pytest.raises(ConfigError, match=r"decorate it with prefine\.pairing\.base\.selector"):
        needs_of(lambda ranking: [])


@pytest.mark.parametrize(
    ("duels", "expected"),
    [
        ([], None),
        ([("b", "c", 0.9)], None),
        ([("a", "b", 0.8)], 0.8),
        ([("b", "a", 0.1)], 0.9),
        ([("a", "b", 0.8), ("b", "a", 0.4)], 0.7),
        ([("a", "b", 0.8), ("b", "a", None)], 0.8),
        ([("a", "b", 1.0), ("b", "a", 1.0)], None),
        ([("a", "b", 0.2)], None),
        ([("a", "b", None)], None),
    ],
)
def test_p_chosen_is_the_mean_over_the_direct_duels_if_it_favours_the_chosen(duels, expected):
    assert to_pair(PROMPT, COMPLETIONS, ranking(*duels), Choice("a", "b")).p_chosen == (
        None if expected is None else pytest.approx(expected)
    )


def test_score_gap_and_records_of_the_pair():
    pair = to_pair(PROMPT, COMPLETIONS, ranking(scores=(1.0, 0.25, 0.5)), Choice("a", "b"))
    assert (pair.prompt, pair.chosen, pair.rejected) == (PROMPT, COMPLETIONS["a"], COMPLETIONS["b"])
    assert (pair.score_gap, pair.weight) == (0.75, 1.0)
    assert to_pair(PROMPT, COMPLETIONS, ranking(), Choice("a", "b")).score_gap is None


@pytest.mark.parametrize("reasoning", [None, "because"])
def test_the_same_answer_never_forms_a_pair(reasoning):
    same = {"a": completion("a", "x"), "b": completion("b", "x", reasoning=reasoning)}
    with pytest.raises(DataError, match=f"{PROMPT.id}: completions a and b are the same answer"):
        to_pair(PROMPT, same, ranking(), Choice("a", "b"))


def test_an_unknown_or_foreign_completion_is_refused():
    with pytest.raises(DataError, match="names completion b, which is not among the completions"):
        to_pair(PROMPT, {"a": COMPLETIONS["a"]}, ranking(), Choice("a", "b"))
    foreign = COMPLETIONS | {"b": completion("b", "y", prompt_id="other")}
    with pytest.raises(DataError, match="names completion b, which answers prompt other"):
        to_pair(PROMPT, foreign, ranking(), Choice("a", "b"))
