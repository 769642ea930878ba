"""Runs side by side on a page: what it shows, what it refuses, hostile texts."""

import json
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from jinja2 import ChoiceLoader, DictLoader, Environment, PackageLoader, StrictUndefined

from browser import chromium, visit
from compared_runs import HOSTILE, Make, answered, twenty, write_run
from prefine.errors import ConfigError
from prefine.report import text
from prefine.report.text import visible
from prefine.view.compared import compared

BASE = (
    "<!doctype html><html lang='en'><title>{% block title %}{% endblock %}</title>"
    "<main>{% block content %}{% endblock %}</main></html>"
)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.chdir(tmp_path)
    return write_run


def _page(values: dict[str, Any]) -> str:
    """The page inside of a base that has nothing else."""
    environment = Environment(
        loader=ChoiceLoader(
            [
                DictLoader({"base.html": BASE}),
                PackageLoader("prefine.view"),
                PackageLoader("prefine.report", "templates"),
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    return environment.get_template("compare.html").render({**values, "text": text})


def test_two_runs(make: Make) -> None:
    first = make("first", twenty(5), {"seed": 1}, losses=[0.5, 0.25])
    second = make("second", twenty(15), {"seed": 2}, losses=[0.75, 0.5])
    values = compared([first, second])
    assert values["refused"] == ""
    (gold, *_) = values["found"].scores
    assert gold.name == "gold_win_rate" and gold.differences[0].difference.value == 25.0
    data = [json.loads(_attribute(chart)) for chart in map(str, values["charts"])]
    assert [one["title"] for one in data] == ["Fall of the chosen answers", "Loss"]
    assert [(one["name"], one["kind"], one["points"]) for one in data[1]["series"]] == [
        ("A training", "run-a training", [[1, 0.5], [2, 0.25]]),
        ("B training", "run-b training", [[1, 0.75], [2, 0.5]]),
        ("A held-out", "run-a held-out", [[1, 0.5], [2, 0.25]]),
        ("B held-out", "run-b held-out", [[1, 0.75], [2, 0.5]]),
    ]
    page = _page(values)
    assert "Differences are to A, on the same 20 evaluation prompts" in page
    assert "an answer 0<del>.5</del>" in page and "an answer <ins>1.</ins>0" in page
    assert '<th scope="row">seed</th>' in page and "style=" not in page


def test_prompts_that_differ_are_refused_with_what_is_common(make: Make) -> None:
    first = make("first", twenty(5), losses=[0.5, 0.25])
    second = make("second", twenty(15)[:12], losses=[0.75, 0.5])
    values = compared([first, second])
    assert values["refused"] == (
        "the runs have different evaluation prompts: A (first) has 20, B (second) has 12; all "
        "share 12"
    )
    assert values["scores"] == values["apart"] == [] and len(values["charts"]) == 2
    page = _page({**values, "run_keys": ["one", "two"]})
    assert "Not compared: the runs have different evaluation prompts" in page
    assert "Compare on the 12 prompts that all have" in page
    assert '<input type="hidden" name="run" value="two">' in page
    anyway = compared([first, second], common=True)
    assert anyway["refused"] == "" and anyway["found"].prompts == 12 and anyway["scores"]
    assert anyway["found"].notes[0].startswith("the runs have different evaluation prompts")


def test_runs_without_evaluation_show_settings_and_curves(make: Make) -> None:
    values = compared(
        [make("first", [], losses=[0.5, 0.25]), make("second", [], {"seed": 2})], common=False
    )
    page = _page(values)
    assert "No answers are compared." in page and "Scores</h2>" not in page
    assert len(values["charts"]) == 2 and values["refused"] == ""


def test_one_run_is_no_comparison(make: Make) -> None:
    with pytest.raises(ConfigError, match="name two runs or more"):
        compared([make("first", twenty(5))])


def test_hostile_texts_are_texts(make: Make, tmp_path: Path) -> None:
    other = {"prompt": HOSTILE, "before": HOSTILE}
    runs = [
        make(name, [answered(f"p{n}", gold, after=HOSTILE + said, **other) for n in range(3)])
        for name, gold, said in (("first", 0.0, " a b"), ("second", 1.0, " a c"))
    ]
    page = _page(compared(runs))
    (tmp_path / "page.html").write_text(page, "utf-8")
    assert "\x1b" not in page and "\u202e" not in page and "<script" not in page
    with chromium() as context, visit(context, tmp_path / "page.html") as seen:
        assert seen.complaints == [] and len(seen.requests) == 1
        assert seen.page.title() == "Compare 2 runs · prefine view"
        assert seen.page.locator("img, script").count() == 0
        shown = seen.page.locator(".answer .text").last
        assert "<script>document.title='taken'</script>" in shown.inner_text()


def _attribute(chart: str) -> str:

    return unescape(chart.partition('data-chart="')[2].partition('"')[0])
