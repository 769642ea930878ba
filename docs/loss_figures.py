"""The pictures of docs/losses.md: what each loss of a family does to the two answers, over the margin.

No background and middle tones: the pictures lie on white pages and on dark ones. Coordinates are
rounded so that every machine writes the same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from html import escape
from itertools import pairwise

from prefine.losses.cards.catalogue import Card, function_of
from prefine.losses.cards.logp_gradients import CHOSEN, REJECTED, LogpGradients, along

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


def rounded(value: float, step: str = "0.1") -> Decimal:
    """The value on a grid, ties upwards whatever the last bit of the machine's arithmetic says."""
    near = Decimal(f"{value:.9f}").quantize(Decimal(step), rounding=ROUND_HALF_UP)
    return abs(near) if near == 0 else near


@dataclass(frozen=True)
class Panel:
    """One loss: its pushes over the margin, and the largest one that is drawn."""

    name: str
    margins: tuple[float, ...]
    found: tuple[LogpGradients, ...]
    limit: float


def panel(card: Card) -> Panel:
    """The curves of a loss with its default hyper-parameters."""
    function = function_of(card.name)
    margins = tuple(LOW + STEP * i for i in range(round((HIGH - LOW) / STEP) + 1))
    found = tuple(along(function, margin) for margin in margins)
    sizes = [max(abs(one.chosen), abs(one.rejected)) for one in found]
    right = max(size for size, margin in zip(sizes, margins, strict=True) if margin >= 0)
    # What explodes where the margin is wrong would flatten all the rest: it leaves the plot.
    limit = right if 0 < right < max(sizes) / 5 else max(sizes)
    return Panel(card.name, margins, found, _nice(limit))


def figure(title: str, cards: Sequence[Card]) -> str:
    """The picture of a family as SVG."""
    panels = [panel(card) for card in cards]
    columns = 2 if len(panels) in (1, 2, 4) else 3
    rows = -(-len(panels) // columns)
    high, wide = TOP + HEIGHT + BOTTOM, WIDTH // columns
    height = HEAD + rows * high + FOOT
    mean = _number((CHOSEN + REJECTED) / 2)
    parts = [
        f'<text class="head" x="8" y="20">{escape(title)}: the push on each answer</text>',
        '<text x="8" y="40">Push on the log-probability, the negative gradient [loss per nat]: '
        "above the line "
        "an answer becomes likelier, below it less likely.</text>",
        f'<text x="8" y="58">Both answers have moved by {mean} nats on average and differ by the '
        "margin D. "
        f"Circles: D = {_number(HERE)}, the pair of the table. Default options.</text>",
    ]
    for index, one in enumerate(panels):
        row, column = divmod(index, columns)
        lowest = index + columns >= len(panels)
        parts += _panel(one, column * wide, HEAD + row * high, wide, named=lowest, key=f"c{index}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" '
        f'role="img"><title>{escape(title)}: gradients over the '
        f"margin</title><style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(one: Panel, left: int, top: int, wide: int, *, named: bool, key: str) -> Iterator[str]:
    x0, x1, y0, y1 = left + LEFT, left + wide - RIGHT, top + TOP, top + TOP + HEIGHT

    def x(margin: float) -> Decimal:
        return rounded(x0 + (x1 - x0) * (margin - LOW) / (HIGH - LOW))

    def y(push: float) -> Decimal:
        share = min(3.0, max(-3.0, push / one.limit))
        return rounded((y0 + y1) / 2 - share * (y1 - y0) / 2)

    yield f'<text class="name" x="{x0}" y="{y0 - 10}">{escape(one.name)}</text>'
    for value in (one.limit, 0, -one.limit):
        kind = "grid" if value else "zero"
        yield f'<line class="{kind}" x1="{x0}" x2="{x1}" y1="{y(value)}" y2="{y(value)}"/>'
        yield f'<text class="tick end" x="{x0 - 6}" y="{y(value) + 4}">{_number(value)}</text>'
    for tick in TICKS:
        yield f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{y0}" y2="{y1}"/>'
        yield f'<text class="tick middle" x="{x(tick)}" y="{y1 + 16}">{_number(tick)}</text>'
    if named:
        yield (
            f'<text class="tick middle" x="{(x0 + x1) / 2:g}" y="{y1 + 34}">margin D [nats]</text>'
        )
    yield (
        f'<clipPath id="{key}"><rect x="{x0}" y="{y0 - 2}" width="{x1 - x0}" '
        f'height="{y1 - y0 + 4}"/></clipPath>'
    )
    here = min(range(len(one.margins)), key=lambda i: abs(one.margins[i] - HERE))
    sides = {"rejected": [p.rejected for p in one.found], "chosen": [p.chosen for p in one.found]}
    for side, values in sides.items():
        points = _thinned(
            [(x(margin), y(value)) for margin, value in zip(one.margins, values, strict=True)]
        )
        path = "L".join(f"{px} {py}" for px, py in points)
        yield f'<path class="curve {side}" clip-path="url(#{key})" d="M{path}"/>'
    for side, values in sides.items():
        yield f'<circle class="dot {side}" cx="{x(HERE)}" cy="{y(values[here])}" r="4"/>'
    ends = {
        side: min(max(y(values[-1]), Decimal(y0)), Decimal(y1)) for side, values in sides.items()
    }
    for side, place in _apart(ends).items():
        yield f'<text class="label {side}" x="{x1 + 5}" y="{place + 4}">{side}</text>'


def _thinned(points: list[tuple[Decimal, Decimal]]) -> list[tuple[Decimal, Decimal]]:
    """Without what lies on a horizontal line between its neighbours."""
    inner = [
        b
        for a, b, c in zip(points, points[1:], points[2:], strict=False)
        if not a[1] == b[1] == c[1]
    ]
    return [points[0], *inner, points[-1]]


def _apart(ends: dict[str, Decimal]) -> dict[str, Decimal]:
    """Heights of the labels: those of the curves' ends, moved until they do not touch; chosen above at a tie."""
    order = sorted(ends, key=lambda side: (ends[side], side))
    places = {side: ends[side] for side in order}
    for upper, lower in pairwise(order):
        lack = Decimal(15) - (places[lower] - places[upper])
        if lack > 0:
            places[upper] -= lack / 2
            places[lower] += lack / 2
    return places


def _nice(value: float) -> float:
    """The value or a little more, with few digits."""
    for exponent in range(-12, 12):
        for digits in ("1", "1.5", "2", "3", "4", "5", "6", "8"):
            candidate = float(f"{digits}e{exponent}")
            if value <= candidate * (1 + 1e-9):
                return candidate
    raise ValueError(f"no scale for {value}")


def _number(value: float) -> str:
    return f"{value:,.9g}".replace("-", "−")
