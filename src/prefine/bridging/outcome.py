"""The outcomes of a pair whose rejected answer was rewritten: bridged, or as it was, and why."""

from prefine.bridging.protocol import UNCHANGED
from prefine.calls.protocol import Failure
from prefine.records import Completion, PreferencePair, content_hash

BRIDGED = "bridged"
_AS_IT_WAS = "as it was: "

EMPTY = "the rewriting is empty"
REPEATED = "the rewriting repeats the rejected answer"
TOO_LONG = "the rewriting is longer than bridge.max_length_ratio allows"
FILTERED = "the rewriting was stopped by a filter"
NO_VERDICT = "the judge gave no verdict on the rewriting"

NOT_IN_SHARE = f"{_AS_IT_WAS}not in bridge.share"
SAME_AS_CHOSEN = f"{_AS_IT_WAS}the rewriting is the chosen answer"
NOTHING_TO_CHANGE = f"{_AS_IT_WAS}the model finds nothing to change"
NOT_PREFERRED = f"{_AS_IT_WAS}the judge does not prefer the rewriting"
OF_EARLIER_ROUND = f"{_AS_IT_WAS}of an earlier round, whose own stage bridge has asked"
ACROSS_PROMPTS = f"{_AS_IT_WAS}answers to two prompts"
SEVERAL_TURNS = f"{_AS_IT_WAS}answers of several turns"
TOOL_CALLS = f"{_AS_IT_WAS}answers with tool calls"


def is_failure(outcome: str) -> bool:
    """Return True for an outcome that counts towards `max_failed_fraction`."""
    return outcome != BRIDGED and not outcome.startswith(_AS_IT_WAS)


def unasked(pair: PreferencePair, *, share: float, seed: int) -> str | None:
    """Return why a pair is not rewritten at all, or None.

    Args:
        pair: The pair.
        share: The share of pairs that are.
        seed: Of the hash that chooses them.
    """
    if pair.rejected_prompt is not None:
        return ACROSS_PROMPTS
    sides = (pair.chosen, pair.rejected)
    if any(side.earlier_turns for side in sides):
        return SEVERAL_TURNS
    if any(side.message.tool_calls for side in sides):
        return TOOL_CALLS
    if int(content_hash("bridge share", seed, pair.id), 16) >= share * 16**16:
        return NOT_IN_SHARE
    return None


def refusal(
    pair: PreferencePair,
    rewriting: Completion | Failure,
    *,
    max_length_ratio: float | None,
) -> str | None:
    """Return why a rewriting is not shown to the judge, or None if it is worth a verdict.

    Args:
        pair: The pair that was rewritten.
        rewriting: The rewriting, or the failure of its call.
        max_length_ratio: Most characters, in multiples of the longer answer's; None is no limit.
    """
    if isinstance(rewriting, Failure):
        return rewriting.reason
    if rewriting.finish_reason == "content_filter":
        return FILTERED
    if rewriting.metadata == UNCHANGED:
        return NOTHING_TO_CHANGE
    text = _words(rewriting.text)
    if not text:
        return EMPTY
    if text == _words(pair.rejected.text):
        return REPEATED
    if text == _words(pair.chosen.text):
        return SAME_AS_CHOSEN
    longest = max(len(pair.chosen.text), len(pair.rejected.text))
    if max_length_ratio is not None and len(rewriting.text) > max_length_ratio * longest:
        return TOO_LONG
    return None


def _words(text: str) -> str:
    """The text without differences in white space."""
    return " ".join(text.split())
