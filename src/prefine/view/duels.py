"""The duels of one prompt: a picture of who met whom, and a row for each two that met."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from prefine.pairing.protocol import scores_of
from prefine.records import Comparison, DuelRecord, Judgment, Ranking
from prefine.report.svg import element, lettering
from prefine.report.text import number, plural

_GAP, _EDGE, _RADIUS = 58, 34, 13
"""Pixels between two completions, from the first to the left end, and of a completion."""
_MOST_LABELS = 14
"""Of more duels, the numbers would hide each other; the table has them."""


class ShownVerdict(NamedTuple):
    """One verdict on a duel.

    Attributes:
        shown: The names in the order shown.
        p_first: P(the one shown first is better); None if there is no verdict.
        judge: The judge's fingerprint.
        text: The judge's own words, or the reason why there is no verdict.
    """

    shown: tuple[str, str]
    p_first: float | None
    judge: str
    text: str


class DuelRow(NamedTuple):
    """Two completions that met; `first` is the one that ranks higher.

    Attributes:
        first: Its name.
        second: The other one's.
        forward: P(first is better), with the first one shown first; None if not known.
        backward: P(first is better), with the second one shown first.
        p: The mean of both orders, or the one that is known.
        disagrees: Two verdicts, of two orders or of two judges, prefer different ones.
        failed: Verdicts that failed.
        verdicts: All of them.
    """

    first: str
    second: str
    forward: float | None
    backward: float | None
    p: float | None
    disagrees: bool
    failed: int
    verdicts: tuple[ShownVerdict, ...]

    @property
    def words(self) -> list[tuple[str, str]]:
        """The judge's own words, each with the order in which it was shown the two."""
        said = [one for one in self.verdicts if one.text]
        return [(f"{one.shown[0]}, then {one.shown[1]}", one.text) for one in said]


def ranked(ranking: Ranking) -> list[str]:
    """Return the completions best first, as far as the ranking knows.

    Without an order or scores, the champion is first, the worst last, and the others are as they
    were ranked.
    """
    if ranking.order is not None:
        unordered = [id_ for id_ in ranking.completions if id_ not in ranking.order]
        return [*ranking.order, *unordered]
    scores = scores_of(ranking)
    if scores is not None:
        return sorted(ranking.completions, key=lambda id_: -scores[id_])
    ends = {ranking.champion: -1, ranking.worst: 1}
    return sorted(ranking.completions, key=lambda id_: ends.get(id_, 0))


def rows(
    judgments: Iterable[Judgment], *, names: Mapping[str, str], order: Sequence[str] | None = None
) -> list[DuelRow]:
    """Return a row for each two completions that met, those of the best completions first.

    Args:
        judgments: What judges said about completions of one prompt.
        names: Names of the completions by id; others are left out.
        order: The completions best first; by default as they are named.
    """
    place = {id_: number for number, id_ in enumerate(names if order is None else order)}
    found: dict[tuple[str, str], list[ShownVerdict]] = {}
    for one in judgments:
        first, second = one.comparison.first, one.comparison.second
        if first in place and second in place:
            better, worse = sorted((first, second), key=place.__getitem__)
            shown = names[first], names[second]
            said = ShownVerdict(shown, one.p_first, one.judge, one.raw_text or one.error or "")
            found.setdefault((better, worse), []).append(said)
    pairs = sorted(found, key=lambda pair: (place[pair[0]], place[pair[1]]))
    return [_row(names[first], names[second], found[first, second]) for first, second in pairs]


def graph(
    ranking: Ranking,
    judgments: Iterable[Judgment] = (),
    names: Mapping[str, str] | None = None,
) -> Markup:
    """Draw the completions from left to right, best first, and an arc for each duel.

    Arcs above the line are won by the one that ranks higher, or are ties; arcs below by the other
    one. A dashed arc with ≠ has verdicts that disagree.

    Args:
        ranking: The prompt's ranking.
        judgments: What judges said; without any, the duels that the ranking has.
        names: Names of the completions by id; by default their places, from 1.
    """
    order = ranked(ranking)
    names = {**_places(order), **(names or {})}
    shown = [names[id_] for id_ in order]
    known = list(judgments) or [_judged(one, ranking.prompt_id) for one in ranking.duels]
    duels = rows(known, names=names, order=order)
    widest = max((_distance(duel, shown) for duel in duels), default=1)
    above = _height(widest)
    upsets = [duel for duel in duels if _is_upset(duel)]
    below = _height(max((_distance(duel, shown) for duel in upsets), default=0))
    base = above + 22
    width = 2 * _EDGE + _GAP * max(len(shown) - 1, 1)
    nodes = [_node(name, place, base) for place, name in enumerate(shown)]
    drawn = element(
        "svg",
        *(_arc(duel, shown, base, labelled=len(duels) <= _MOST_LABELS) for duel in duels),
        *nodes,
        role="img",
        aria_label=_summary(duels, len(shown)),
        viewBox=f"0 0 {width} {base + max(below, _RADIUS) + 22:g}",
        width=width,
        class_="duels",
    )
    return element("div", drawn, class_="sideways", tabindex=0, role="region", aria_label="Duels")


def _places(order: Sequence[str]) -> dict[str, str]:
    return {id_: str(place) for place, id_ in enumerate(order, 1)}


def _judged(duel: DuelRecord, prompt_id: str) -> Judgment:
    """A duel of a ranking as a judgment without words."""
    comparison = Comparison(prompt_id=prompt_id, first=duel.first, second=duel.second)
    error = "no verdict" if duel.p_first is None else None
    return Judgment(comparison=comparison, judge="", p_first=duel.p_first, error=error)


def _row(first: str, second: str, verdicts: Sequence[ShownVerdict]) -> DuelRow:
    forward = [v.p_first for v in verdicts if v.shown[0] == first and v.p_first is not None]
    backward = [1 - v.p_first for v in verdicts if v.shown[0] != first and v.p_first is not None]
    orders = [fmean(each) if each else None for each in (forward, backward)]
    known = [p for p in orders if p is not None]
    every = [*forward, *backward]
    return DuelRow(
        first=first,
        second=second,
        forward=orders[0],
        backward=orders[1],
        p=fmean(known) if known else None,
        disagrees=any(p > 0.5 for p in every) and any(p < 0.5 for p in every),
        failed=len(verdicts) - len(every),
        verdicts=tuple(verdicts),
    )


def _is_upset(duel: DuelRow) -> bool:
    return duel.p is not None and duel.p < 0.5


def _distance(duel: DuelRow, shown: Sequence[str]) -> int:
    return shown.index(duel.second) - shown.index(duel.first)


def _height(distance: int) -> float:
    return min(16.0 + 15.0 * distance, 130.0) if distance else 0.0


def _node(name: str, place: int, base: float) -> Markup:
    x = _EDGE + _GAP * place
    circle = element("circle", cx=x, cy=base, r=_RADIUS, class_="duel-node")
    words = lettering("middle duel-name", name, str(x), f"{base + 4:g}")
    return element("g", element("title", f"{name}, place {place + 1}"), circle, words)


def _arc(duel: DuelRow, shown: Sequence[str], base: float, *, labelled: bool) -> Markup:
    left, right = (_EDGE + _GAP * shown.index(name) for name in (duel.first, duel.second))
    upset = _is_upset(duel)
    side, sweep = (1, 0) if upset else (-1, 1)
    height = _height(_distance(duel, shown))
    edge = base + side * _RADIUS
    rise = max(height - _RADIUS, 4.0)
    kind = "upset" if upset else "none" if duel.p is None else "tie" if duel.p == 0.5 else "won"
    curve = element(
        "path",
        d=f"M{left} {edge:g}A{(right - left) / 2:g} {rise:g} 0 0 {sweep} {right} {edge:g}",
        class_=f"duel-arc {kind}{' disagrees' if duel.disagrees else ''}",
    )
    words = ("≠ " if duel.disagrees else "") + _p(duel.p)
    top = edge + side * rise + (13 if upset else -4)
    place = f"{(left + right) / 2:g}", f"{top:g}"
    label = lettering(f"middle duel-label {kind}", words if labelled else "", *place)
    if not labelled and duel.disagrees:
        label = lettering(f"middle duel-label {kind}", "≠", *place)
    return element("g", element("title", _said(duel)), curve, label)


def _p(value: float | None) -> str:
    return "no verdict" if value is None else number(value, 2)


def _said(duel: DuelRow) -> str:
    parts = [f"{duel.first} against {duel.second}: P({duel.first} is better) {_p(duel.p)}"]
    if duel.forward is not None and duel.backward is not None:
        parts.append(
            f"{_p(duel.forward)} with {duel.first} shown first, {_p(duel.backward)} with "
            f"{duel.second} shown first"
        )
    if duel.disagrees:
        parts.append("verdicts disagree")
    if duel.failed:
        parts.append(f"{plural(duel.failed, 'verdict')} failed")
    return "; ".join(parts)


def _summary(duels: Sequence[DuelRow], completions: int) -> str:
    upsets, apart = sum(map(_is_upset, duels)), sum(duel.disagrees for duel in duels)
    return (
        f"{plural(len(duels), 'duel')} among {plural(completions, 'completion')}: {upsets} won by "
        f"the one that ranks lower, {apart} with verdicts that disagree"
    )
