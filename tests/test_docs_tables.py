"""The tables of the documentation name everything that the registry has, and nothing else."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import make_commands
import make_settings
from make_metrics import PAGE, with_table
from prefine import metrics
from prefine.config.components import TABLES, Kind, lookup
from prefine.data.layouts.table import BY_NAME
from prefine.ranking.protocol import facts_of

DOCS = Path(__file__).parents[1] / "docs"


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The cells of the table under a heading row, by the name in the first cell."""
    _, found, after = (DOCS / page).read_text(encoding="utf-8").partition(heading)
    assert found, f"{page} has no table {heading!r}"
    lines = re.match(r"[^\n]*\n\|[-|]+\|\n((?:\|.*\n)+)", after)
    assert lines is not None
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines[1].splitlines()
    ]
    return {name.strip("`"): rest for name, *rest in cells}


@pytest.mark.parametrize(
    ("page", "heading", "kind"),
    [
        ("configuration.md", "| `strategy.name` |", "strategy"),
        ("pairs.md", "| `name` | proposes |", "selector"),
        ("metrics.md", "| `metrics` | figures |", "metric"),
    ],
)
def test_a_table_names_all_of_them(page: str, heading: str, kind: Kind) -> None:
    assert rows(page, heading).keys() == TABLES[kind].keys()


def test_the_table_of_layouts_names_all_of_them() -> None:
    assert rows("data.md", "| `layout` | recognised by |").keys() == BY_NAME.keys()


def test_what_strategies_know_is_what_they_guarantee() -> None:
    for name, (*_, knows) in rows("configuration.md", "| `strategy.name` |").items():
        facts = facts_of(lookup("strategy", name, where="docs"))
        assert {one.replace(" ", "_") for one in knows.split(", ")} == facts.guarantees, name


def test_the_table_of_metrics_is_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "stale: run `make docs`"


def test_the_page_of_metrics_names_every_function() -> None:
    page = PAGE.read_text(encoding="utf-8")
    functions = [name for name in metrics.__all__ if name.islower()]
    assert len(functions) > 60
    assert [name for name in functions if not re.search(rf"\b{name}\b", page)] == []


@pytest.mark.parametrize("made", [make_settings, make_commands])
def test_a_generated_page_is_what_the_code_says(made: ModuleType) -> None:
    page = made.PAGE.read_text(encoding="utf-8")
    assert made.page() == page, f"{made.PAGE.name} is stale: run `make docs`"


def test_the_map_names_files_that_are_there() -> None:
    text = (DOCS.parent / "AGENTS.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)[`:]", text))
    assert len(named) > 30
    source = DOCS.parent / "src" / "prefine"
    assert not {n for n in named if not (DOCS.parent / n).exists() and not [*source.rglob(n)]}
