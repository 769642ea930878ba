"""From a ranking to preference pairs: what is proposed, which of it is wanted, and what is known of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prefine.errors import ConfigError
from prefine.pairing.evidence import PairEvidence, same_answer
from prefine.pairing.filters import (
    SAME_ANSWER,
    TOO_UNEQUAL,
    TRUNCATED,
    PairOptions,
    lengths_match,
    refusal,
)
from prefine.pairing.protocol import Choice, Selector, selector_facts
from prefine.pairing.view import find, narrowed
from prefine.ranking.protocol import StrategyFacts
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
        ConfigError: Something is not guaranteed; the message names the selectors of the table that
            fit.
    """
    needs = selector_facts(function)
    if not needs.fits(facts.guarantees):
        fitting = sorted(
            name for name, other in table.items() if selector_facts(other).fits(facts.guarantees)
        )
        raise ConfigError(
            f"pair.selector.name: {selector_name!r} needs {needs.missing(facts.guarantees)}, "
            "which strategy "
            f"{strategy_name!r} does not guarantee (it guarantees "
            f"{', '.join(sorted(facts.guarantees))}). "
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
        DataError: The ranking names an unknown completion.
    """
    view = narrowed(ranking, completions, options)
    known = PairEvidence(view, judged=ranking)
    found: dict[Choice, PreferencePair] = {}
    dropped: Counter[str] = Counter()
    for choice in propose(view):
        if choice in found:
            continue
        pair = to_pair(prompt, completions, known, choice)
        why = None if pair is None else refusal(pair, options)
        if pair is None or why is not None:
            dropped[why or SAME_ANSWER] += 1
            continue
        found[choice] = pair
        if len(found) == limit:
            break
    if not found and not dropped:
        cut = view.champion is None and ranking.champion is not None and options.drop_truncated
        dropped[CHAMPION_CUT if cut else NOTHING] += 1
    return Selected(list(found.values()), dropped)


def to_pair(
    prompt: Prompt, completions: Mapping[str, Completion], known: PairEvidence, choice: Choice
) -> PreferencePair | None:
    """The preference pair of a selected pair, with what the ranking knows about the two; None for the same answer.

    Neither `p_chosen` nor `score_gap` is stored where it does not favour the chosen one: a champion
    may owe its place to other duels, or to the tie rule.

    Args:
        prompt: What was answered.
        completions: Its completions, by id.
        known: What the ranking knows.
        choice: Two completions of the prompt.

    Raises:
        DataError: One of the two is unknown or of another prompt.
    """
    chosen, rejected = (
        find(prompt.id, completions, id_) for id_ in (choice.chosen, choice.rejected)
    )
    if same_answer(chosen, rejected):
        return None
    return PreferencePair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        p_chosen=known.p_chosen(choice),
        score_gap=known.gap(choice),
    )


def across(
    own: PreferencePair, other: PreferencePair, options: PairOptions
) -> tuple[PreferencePair | None, str | None]:
    """The chosen one of a prompt's pair against the rejected one of another prompt's; or why it is not wanted."""
    if not lengths_match(own.chosen, other.rejected, options):
        return None, TOO_UNEQUAL
    joined = PreferencePair(
        prompt=own.prompt, chosen=own.chosen, rejected=other.rejected, rejected_prompt=other.prompt
    )
    return joined, None
