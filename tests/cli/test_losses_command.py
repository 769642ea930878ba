"""`prefine losses`: the catalogue in the terminal."""

import json

import pytest

from command import prefine
from prefine.cli.losses import as_list, as_text
from prefine.config.components import TABLES
from prefine.losses.cards.catalogue import FAMILIES, ROLES, card, cards

NAMES = {name for role in ROLES for name in TABLES[role]}


def test_the_list_has_a_line_for_each_when_piped() -> None:
    result = prefine("losses")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    begun = [line.split()[0] for line in lines if line]
    assert all(begun.count(name) == 1 for name in NAMES)
    (dpo,) = (line for line in lines if line.startswith("dpo "))
    assert dpo.split()[-2:] == ["local", "reference"]
    assert "sigmoid(beta * D) - e log sigmoid(-beta * D)" in dpo
    assert all(
        f"{title.upper()}. " in result.out
        for family, (title, _) in FAMILIES.items()
        if family != "other"
    )


@pytest.mark.parametrize("columns", [40, 80, 100, 250])
def test_it_fits_the_terminal(columns: int) -> None:
    width = max(80, min(100, columns))
    texts = [as_list(cards(), columns), *(as_text(one, columns) for one in cards())]
    for text in texts:
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("name", sorted(NAMES))
def test_one_of_them(name: str) -> None:
    result = prefine("losses", name)
    assert result.code == 0, result.err
    one = card(name)
    # Folding moves the words to other lines, and keeps them.
    words = result.out.split()
    for text in (
        one.formula,
        one.details,
        one.source,
        *(option.meaning for option in one.options),
    ):
        assert [word for word in text.split() if word not in words] == []
    assert f"{{name: {name}" in result.out


def test_what_a_controller_moves_is_said() -> None:
    assert "moves in training, set by a controller" in prefine("losses", "bco").out
    assert "delta" not in prefine("losses", "bco").out.partition("In a configuration")[2]


def test_json() -> None:
    rows = json.loads(prefine("losses", "--json").out)["losses"]
    assert {row["name"] for row in rows} == NAMES
    one = json.loads(prefine("losses", "dpop", "--json").out)
    assert one == next(row for row in rows if row["name"] == "dpop")
    assert one["pushes"]["ratio"] == pytest.approx(51)
    beta, *_ = one["options"]
    assert (beta["name"], beta["default"], beta["origin"], beta["allowed"]) == (
        "beta",
        0.3,
        "paper",
        "> 0",
    )
    assert json.loads(prefine("losses", "nll", "--json").out)["pushes"]["ratio"] is None
    assert json.loads(prefine("losses", "mixture", "--json").out)["pushes"] is None


def test_an_unknown_name_is_an_error_with_a_suggestion() -> None:
    result = prefine("losses", "simp")
    assert (result.code, result.out) == (2, "")
    assert "did you mean 'simpo'?" in result.err
