"""Selector against strategy, and from a choice to a preference pair."""

import pytest

from prefine.config.components import TABLES, UNRANKED, lookup
from prefine.errors import ConfigError, DataError
from prefine.pairing.protocol import Choice, selector_facts
from prefine.pairing.select import check_selector, to_pair
from prefine.pairing.view import PairEvidence
from prefine.ranking.protocol import StrategyFacts, facts_of
from prefine.records import Completion, DuelRecord, Message, Prompt, Ranking

PROMPT = Prompt.from_text("Say something.")
TABLE = {
    name: lookup("selector", name, where="pair.selector")
    for name in sorted(TABLES["selector"].keys() - UNRANKED)
}
FITTING = {
    "iterative": {"best_vs_random", "best_vs_last_loser", "joint"},
    "minmax": {"best_vs_random", "best_vs_worst", "joint"},
    "merge": {"best_vs_random", "best_vs_worst", "best_vs_runner_up", "joint", "lists"},
    "round_robin": set(TABLE) - {"best_vs_last_loser"},
}


def completion(
    id_: str, text: str, *, reasoning: str | None = None, prompt_id: str = PROMPT.id
) -> Completion:
    message = Message(role="assistant", content=text, reasoning=reasoning)
    return Completion(id=id_, prompt_id=prompt_id, sample_index=0, message=message)


COMPLETIONS = {c.id: c for c in (completion("a", "x"), completion("b", "y"), completion("c", "z"))}


def ranking(*duels: tuple[str, str, float | None], scores=None, score_unit=None) -> Ranking:
    return Ranking(
        prompt_id=PROMPT.id,
        strategy="s",
        completions=("a", "b", "c"),
        champion="a",
        scores=scores,
        score_unit=score_unit,
        duels=tuple(DuelRecord(first=f, second=s, p_first=p) for f, s, p in duels),
    )


def paired(found: Ranking, completions: dict[str, Completion] = COMPLETIONS):
    return to_pair(PROMPT, completions, PairEvidence(found, judged=found), Choice("a", "b"))


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
    assert "needs , " not in message
    assert f"Selectors that fit: {', '.join(sorted(FITTING[strategy]))};" in message


def test_an_undeclared_selector_is_refused():
    with pytest.raises(ConfigError, match=r"decorate it with prefine\.pairing\.protocol\.selector"):
        selector_facts(lambda ranking: [])


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
    assert paired(ranking(*duels)).p_chosen == (
        None if expected is None else pytest.approx(expected)
    )


@pytest.mark.parametrize(
    ("unit", "scores", "duels", "expected"),
    [
        ("log_odds", (2.0, 0.0, 0.0), [], 0.8807970779778823),
        ("log_odds", (2.0, 0.0, 0.0), [("a", "b", 0.6)], 0.6),
        ("log_odds", (2.0, 0.0, 0.0), [("a", "b", None)], 0.8807970779778823),
        ("log_odds", (0.0, 2.0, 0.0), [], None),
        ("log_odds", (0.0, 0.0, 0.0), [], None),
        ("log_odds", (2000.0, -2000.0, 0.0), [], 1.0),
        ("log_odds", (-2000.0, 2000.0, 0.0), [], None),
        (None, (2.0, 0.0, 0.0), [], None),
        ("log_odds", None, [], None),
    ],
)
def test_log_odds_say_p_chosen_where_the_two_never_met(unit, scores, duels, expected):
    pair = paired(ranking(*duels, scores=scores, score_unit=unit))
    assert pair.p_chosen == (None if expected is None else pytest.approx(expected))


def test_a_gap_against_the_chosen_one_is_not_stored():
    assert paired(ranking(scores=(0.0, 1.0, 0.0))).score_gap is None
    assert paired(ranking(scores=(0.0, 0.0, 0.0))).score_gap is None


def test_score_gap_and_records_of_the_pair():
    pair = paired(ranking(scores=(1.0, 0.25, 0.5)))
    assert (pair.prompt, pair.chosen, pair.rejected) == (PROMPT, COMPLETIONS["a"], COMPLETIONS["b"])
    assert (pair.score_gap, pair.weight) == (0.75, 1.0)
    assert paired(ranking()).score_gap is None


@pytest.mark.parametrize("reasoning", [None, "because"])
def test_the_same_answer_never_forms_a_pair(reasoning):
    same = {"a": completion("a", "x"), "b": completion("b", "x", reasoning=reasoning)}
    assert paired(ranking(), same) is None


def test_an_unknown_or_foreign_completion_is_refused():
    with pytest.raises(DataError, match="names completion b, which is not among the completions"):
        paired(ranking(), {"a": COMPLETIONS["a"]})
    foreign = COMPLETIONS | {"b": completion("b", "y", prompt_id="other")}
    with pytest.raises(DataError, match="names completion b, which answers prompt other"):
        paired(ranking(), foreign)


def test_order_and_scores_alone_are_enough_for_those_that_need_no_champion():
    facts = StrategyFacts(frozenset({"order", "scores"}), max_asks=lambda m: m, rounds=lambda m: 1)
    fitting = {
        name for name, function in TABLE.items() if selector_facts(function).fits(facts.guarantees)
    }
    assert fitting == {"all_pairs", "rejection_sampling", "lists", "labelled"}
    with pytest.raises(ConfigError, match="'lists' needs order or scores, which strategy 'x'"):
        check_selector(
            "lists", TABLE["lists"], "x", StrategyFacts(frozenset({"best"}), len, len), TABLE
        )
