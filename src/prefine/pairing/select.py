"""From a ranking to preference pairs or a list: the proposals of a selector, checked, filtered.

A selector may be a user's own, so its proposals are checked before they are used.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from prefine.config.sections import PairConfig
from prefine.errors import ConfigError
from prefine.pairing.filters import (
    SAME_ANSWER,
    TOO_CLOSE,
    TOO_UNEQUAL,
    TRUNCATED,
    lengths_match,
    refusal,
)
from prefine.pairing.protocol import Choice, Selector, scores_of, selector_facts
from prefine.pairing.view import PairEvidence, find, narrowed
from prefine.ranking.protocol import StrategyFacts
from prefine.records import (
    Completion,
    LabelledCompletion,
    PreferenceList,
    PreferencePair,
    Prompt,
    Ranking,
)

NO_PAIR, NO_LIST, NO_LABEL = "no pair selected", "no list selected", "no answer labelled"
CHAMPION_CUT = f"the best completion was {TRUNCATED}"


class Selected(NamedTuple):
    """The pairs of a prompt, and the number of proposals that were dropped, by reason."""

    pairs: list[PreferencePair]
    dropped: Counter[str]


def check_selector(
    selector_name: str,
    function: Selector,
    strategy_name: str,
    facts: StrategyFacts,
    table: Mapping[str, Selector],
) -> None:
    """Raise ConfigError unless the strategy guarantees all that the selector needs.

    The message names the selectors of `table`, by name, that fit the strategy.
    """
    needs = selector_facts(function)
    if not needs.fits(facts.guarantees):
        fitting = sorted(
            name for name, other in table.items() if selector_facts(other).fits(facts.guarantees)
        )
        raise ConfigError(
            f"pair.selector.name: {selector_name!r} needs {needs.missing(facts.guarantees)}, "
            f"which strategy {strategy_name!r} does not guarantee (it guarantees "
            f"{', '.join(sorted(facts.guarantees))}). Selectors that fit: "
            f"{', '.join(fitting) or 'none'}; or choose another rank.strategy"
        )


def checked_choices(proposed: Any, ranking: Ranking, *, where: str) -> Iterator[Choice]:
    """The choices that a selector of pairs returned, given this ranking.

    Raises:
        ConfigError: One is no choice of two completions of the ranking; `where` names the selector
            and the prompt.
    """
    for choice in _items(proposed, where):
        if not isinstance(choice, Choice):
            raise ConfigError(
                f"{where} proposes {choice!r:.80}; give Choice(chosen, rejected), completion ids"
            )
        _check_known(choice[:2], ranking, where)
        if choice.chosen == choice.rejected:
            raise ConfigError(
                f"{where} proposes {choice.chosen} over itself; propose two completions"
            )
        if choice.rejected_prompt is not None:
            raise ConfigError(
                f"{where} proposes a rejected_prompt; declare the selector with makes='joint'"
            )
        yield choice


def checked_list(proposed: Any, ranking: Ranking, *, where: str) -> list[str]:
    """The ids, best first, that a selector of lists returned, given this ranking.

    Raises:
        ConfigError: One is unknown or repeated, or its score is above that of one before it.
    """
    ids = list(_items(proposed, where))
    _check_known(ids, ranking, where)
    if len(set(ids)) < len(ids):
        raise ConfigError(f"{where} lists a completion twice: {ids!r:.200}")
    scores = scores_of(ranking) or dict.fromkeys(ids, 0.0)
    for above, below in pairwise(ids):
        if scores[below] > scores[above]:
            raise ConfigError(
                f"{where}: its list is not best first: {above} (score {scores[above]:g}) stands "
                f"before {below} ({scores[below]:g})"
            )
    return ids


def checked_labels(proposed: Any, ranking: Ranking, *, where: str) -> Mapping[str, bool]:
    """The labels by completion id that a selector of labels returned, given this ranking.

    Raises:
        ConfigError: It is no such mapping, a completion is unknown, or a label neither True nor
            False.
    """
    if not isinstance(proposed, Mapping):
        raise ConfigError(
            f"{where} returns {proposed!r:.80}; return a mapping from completion ids to True or "
            "False"
        )
    _check_known(proposed, ranking, where)
    for id_, label in proposed.items():
        if not isinstance(label, bool):
            raise ConfigError(f"{where} labels {id_} {label!r:.80}; give True (good) or False")
    return proposed


def _items(proposed: Any, where: str) -> Iterator[Any]:
    if isinstance(proposed, str) or not isinstance(proposed, Iterable):
        raise ConfigError(f"{where} returns {proposed!r:.80}; return a list")
    return iter(proposed)


def _check_known(ids: Iterable[Any], ranking: Ranking, where: str) -> None:
    for id_ in ids:
        if id_ not in ranking.completions:
            raise ConfigError(
                f"{where} names completion {id_!r:.80}, which is not among those that it was given "
                "(ranking.completions)"
            )


def select_pairs(
    prompt: Prompt,
    completions: Mapping[str, Completion],
    ranking: Ranking,
    propose: Callable[[Ranking], Iterable[Choice]],
    options: PairConfig,
    *,
    limit: int | None,
) -> Selected:
    """The first `limit` proposals that are wanted (None: all of them), as preference pairs.

    Args:
        prompt: The prompt.
        completions: Its completions, by id.
        ranking: Their ranking.
        propose: A selector, its own options bound.
        options: What all selectors share.
        limit: How many to take at most.

    Raises:
        DataError: The ranking names an unknown completion.
    """
    view = narrowed(ranking, completions, options)
    evidence = PairEvidence(view, judged=ranking)
    found: dict[Choice, PreferencePair] = {}
    dropped: Counter[str] = Counter()
    for choice in propose(view):
        if choice in found:
            continue
        pair = to_pair(prompt, completions, evidence, choice)
        why = None if pair is None else refusal(pair, options)
        if pair is None or why is not None:
            dropped[why or SAME_ANSWER] += 1
            continue
        found[choice] = pair
        if len(found) == limit:
            break
    if not found and not dropped:
        cut = view.champion is None and ranking.champion is not None and options.drop_truncated
        dropped[CHAMPION_CUT if cut else NO_PAIR] += 1
    return Selected(list(found.values()), dropped)


def to_pair(
    prompt: Prompt, completions: Mapping[str, Completion], evidence: PairEvidence, choice: Choice
) -> PreferencePair | None:
    """The preference pair of a choice, with the evidence on it; None for the same answer twice.

    Neither `p_chosen` nor `score_gap` is stored where it does not favour the chosen one: a champion
    may owe its place to other duels, or to the tie rule.

    Raises:
        DataError: One of the two is unknown or of another prompt.
    """
    chosen = find(prompt.id, completions, choice.chosen)
    rejected = find(prompt.id, completions, choice.rejected)
    if _same_answer(chosen, rejected):
        return None
    return PreferencePair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        p_chosen=evidence.p_chosen(choice),
        score_gap=evidence.gap(choice),
    )


def _same_answer(one: Completion, other: Completion) -> bool:
    """Return True for equal answers.

    Reasoning is no part of an answer: neither the judge nor its reader sees it.
    """
    return one.text == other.text and one.message.tool_calls == other.message.tool_calls


def across(
    pair: PreferencePair, other: PreferencePair, options: PairConfig
) -> PreferencePair | None:
    """A prompt's chosen against the rejected of another prompt's pair; None for unequal lengths."""
    if not lengths_match(pair.chosen, other.rejected, options):
        return None
    return PreferencePair(
        prompt=pair.prompt,
        chosen=pair.chosen,
        rejected=other.rejected,
        rejected_prompt=other.prompt,
    )


def select_list(
    prompt: Prompt,
    completions: Mapping[str, Completion],
    ranking: Ranking,
    propose: Callable[[Ranking], list[str]],
    options: PairConfig,
) -> PreferenceList | str:
    """The list of a prompt, with scores if there are any, else with ranks; or why there is none.

    From the best downwards, a completion is left out whose score is not below the last kept one's
    by more than the minimum gap, whose length does not match the best one's, or whose answer stands
    there already.

    Args:
        prompt: The prompt.
        completions: Its completions, by id.
        ranking: Their ranking.
        propose: A selector that makes lists, its own options bound.
        options: The options that all selectors share.

    Raises:
        DataError: The ranking names an unknown completion.
    """
    view = narrowed(ranking, completions, options)
    scores = scores_of(view)
    kept: list[Completion] = []
    left_out = NO_LIST
    for id_ in propose(view):
        found = find(prompt.id, completions, id_)
        if any(_same_answer(one, found) for one in kept):
            left_out = SAME_ANSWER
        elif kept and not lengths_match(kept[0], found, options):
            left_out = TOO_UNEQUAL
        elif (
            kept
            and options.min_gap is not None
            and (not scores or scores[kept[-1].id] - scores[id_] <= options.min_gap)
        ):
            left_out = TOO_CLOSE
        else:
            kept.append(found)
    if len(kept) < 2:
        return left_out
    if scores is not None and scores[kept[0].id] == scores[kept[-1].id]:
        return TOO_CLOSE
    return PreferenceList(
        prompt=prompt,
        completions=tuple(kept),
        scores=None if scores is None else tuple(scores[one.id] for one in kept),
        ranks=None if scores is not None else tuple(range(1, len(kept) + 1)),
    )


def select_labels(
    prompt: Prompt,
    completions: Mapping[str, Completion],
    ranking: Ranking,
    propose: Callable[[Ranking], Mapping[str, bool]],
    options: PairConfig,
) -> tuple[list[LabelledCompletion], Counter[str]]:
    """The labelled answers of a prompt, and the number of those that were dropped, by reason.

    Of answers that say the same, the one with the best score stays.

    Args:
        prompt: The prompt.
        completions: Its completions, by id.
        ranking: Their ranking.
        propose: A selector that makes labels, its own options bound.
        options: The options that all selectors share.

    Raises:
        DataError: The ranking names an unknown completion.
    """
    view = narrowed(ranking, completions, options)
    labels, scores = propose(view), scores_of(view) or {}
    kept: list[LabelledCompletion] = []
    dropped: Counter[str] = Counter()
    for id_ in sorted(labels, key=lambda one: (-scores.get(one, 0.0), one)):
        found = find(prompt.id, completions, id_)
        if any(_same_answer(one.completion, found) for one in kept):
            dropped[SAME_ANSWER] += 1
        else:
            kept.append(LabelledCompletion(prompt=prompt, completion=found, desirable=labels[id_]))
    if not kept:
        dropped[NO_LABEL] += 1
    return kept, dropped
