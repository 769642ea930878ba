"""From a ranking to preference pairs: what is proposed, which of it is wanted, and what is known of it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import NamedTuple

from prefine.errors import ConfigError, DataError
from prefine.pairing.base import Choice, Selector, selector_facts
from prefine.pairing.options import TOO_UNEQUAL, TRUNCATED, PairOptions, lengths_match, refusal
from prefine.pairing.view import find, narrowed
from prefine.ranking.base import StrategyFacts
from prefine.records import Completion, PreferencePair, Prompt, Ranking

NOTHING = "no pair selected"
CHAMPION_CUT = f"the best completion was {TRUNCATED}"
Propose = Callable[[Ranking], Iterable[Choice]]


class Selected(NamedTuple):
    """The pairs that are taken of a prompt, and what was passed over on the way, by reason; or why there is none."""

    pairs: list[PreferencePair]
    dropped: Counter[str]


def check_selector(
    selector_name: str,
    function: Selector,
    strategy_name: str,
    facts: StrategyFacts,
    table: Mapping[str, Selector],
) -> None:
    """Nothing, if the strategy guarantees all that the selector needs.

    Args:
        selector_name: What the configuration calls the selector.
        function: The selector.
        strategy_name: What the configuration calls the strategy.
        facts: The strategy's facts.
        table: The selectors to suggest instead, by name.

    Raises:
        ConfigError: Something is not guaranteed; the message names the selectors of the table that fit.
    """
    needs = selector_facts(function)
    if not needs.fits(facts.guarantees):
        fitting = sorted(name for name, other in table.items() if selector_facts(other).fits(facts.guarantees))
        raise ConfigError(
            f"pair.selector.name: {selector_name!r} needs {needs.missing(facts.guarantees)}, which strategy "
            f"{strategy_name!r} does not guarantee (it guarantees {', '.join(sorted(facts.guarantees))}). "
            f"Selectors that fit: {', '.join(fitting) or 'none'}; or choose another rank.strategy"
        )


def select_pairs(
    prompt: Prompt,
    completions: Mapping[str, Completion],
    ranking: Ranking,
    propose: Propose,
    options: PairOptions,
    *,
    limit: int | None,
) -> Selected:
    """The first `limit` proposals that are wanted (None: all of them), as preference pairs.

    Args:
        prompt: What was answered.
        completions: Its completions, by id.
        ranking: Their ranking.
        propose: A selector, its own options bound.
        options: What all selectors share.
        limit: How many to take at most.

    Raises:
        DataError: A proposed pair is of one and the same answer, or names an unknown completion.
    """
    view = narrowed(ranking, completions, options)
    found: dict[Choice, PreferencePair] = {}
    dropped: Counter[str] = Counter()
    for choice in propose(view):
        if choice in found:
            continue
        pair = to_pair(prompt, completions, view, choice, judged=ranking)
        why = refusal(pair, options)
        if why is not None:
            dropped[why] += 1
            continue
        found[choice] = pair
        if len(found) == limit:
            break
    if not found and not dropped:
        cut = view.champion is None and ranking.champion is not None and options.drop_truncated
        dropped[CHAMPION_CUT if cut else NOTHING] += 1
    return Selected(list(found.values()), dropped)


def to_pair(
    prompt: Prompt,
    completions: Mapping[str, Completion],
    ranking: Ranking,
    choice: Choice,
    *,
    judged: Ranking | None = None,
) -> PreferencePair:
    """The preference pair of a selected pair, with what the ranking knows about the two.

    `p_chosen` is the mean over the answered duels of the two, un-swapped; if they never met, what scores that are
    log-odds say. It is None if neither is known, or if it does not favour the chosen one (a champion may owe its place
    to other duels, or to the tie rule). `score_gap` is chosen minus rejected; None without scores or below 0.

    Args:
        prompt: What was answered.
        completions: Its completions, by id.
        ranking: What the pair was selected from; the gap is that of its scores.
        choice: Two completions of the prompt.
        judged: The ranking before its scores were corrected for length: the probability is what the judge said.

    Raises:
        DataError: The two are the same answer, or one of them is unknown or of another prompt.
    """
    chosen, rejected = (find(prompt.id, completions, id_) for id_ in (choice.chosen, choice.rejected))
    # Reasoning is no part of the answer: neither the judge nor the reader of an answer sees it.
    if (chosen.text, chosen.message.tool_calls) == (rejected.text, rejected.message.tool_calls):
        raise DataError(
            f"prompt {prompt.id}: completions {chosen.id} and {rejected.id} are the same answer and cannot form a "
            "pair; identical answers are merged before judging, so rank these completions again"
        )
    p_chosen = _p_chosen(judged or ranking, choice)
    gap = _score_gap(ranking, choice)
    return PreferencePair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        p_chosen=p_chosen if p_chosen is not None and p_chosen > 0.5 else None,
        score_gap=gap if gap is not None and gap >= 0 else None,
    )


def across(
    own: PreferencePair, other: PreferencePair, options: PairOptions
) -> tuple[PreferencePair | None, str | None]:
    """The chosen one of a prompt's pair against the rejected one of another prompt's; or why it is not wanted."""
    if not lengths_match(own.chosen, other.rejected, options):
        return None, TOO_UNEQUAL
    joined = PreferencePair(prompt=own.prompt, chosen=own.chosen, rejected=other.rejected, rejected_prompt=other.prompt)
    return joined, None


def _p_chosen(ranking: Ranking, choice: Choice) -> float | None:
    """P(chosen is better) from the duels of the two, or else from log-odds."""
    answers = []
    for duel in ranking.duels:
        if duel.p_first is None:
            continue
        if (duel.first, duel.second) == (choice.chosen, choice.rejected):
            answers.append(duel.p_first)
        elif (duel.second, duel.first) == (choice.chosen, choice.rejected):
            answers.append(1 - duel.p_first)
    if answers:
        return fmean(answers)
    gap = _score_gap(ranking, choice) if ranking.score_unit == "log_odds" else None
    return None if gap is None else 1 / (1 + math.exp(-gap)) if gap > 0 else 0.5


def _score_gap(ranking: Ranking, choice: Choice) -> float | None:
    if ranking.scores is None:
        return None
    scores = dict(zip(ranking.completions, ranking.scores, strict=True))
    return scores[choice.chosen] - scores[choice.rejected]
