"""The best value of the figures that have one; of others the report says nothing."""

_FAULTS = ("cut_answers", "empty_answers", "repeated_answers")
_RIGHT = ("swap_consistency", "reward_accuracy")
_IDEALS = {
    **dict.fromkeys(_FAULTS, "0 %"),
    **dict.fromkeys(_RIGHT, "100 %"),
    "first_slot_rate": "50 %",
}


def ideal(name: str) -> str:
    """Return the best value of a figure in words; an empty text where none is known.

    A length has none: longer answers are neither better nor worse.
    """
    return _IDEALS.get(name, "")
