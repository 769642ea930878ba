"""The options that all selectors share, and what they need of the strategy."""

from dataclasses import dataclass

from prefine.errors import ConfigError
from prefine.pairing.protocol import SelectorFacts
from prefine.ranking.protocol import StrategyFacts
from prefine.records import Completion, PreferencePair

SAME_ANSWER = "same answer"
TOO_CLOSE = "score gap too small or not known"
TOO_UNSURE = "p_chosen too small or not known"
TOO_UNEQUAL = "lengths differ too much"
TRUNCATED = "cut by the generation limit"


@dataclass(frozen=True)
class PairOptions:
    """What a pair must fulfil, whichever selector proposes it.

    Args:
        min_gap: The gap [the strategy's scores] that the chosen one must exceed, strictly.
        min_p_chosen: The P(chosen is better) that the judge must at least have given the chosen
            one.
        max_length_ratio: The longer answer is at most so many times as long as the shorter one.
        length_penalty: Subtracted from the scores for every character of the answer, before
            anything is selected.
        drop_truncated: Leave out completions that the generation limit has cut.
        pairs_per_prompt: Take so many; None is the selector's own number.
    """

    min_gap: float | None = None
    min_p_chosen: float | None = None
    max_length_ratio: float | None = None
    length_penalty: float = 0.0
    drop_truncated: bool = False
    pairs_per_prompt: int | None = None


def check_options(
    options: PairOptions, selector: SelectorFacts, strategy_name: str, facts: StrategyFacts
) -> None:
    """Nothing, if every option that is set can be applied.

    Raises:
        ConfigError: One cannot: the strategy does not know what it is about, or a list has no such
            thing.
    """
    for name, value in (
        ("min_gap", options.min_gap),
        ("length_penalty", options.length_penalty or None),
    ):
        if value is not None and "scores" not in facts.guarantees:
            instead = (
                "; min_p_chosen asks for what the judge said about the two"
                if name == "min_gap"
                else ""
            )
            raise ConfigError(
                f"pair.{name}: needs scores, which strategy {strategy_name!r} does not "
                f"guarantee{instead}; "
                f"leave pair.{name} out, or choose another rank.strategy"
            )
    if options.min_p_chosen is not None and "duels" not in facts.asks:
        raise ConfigError(
            f"pair.min_p_chosen: strategy {strategy_name!r} compares no two completions; use "
            "pair.min_gap"
        )
    if selector.makes != "lists":
        return
    for name in ("min_p_chosen", "pairs_per_prompt"):
        if getattr(options, name) is not None:
            raise ConfigError(
                f"pair.{name}: a prompt gives one list and no pairs; leave pair.{name} out"
            )


def refusal(pair: PreferencePair, options: PairOptions) -> str | None:
    """Why the pair is not wanted; None if it is.

    Answers to two prompts were never compared, so only their lengths are looked at.
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
    if options.drop_truncated and "length" in (
        pair.chosen.finish_reason,
        pair.rejected.finish_reason,
    ):
        return TRUNCATED
    return None if lengths_match(pair.chosen, pair.rejected, options) else TOO_UNEQUAL


def lengths_match(one: Completion, other: Completion, options: PairOptions) -> bool:
    """Whether the two are of similar length: in tokens where both were sampled here, else in characters."""
    if options.max_length_ratio is None:
        return True
    if one.token_ids is not None and other.token_ids is not None:
        lengths = len(one.token_ids), len(other.token_ids)
    else:
        lengths = len(one.text), len(other.text)
    return max(lengths) <= options.max_length_ratio * min(lengths)
