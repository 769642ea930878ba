"""What every strategy has to keep to, checked once per round: a user's own one may not."""

from collections.abc import Sequence

from prefine.ranking.protocol import Ask, Duel, Outcome, Rate


def check_asks(asks: Sequence[Ask], completions: int) -> None:
    """Nothing, if a round asks about these completions, and about something.

    Raises:
        ValueError: It does not; the message names the ask.
    """
    if not isinstance(asks, list | tuple) or not asks:
        raise ValueError(f"a round is a list of at least one Duel or Rate, got {asks!r}")
    for ask in asks:
        # A negative index would silently be somebody else.
        if type(ask) is Duel:
            first, second = ask
            if first == second or not (0 <= first < completions and 0 <= second < completions):
                raise ValueError(
                    f"{ask} is no duel of two of the completions 0 to {completions - 1}"
                )
        elif type(ask) is not Rate:
            raise ValueError(f"{ask!r} is neither a Duel nor a Rate")
        elif not 0 <= ask[0] < completions:
            raise ValueError(f"{ask} is none of the completions 0 to {completions - 1}")


def check_outcome(outcome: object, completions: int) -> None:
    """Nothing, if what was found is about these completions.

    Raises:
        ValueError: It is not; the message names the field.
    """
    if not isinstance(outcome, Outcome):
        raise ValueError(f"it returned {outcome!r}, and not an Outcome")
    for name in ("champion", "worst", "last_loser"):
        index = getattr(outcome, name)
        if index is not None and not 0 <= index < completions:
            raise ValueError(
                f"its {name} {index} is none of the completions 0 to {completions - 1}"
            )
    if outcome.order is not None and sorted(outcome.order) != list(range(completions)):
        raise ValueError(
            f"its order {outcome.order} does not name each of {completions} completions once"
        )
    if outcome.scores is not None and len(outcome.scores) != completions:
        raise ValueError(
            f"its scores are {len(outcome.scores)}, and there are {completions} completions"
        )
