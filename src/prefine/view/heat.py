"""The tokens of an answer, coloured by how training has moved their log-probabilities."""

from collections.abc import Sequence

from markupsafe import Markup

from prefine.report.svg import element
from prefine.report.text import number, plural, visible

_STEPS = (0.1, 0.3, 1.0, 3.0)
"""Distances [nats] at which the colour becomes stronger: the same on every page."""
SAME = len(_STEPS)
"""The middle class of the scale: neither fell nor rose."""
_ENDS = {"\n": "⏎\n", "\t": "⇥\t"}


def heat(tokens: Sequence[str], policy: Sequence[float], initial: Sequence[float]) -> Markup:
    """Return the tokens as spans of the classes heat-0 (fell most) to heat-8 (rose most).

    Above them stands the sum, below the scale, and a folded table with all values. What fell is
    underlined with dots, what rose with a line, so that no colour has to be seen.

    Args:
        tokens: Pieces of the text.
        policy: Their log-probabilities after training [nats].
        initial: Those before training.

    Raises:
        ValueError: There are not as many values as tokens.
    """
    found = list(zip(tokens, policy, initial, strict=True))
    return element(
        "div",
        element("p", _sum(policy, initial), class_="fine"),
        element("p", *(_span(*one) for one in found), class_="text heat-tokens", dir="auto"),
        _scale(),
        _table(found),
        class_="heat",
    )


def heat_class(change: float) -> int:
    """Return the class of a change of log-probability [nats]: 0 to 8, 4 for hardly any."""
    distance = sum(abs(change) >= step for step in _STEPS)
    return SAME + (distance if change > 0 else -distance)


def _sum(policy: Sequence[float], initial: Sequence[float]) -> str:
    after, before = sum(policy), sum(initial)
    return (
        f"{plural(len(policy), 'token')}: log-probability {_nats(before)} before training, "
        f"{_nats(after)} after, a change of {_nats(after - before, signed=True)} nats"
    )


def _nats(value: float, *, signed: bool = False) -> str:
    return number(value, 2, signed=signed)


def _shown(token: str) -> str:
    """The token with its line ends and tabs visible; an empty one is part of a character."""
    text = visible(token)
    return "".join(_ENDS.get(character, character) for character in text) or "·"


def _span(token: str, policy: float, initial: float) -> Markup:
    change = policy - initial
    said = (
        f"{_nats(change, signed=True)} nats: {_nats(policy)} after training, "
        f"{_nats(initial)} before"
    )
    return element("span", _shown(token), class_=f"heat-{heat_class(change)}", title=said)


def _scale() -> Markup:
    low, *_, high = _STEPS
    names = {
        0: f"fell by {number(high)} nats or more",
        SAME: f"less than {number(low)}",
        2 * SAME: f"rose by {number(high)} or more",
    }
    marks = []
    for place in range(2 * SAME + 1):
        mark = element("span", "\u2007", class_=f"heat-{place}", aria_hidden="true")
        marks.append(element("li", mark, Markup(" "), names.get(place, "")))
    return element("ul", *marks, class_="heat-scale", aria_label="Scale")


def _table(found: Sequence[tuple[str, float, float]]) -> Markup:
    heads = ("", "Token", "Before [nats]", "After [nats]", "Change [nats]")
    head = element("tr", *(element("th", name, scope="col") for name in heads))
    rows = []
    for place, (token, policy, initial) in enumerate(found, 1):
        values = _nats(initial), _nats(policy), _nats(policy - initial, signed=True)
        rows.append(
            element(
                "tr",
                element("td", number(place, 0)),
                element("th", element("bdi", _shown(token)), scope="row"),
                *(element("td", value) for value in values),
            )
        )
    table = element("table", element("thead", head), element("tbody", *rows))
    region = element(
        "div",
        table,
        class_="sideways",
        tabindex=0,
        role="region",
        aria_label="Values of all tokens",
    )
    return element("details", element("summary", "All values"), region)
