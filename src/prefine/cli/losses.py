"""The output of `prefine losses`: the catalogue as a table, one card as text, either as JSON."""

import dataclasses
import io
import json
import math
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from prefine.losses.cards.catalogue import FAMILIES, Card, Option, amount, arrow, as_yaml
from prefine.losses.cards.logp_gradients import CHOSEN, CHOSEN_TOKENS, REJECTED, REJECTED_TOKENS
from prefine.losses.protocol import NEED_WORDS, READS_WORDS, Reads

NARROWEST, WIDEST, ENDLESS = 80, 100, 400
"""Widths in columns: that of a terminal, within the first two; a list that is piped never folds."""

_ITEM: dict[Reads, str] = {
    "any": "item",
    "pairs": "pair",
    "joint": "pair",
    "lists": "list",
    "labels": "answer",
}
_SYMBOLS = (
    ("lw, ll", "log-probability of chosen and of rejected under the policy [nats]"),
    ("rw, rl", "the same under the reference"),
    ("a, c", "log-ratios lw - rw and ll - rl; D = a - c is the margin"),
    ("|w|, |l|", "tokens; Lw, Ll: log-probability per token"),
)


def as_json(cards: list[Card], *, one: bool) -> str:
    """Return JSON; a ratio that is infinite or does not exist is null."""
    rows = [_row(card) for card in cards]
    return json.dumps(
        rows[0] if one else {"losses": rows}, ensure_ascii=False, allow_nan=False, default=str
    )


def _row(card: Card) -> dict[str, Any]:
    row = dataclasses.asdict(card)
    if card.pushes is not None:
        ratio = card.pushes.ratio
        row["pushes"]["ratio"] = None if ratio is None or math.isinf(ratio) else ratio
    return row


def as_list(cards: list[Card], columns: int | None) -> str:
    """Return the table of all, by family: name, formula, the items that it reads, kind, needs.

    Behind it stands what the kinds of items are.

    Args:
        cards: In the order of the families.
        columns: Of the terminal; None does not fold lines.
    """
    folded = columns is not None
    name, reads, kind, needs = max(len(card.name) for card in cards), 6, 8, 11
    formula = (
        _width(columns) - name - reads - kind - needs - 8
        if folded
        else max(len(card.formula) for card in cards)
    )
    parts: list[Any] = []
    for family, group in groupby(cards, key=lambda card: card.family):
        title, sentence = FAMILIES[family]
        table = _grid(name, formula, reads, kind, needs if folded else None)
        for card in group:
            facts = (card.kind, " ".join(card.needs)) if not card.open else ("as parts", "as parts")
            table.add_row(card.name, card.formula, card.reads, *facts)
        parts += [f"{title.upper()}. {sentence}", table, ""]
    items = _grid(8, None)
    for reads_word, meaning in READS_WORDS.items():
        items.add_row(reads_word, meaning)
    parts += [
        "ITEMS that a loss reads; pairs, lists and labels are entries of a configuration, too."
    ]
    parts += [
        items,
        "",
        _symbols(),
        "",
        "All about one, and what it does to each answer: prefine losses NAME",
    ]
    return _printed(parts, columns, folded=folded)


def as_text(card: Card, columns: int | None) -> str:
    """Return everything about one."""
    parts: list[Any] = [f"{card.name} – {card.title}" if card.title else card.name, ""]
    parts.append(_indented(card.formula or "(its docstring has no formula)"))
    parts += [_indented(f"with {card.where}")] if card.where else []
    parts += ["", card.details] if card.details else []
    facts = _grid(7, None)
    facts.add_row("what", " and ".join(card.roles) or "your own function")
    if card.family != "other":
        facts.add_row("family", FAMILIES[card.family][0])
    facts.add_row("reads", f"{card.reads} ({READS_WORDS[card.reads]})")
    facts.add_row("kind", "that of its parts" if card.open else _kind(card))
    facts.add_row("needs", "what its parts need" if card.open else _needs(card))
    if card.source:
        facts.add_row("source", " ".join([card.source, *card.links]))
    if card.returns:
        facts.add_row("returns", card.returns)
    parts += ["", facts]
    if card.options:
        parts += ["", "Options", Padding(_options(card.options), (0, 0, 0, 2))]
    return _printed(
        [*parts, "", *_pushes(card), "", *_use(card), "", _symbols()], columns, folded=True
    )


def _kind(card: Card) -> str:
    item = _ITEM[card.reads]
    if card.kind == "local":
        return f"local: the value of each {item} depends on that {item} alone"
    return f"coupled: looks at all {item}s of a step" + (
        "" if card.per_pair else f"; {item}s cannot be weighted"
    )


def _needs(card: Card) -> str:
    return (
        "; ".join(f"{need} ({NEED_WORDS[need]})" for need in card.needs)
        or "only the policy's log-probabilities"
    )


def _options(options: tuple[Option, ...]) -> Table:
    table = _grid(max(len(option.name) for option in options), None)
    for option in options:
        if option.moved:
            first = "moves in training, set by a controller"
        elif option.required:
            first = f"required; {option.allowed or 'any number'}"
        else:
            origin = f" ({option.origin})" if option.origin else ""
            first = f"{as_yaml(option.default)}{origin}; {option.allowed or 'any number'}"
        table.add_row(option.name, "\n".join(filter(None, (first, option.meaning))))
    return table


def _pushes(card: Card) -> list[Any]:
    title = "What it does to a pair that lost likelihood on both sides"
    if card.pushes is None:
        return [f"{title}: {card.unknown}."]
    table = _grid(8, None, None)
    for side, push in (("chosen", card.pushes.chosen), ("rejected", card.pushes.rejected)):
        words = "made likelier" if push > 0 else "made less likely" if push < 0 else "not pushed"
        table.add_row(side, arrow(push), words)
    if (ratio := card.pushes.ratio) is not None:
        table.add_row("ratio", amount(ratio), _ratio_words(ratio))
    point = (
        f"a = {CHOSEN:g}, c = {REJECTED:g}, {CHOSEN_TOKENS} and {REJECTED_TOKENS} tokens, default "
        "options; "
        "negative gradient [loss per nat]"
    )
    return [title, Padding(table, (0, 0, 0, 2)), _indented(point)]


def _ratio_words(ratio: float) -> str:
    if ratio <= 0:
        return "chosen falls even where the gradients of the two do not overlap"
    if math.isinf(ratio):
        return "rejected does not pull chosen down"
    return "chosen falls where the gradients of the two overlap more"


def _use(card: Card) -> list[Any]:
    options = [option for option in card.options if not option.moved]
    given = "".join(
        f", {one.name}: {'…' if one.required else as_yaml(one.default)}" for one in options
    )
    name = card.name if card.roles else f'"{card.name}"'
    role = card.roles[-1] if card.roles else "loss"
    return ["In a configuration", _indented(f"train: {{{role}: {{name: {name}{given}}}}}")]


def _symbols() -> Table:
    table = _grid(8, None)
    for row in _SYMBOLS:
        table.add_row(*row)
    return table


def _grid(*widths: int | None) -> Table:
    """Return an empty table without lines; a width that is None is what the text takes."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for width in widths:
        table.add_column(width=width, overflow="fold")
    return table


def _indented(text: str) -> Padding:
    return Padding(text, (0, 0, 0, 2))


def _width(columns: int | None) -> int:
    return max(NARROWEST, min(WIDEST, columns or WIDEST))


def _printed(parts: list[Any], columns: int | None, *, folded: bool) -> str:
    written = io.StringIO()
    width = _width(columns) if folded else ENDLESS
    console = Console(file=written, width=width, highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())
