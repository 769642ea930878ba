"""The options that all selectors share, and what they need of the strategy."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from prefine.config.sections import PairConfig
from prefine.errors import ConfigError
from prefine.records import Completion, PreferencePair

if TYPE_CHECKING:  # imported pairs have neither
    from prefine.pairing.protocol import SelectorFacts
    from prefine.ranking.protocol import StrategyFacts

SAME_ANSWER = "same answer"
TOO_CLOSE = "score gap too small or not known"
TOO_UNSURE = "p_chosen too small or not known"
TOO_UNEQUAL = "lengths differ too much"
TRUNCATED = "cut by the generation limit"

_NO_PAIRS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "lists": ("one list", ("min_p_chosen", "pairs_per_prompt")),
        "labels": (
            "single answers",
            ("min_gap", "min_p_chosen", "max_length_ratio", "pairs_per_prompt"),
        ),
    }
)
"""Words for items that are no pairs, and the options of pairs that these do not have."""


def check_options(
    options: PairConfig, selector: "SelectorFacts", strategy_name: str, facts: "StrategyFacts"
) -> None:
    """Raise ConfigError if an option that is set cannot be applied.

    The strategy does not give what it needs, or the selector makes lists or labelled answers, to
    which it does not apply.
    """
    for name, is_set, instead in (
        ("min_gap", options.min_gap is not None, ", or ask for pair.min_p_chosen"),
        ("length_penalty", options.length_penalty > 0, ""),
    ):
        if is_set and "scores" not in facts.guarantees:
            raise ConfigError(
                f"pair.{name}: needs scores, which strategy {strategy_name!r} does not guarantee; "
                f"leave pair.{name} out, or choose another rank.strategy{instead}"
            )
    if options.min_p_chosen is not None and "duels" not in facts.asks:
        raise ConfigError(
            f"pair.min_p_chosen: strategy {strategy_name!r} compares no two completions; use "
            "pair.min_gap"
        )
    made, names = _NO_PAIRS.get(selector.makes, ("", ()))
    for name in names:
        if getattr(options, name) is not None:
            raise ConfigError(
                f"pair.{name}: a prompt gives {made} and no pairs; leave pair.{name} out"
            )


def refusal(pair: PreferencePair, options: PairConfig) -> str | None:
    """The reason why a pair is not wanted; None if it is.

    Scores of two prompts have no gap, and their answers a probability only where a judge compared
    them.
    """
    if pair.rejected_prompt is None:
        if options.min_gap is not None and (
            pair.score_gap is None or pair.score_gap <= options.min_gap
        ):
            return TOO_CLOSE
        if options.min_p_chosen is not None and (
            pair.p_chosen is None or pair.p_chosen < options.min_p_chosen
        ):
            return TOO_UNSURE
    elif pair.p_chosen is not None and pair.p_chosen < (options.min_p_chosen or 0):
        return TOO_UNSURE
    if options.drop_truncated and "length" in (
        pair.chosen.finish_reason,
        pair.rejected.finish_reason,
    ):
        return TRUNCATED
    return None if lengths_match(pair.chosen, pair.rejected, options) else TOO_UNEQUAL


def lengths_match(one: Completion, other: Completion, options: PairConfig) -> bool:
    """Return True if the two are of similar length.

    It is counted in tokens where both were sampled here, else in characters.
    """
    if options.max_length_ratio is None:
        return True
    if one.token_ids is not None and other.token_ids is not None:
        lengths = len(one.token_ids), len(other.token_ids)
    else:
        lengths = len(one.text), len(other.text)
    return max(lengths) <= options.max_length_ratio * min(lengths)
