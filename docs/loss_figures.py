"""The pictures of docs/losses.md: the push of each loss on the two answers, over the margin.

No background and middle tones: the pictures lie on white pages and on dark ones. Coordinates are
rounded so that every machine writes the same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from markupsafe import Markup

from prefine.losses.cards.catalogue import Card, function_of
from prefine.losses.cards.logp_gradients import CHOSEN, REJECTED, LogpGradients, along
from prefine.report.svg import Scale, axes, dot, element, lettering, path

WIDTH, HEAD, FOOT = 840, 74, 30
LEFT, RIGHT, TOP, HEIGHT, BOTTOM = 50, 60, 34, 116, 26  # of a panel, around its plot
INK, CHOSEN_INK, REJECTED_INK = "#737b85", "#2f7fe0", "#d4690a"
LOW, HIGH, STEP = -30, 30, 0.5
TICKS = (-20, 0, 20)
HERE = CHOSEN - REJECTED
STYLE = (
    f"text{{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:{INK}}}"
    ".head{font-size:15px;font-weight:600}.name{font:600 13px "
    "ui-monospace,SFMono-Regular,Menlo,monospace}"
    ".tick{font-size:11px}.end{text-anchor:end}.middle{text-anchor:middle}.label{font-weight:600}"
    f".grid{{stroke:{INK};stroke-width:1;opacity:.25}}.zero{{stroke:{INK};stroke-width:1;opacity:.8}}"
    ".curve{fill:none;stroke-width:2.2;stroke-linejoin:round}"
    f".chosen{{stroke:{CHOSEN_INK}}}.rejected{{stroke:{REJECTED_INK}}}"
    f".label.chosen{{stroke:none;fill:{CHOSEN_INK}}}.label.rejected{{stroke:none;fill:{REJECTED_INK}}}"
    ".dot{fill:none;stroke-width:1.8}"
)


@dataclass(frozen=True)
class Panel:
    """The pushes of one loss over the margin, and the largest one that is drawn."""

    name: str
    margins: tuple[float, ...]
    found: tuple[LogpGradients, ...]
    limit: float


def panel(card: Card) -> Panel:
    """Compute the curves of a loss with its default hyper-parameters."""
    function = function_of(card.name)
    margins = tuple(LOW + STEP * i for i in range(round((HIGH - LOW) / STEP) + 1))
    found = tuple(along(function, margin) for margin in margins)
    sizes = [max(abs(one.chosen), abs(one.rejected)) for one in found]
    right = max(size for size, margin in zip(sizes, margins, strict=True) if margin >= 0)
    # What explodes where the margin is wrong would flatten all the rest: it leaves the plot.
    limit = right if 0 < right < max(sizes) / 5 else max(sizes)
    return Panel(card.name, margins, found, _nice(limit))


def figure(title: str, cards: Sequence[Card]) -> str:
    """Return the picture of a family as SVG."""
    panels = [panel(card) for card in cards]
    columns = 2 if len(panels) in (1, 2, 4) else 3
    rows = -(-len(panels) // columns)
    high, wide = TOP + HEIGHT + BOTTOM, WIDTH // columns
    height = HEAD + rows * high + FOOT
    mean = _number((CHOSEN + REJECTED) / 2)
    lines = {
        20: f"{title}: the push on each answer",
        40: "Push on the log-probability, the negative gradient [loss per nat]: above the line an "
        "answer becomes likelier, below it less likely.",
        58: f"Both answers have moved by {mean} nats on average and differ by the margin D. "
        f"Circles: D = {_number(HERE)}, the pair of the table. Default options.",
    }
    parts = [lettering("head" if y == 20 else "", words, "8", str(y)) for y, words in lines.items()]
    for index, one in enumerate(panels):
        row, column = divmod(index, columns)
        lowest = index + columns >= len(panels)
        parts += _panel(one, column * wide, HEAD + row * high, wide, named=lowest, key=f"c{index}")
    drawn = element(
        "svg",
        element("title", f"{title}: gradients over the margin"),
        element("style", Markup(STYLE)),
        *(part + "\n" for part in parts),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=WIDTH,
        height=height,
        role="img",
    )
    return f"{drawn}\n"


def _panel(
    one: Panel, left: int, top: int, wide: int, *, named: bool, key: str
) -> Iterator[Markup]:
    x0, x1, y0, y1 = left + LEFT, left + wide - RIGHT, top + TOP, top + TOP + HEIGHT
    across, up = Scale(LOW, HIGH, x0, x1, ""), Scale(-one.limit, one.limit, y1, y0, "")
    # A curve that leaves the panel is cut by the clip path, at its own slope.
    beyond = Scale(-3 * one.limit, 3 * one.limit, y1 + HEIGHT, y0 - HEIGHT, "")
    yield lettering("name", one.name, str(x0), str(y0 - 10))
    rows = {value: _number(value) for value in (one.limit, 0, -one.limit)}
    yield axes(across, up, {tick: _number(tick) for tick in TICKS}, rows)
    if named:
        yield lettering("tick middle", "margin D [nats]", across(0), str(y1 + 36))
    room = element("rect", x=x0, y=y0 - 2, width=x1 - x0, height=y1 - y0 + 4)
    yield element("clipPath", room, id=key)
    here = one.margins.index(HERE)
    sides = {"rejected": [p.rejected for p in one.found], "chosen": [p.chosen for p in one.found]}
    for side, values in sides.items():
        points = zip(map(across, one.margins), map(beyond, values), strict=True)
        curve = path(_thinned(list(points)))
        yield element("path", d=curve, class_=f"curve {side}", clip_path=f"url(#{key})")
    for side, values in sides.items():
        yield dot(side, across(HERE), up(values[here]))
    ends = {side: Decimal(up(values[-1])) for side, values in sides.items()}
    for side, place in _apart(ends).items():
        yield lettering(f"label {side}", side, str(x1 + 5), str(place + 4))


def _thinned(points: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out what lies on a horizontal line between its neighbours."""
    inner = [
        b
        for a, b, c in zip(points, points[1:], points[2:], strict=False)
        if not a[1] == b[1] == c[1]
    ]
    return [points[0], *inner, points[-1]]


def _apart(ends: dict[str, Decimal]) -> dict[str, Decimal]:
    """Move the labels from the curves' ends until they do not touch; chosen is above at a tie."""
    order = sorted(ends, key=lambda side: (ends[side], side))
    places = {side: ends[side] for side in order}
    for upper, lower in pairwise(order):
        lack = Decimal(15) - (places[lower] - places[upper])
        if lack > 0:
            places[upper] -= lack / 2
            places[lower] += lack / 2
    return places


def _nice(value: float) -> float:
    """Return the value or a little more, with few digits."""
    for exponent in range(-12, 12):
        for digits in ("1", "1.5", "2", "3", "4", "5", "6", "8"):
            candidate = float(f"{digits}e{exponent}")
            if value <= candidate * (1 + 1e-9):
                return candidate
    raise ValueError(f"no scale for {value}")


def _number(value: float) -> str:
    return f"{value:,.9g}".replace("-", "−")
