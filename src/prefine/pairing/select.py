"""Which selector fits which strategy, and from a selected pair of ids to a preference pair."""

from collections.abc import Callable, Mapping
from statistics import fmean

from prefine.errors import ConfigError, DataError
from prefine.pairing.base import Choice
from prefine.ranking.base import Guarantee, StrategyFacts
from prefine.records import Completion, PreferencePair, Prompt, Ranking

Selector = Callable[..., list[Choice]]


def needs_of(function: Selector) -> frozenset[Guarantee]:
    """The guarantees attached by `selector`.

    Raises:
        ConfigError: The function was not declared as a selector.
    """
    needs = getattr(function, "needs", None)
    if not isinstance(needs, frozenset):
        raise ConfigError(
            f"pair.selector.name: {function} does not say what it needs; decorate it with prefine.pairing.base.selector"
        )
    return needs


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
    missing = needs_of(function) - facts.guarantees
    if missing:
        fitting = sorted(name for name, other in table.items() if needs_of(other) <= facts.guarantees)
        raise ConfigError(
            f"pair.selector.name: {selector_name!r} needs {', '.join(sorted(missing))}, which strategy "
            f"{strategy_name!r} does not guarantee (it guarantees {', '.join(sorted(facts.guarantees))}). "
            f"Selectors that fit: {', '.join(fitting) or 'none'}; or choose another rank.strategy"
        )


def to_pair(
    prompt: Prompt, completions_by_id: Mapping[str, Completion], ranking: Ranking, choice: Choice
) -> PreferencePair:
    """The preference pair of a selected pair, with what the ranking knows about the two.

    `p_chosen` is the mean over the answered duels of the two, un-swapped; None if they never met, or if that mean does
    not favour the chosen one (a champion may owe its place to other duels, or to the tie rule). `score_gap` is chosen
    minus rejected; None without scores.

    Raises:
        DataError: The two are the same answer, or one of them is unknown or of another prompt.
    """
    chosen, rejected = (_completion(prompt, completions_by_id, id_) for id_ in choice)
    # Reasoning is no part of the answer: neither the judge nor the reader of an answer sees it.
    if (chosen.text, chosen.message.tool_calls) == (rejected.text, rejected.message.tool_calls):
        raise DataError(
            f"prompt {prompt.id}: completions {chosen.id} and {rejected.id} are the same answer and cannot form a "
            "pair; identical answers are merged before judging, so rank these completions again"
        )
    p_chosen = _mean_p(ranking, choice)
    return PreferencePair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        p_chosen=p_chosen if p_chosen is not None and p_chosen > 0.5 else None,
        score_gap=_score_gap(ranking, choice),
    )


def _completion(prompt: Prompt, completions_by_id: Mapping[str, Completion], id_: str) -> Completion:
    completion = completions_by_id.get(id_)
    if completion is None or completion.prompt_id != prompt.id:
        found = "is not among the completions" if completion is None else f"answers prompt {completion.prompt_id}"
        raise DataError(f"prompt {prompt.id}: its ranking names completion {id_}, which {found}; rank again")
    return completion


def _mean_p(ranking: Ranking, choice: Choice) -> float | None:
    """The mean P(chosen is better) over the answered duels of the two, if there are any."""
    answers = []
    for duel in ranking.duels:
        if duel.p_first is None:
            continue
        if (duel.first, duel.second) == choice:
            answers.append(duel.p_first)
        elif (duel.second, duel.first) == choice:
            answers.append(1 - duel.p_first)
    return fmean(answers) if answers else None


def _score_gap(ranking: Ranking, choice: Choice) -> float | None:
    if ranking.scores is None:
        return None
    scores = dict(zip(ranking.completions, ranking.scores, strict=True))
    return scores[choice.chosen] - scores[choice.rejected]
