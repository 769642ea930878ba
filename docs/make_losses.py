"""Write docs/losses.md and its pictures from the code: `make docs`."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from loss_figures import figure
from prefine.losses.cards.catalogue import FAMILIES, Card, Option, amount, arrow, as_yaml, cards
from prefine.losses.cards.docstrings import linked
from prefine.losses.cards.logp_gradients import (
    CHOSEN,
    CHOSEN_TOKENS,
    P_CHOSEN,
    REFERENCE,
    REJECTED,
    REJECTED_TOKENS,
    SCORE_GAP,
)
from prefine.losses.protocol import NEED_WORDS, READS_WORDS, Family

DOCS = Path(__file__).parent

HEAD = """\
# Losses and regularizers

`make docs` writes this page from the code. `prefine losses` prints the list in the terminal, `prefine losses NAME` all
about one.

A loss is a number per item that training makes smaller: per pair, per list or per labelled answer. A regularizer is a
second number, added to any loss: loss + `regularizer_weight` · regularizer.

## How to read it

| symbol | |
|---|---|
| `lw`, `ll` | log-probability of the chosen and of the rejected answer under the policy, summed over tokens [nats] |
| `rw`, `rl` | the same under the reference, which is the policy at step 0 unless you name another |
| `a = lw - rw`, `c = ll - rl` | the log-ratios of chosen and rejected: above 0, the answer has become likelier |
| `D = a - c` | the margin, what most losses want to be large |
| `\\|w\\|`, `\\|l\\|` | the number of tokens of chosen and rejected |
| `Lw = lw / \\|w\\|`, `Ll = ll / \\|l\\|` | log-probability per token |

**Reads.** The items of a training are those that its loss reads, and its regularizer reads the same ones. The selector
`lists` makes lists, `labelled` labelled answers; both can come from a file of yours ([data.md](data.md)).

| reads | an item is |
|---|---|
@READS@

**Kind.** The value of a *local* loss depends on its own item alone, so that items can be computed one by one. A
*coupled* loss looks at all items of a step, whatever the micro-batches.

**Needs** are the values that a loss reads in addition to the policy's log-probabilities; training computes no others.

@NEEDS@

**Defaults** come from the *paper* or its authors' code, from the *field* (another public implementation), or are
*ours*.

**Pushes.** A pair can be learned while both of its answers become less likely. So the table shows every loss at
a pair where this has happened: chosen has lost @LOST@ nats and rejected @LOST_TOO@ (@POINT@). *Chosen* and
*rejected* are the negative gradients in `lw` and `ll`, in units of the loss per nat: ↑ means that gradient descent
makes the answer likelier, ↓ less likely, 0 that it is not pushed.

That is the push on each answer by itself. But answers share the model's weights, and where they are alike, pushing
rejected down takes chosen along. *Ratio* says how alike they must be: chosen falls when the overlap of the two
gradients, ⟨∇lw, ∇ll⟩ / ‖∇lw‖², is larger than the push on chosen over the push on rejected. A larger ratio protects
chosen better. With ∞, rejected does not pull at all; below 0, chosen falls by its own push.

(@PAIR@.
Every other token counts as different. A loss of lists is given the two answers as a list, one of labels both of them,
chosen as good and rejected as bad. The pair is alone in the first step, and options are the defaults. The pictures
move D, and hold the mean of a and c at @MEAN@; a curve that leaves its panel goes on outside.)

## In a configuration

```yaml
train:
  loss: {name: dpo, beta: 0.1}
  regularizer: {name: budget, delta: 5.0}     # left out: none
  regularizer_weight: 1.0
```

A weighted sum of losses is a loss; this one is MPO:

```yaml
train:
  loss:
    name: mixture
    losses: [{name: dpo}, {name: bco}, {name: nll, reduction: token_mean}]
    weights: [0.8, 0.2, 1.0]
```

Any number that is not whole can move over training, `regularizer_weight` too. Here beta is 0.01 from half of the steps
on:

```yaml
train:
  loss: {name: dpo, beta: {schedule: linear, start: 0.1, end: 0.01, until: 0.5}}
  regularizer: {name: nll, reduction: mean}
  regularizer_weight: {schedule: cosine, start: 1.0, end: 0.1}
```

A few numbers are moved by a *controller*, by what the steps see (`bco`, `beta_dpo`); these cannot be set.

## Your own

A loss is a function. Its keyword arguments are its options, and their annotations are checked:

```python
# my_module.py
from typing import Annotated

from pydantic import Field
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import declare


@declare(kind="local", needs=frozenset({"reference"}))
def my_loss(logps, *, beta: Annotated[float, Field(gt=0)] = 0.1, keep: float = 0.2):
    \"\"\"-log sigmoid(beta * D) + keep * max(0, -a), D = margin, a the log-ratio of chosen.\"\"\"
    return -logsigmoid(beta * logps.margin) + keep * (-logps.chosen_logratio).relu()
```

`train: {loss: {name: "my_module:my_loss", keep: 0.5}}` trains with it, and `prefine losses my_module:my_loss` prints
its formula, options and pushes. Without `@declare` it is taken as coupled and as reading the reference: right for every
function, and slower than need be.
"""  # noqa: E501


FACTS = {
    "LOST": f"{-CHOSEN:g}",
    "LOST_TOO": f"{-REJECTED:g}",
    "POINT": f"a = {CHOSEN:g}, c = {REJECTED:g}, D = {CHOSEN - REJECTED:g}",
    "MEAN": f"{(CHOSEN + REJECTED) / 2:g}",
    "PAIR": f"The answers have {CHOSEN_TOKENS} and {REJECTED_TOKENS} tokens and {REFERENCE:g} nats "
    f"each under the reference, `p_chosen` is {P_CHOSEN:g}, `score_gap` {SCORE_GAP:g}",
}


def pages() -> dict[str, str]:
    """Return the text of every file, by its path under docs/."""
    shelf = [
        (family, list(group)) for family, group in groupby(cards(), key=lambda card: card.family)
    ]
    head = HEAD
    for mark, fact in (
        FACTS | {"NEEDS": "\n".join(_needs()), "READS": "\n".join(_reads())}
    ).items():
        head = head.replace(f"@{mark}@", fact)
    parts = [head, "\n".join(_index(shelf))]
    written = {}
    for family, group in shelf:
        title, sentence = FAMILIES[family]
        pushed = [card for card in group if card.pushes is not None]
        written[f"losses/{family}.svg"] = figure(title, pushed)
        picture = (
            f"![{title}: the push on chosen and rejected over the margin](losses/{family}.svg)"
        )
        parts.append(f"## {title}\n\n{sentence}\n\n" + "\n".join(_table(group)) + f"\n\n{picture}")
        parts += ["\n".join(_entry(card)) for card in group]
    return {"losses.md": "\n\n".join(part.strip("\n") for part in parts) + "\n", **written}


def _needs() -> Iterator[str]:
    yield "| need | |"
    yield "|---|---|"
    for need, words in NEED_WORDS.items():
        yield f"| `{need}` | {words} |"


def _reads() -> Iterator[str]:
    for reads, words in READS_WORDS.items():
        yield f"| `{reads}` | {words} |"


def _index(shelf: list[tuple[Family, list[Card]]]) -> Iterator[str]:
    yield "## All of them\n"
    yield "| family | |"
    yield "|---|---|"
    for family, group in shelf:
        title = FAMILIES[family][0]
        names = " ".join(f"[`{card.name}`](#{card.name})" for card in group)
        yield f"| [{title}](#{_anchor(title)}) | {names} |"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _table(group: list[Card]) -> Iterator[str]:
    yield "| | | reads | kind | needs | chosen | rejected | ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    for card in group:
        kind: str = card.kind
        needs = " ".join(f"`{need}`" for need in card.needs)
        if card.open:
            kind = needs = "as its parts"
        name = f"[`{card.name}`](#{card.name})"
        facts = f"{card.reads} | {kind} | {needs}"
        yield f"| {name} | {_cell(card.title)} | {facts} | {_pushes(card)} |"


def _pushes(card: Card) -> str:
    if card.pushes is None:
        return "as its parts | | "
    ratio = "–" if card.pushes.ratio is None else amount(card.pushes.ratio)
    return f"{arrow(card.pushes.chosen)} | {arrow(card.pushes.rejected)} | {ratio}"


def _entry(card: Card) -> Iterator[str]:
    yield f"### {card.name}\n"
    yield f"{_text(card.title)}. Source: {linked(_text(card.source)).removesuffix('.')}.\n"
    yield f"```text\n{card.formula}\n```\n"
    explained = [f"with {_text(card.where)}."] if card.where else []
    if card.details:
        explained.append(_text(card.details))
    if "loss" in card.roles and "regularizer" in card.roles:
        explained.append("It is a loss, too, as a part of mixtures.")
    if explained:
        yield " ".join(explained) + "\n"
    yield "| option | default | from | takes | |"
    yield "|---|---|---|---|---|"
    for option in card.options:
        takes, meaning = _cell(option.allowed), _cell(option.meaning)
        yield f"| `{option.name}` | {_default(option)} | {takes} | {meaning} |"


def _default(option: Option) -> str:
    if option.moved:
        return "moves | controller"
    return "required | " if option.required else f"{as_yaml(option.default)} | {option.origin}"


def _text(text: str) -> str:
    return text.replace("<", "&lt;")


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def main() -> None:
    """Write what has changed."""
    found = pages()
    (DOCS / "losses").mkdir(exist_ok=True)
    for old in set((DOCS / "losses").iterdir()) - {DOCS / path for path in found}:
        old.unlink()
    for path, text in found.items():
        (DOCS / path).write_text(text, encoding="utf-8", newline="\n")
    print(f"{DOCS / 'losses.md'}: {len(found)} files")


if __name__ == "__main__":
    main()
