"""The values of the page that lays runs side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from prefine.compare.page import FIGURES, ApartSide, kind, points_of, score_picture, sides_of
from prefine.compare.results import PromptApart, comparison, differing_prompts
from prefine.compare.runs import RunRead, read_runs
from prefine.compare.text import TITLES, figure, p_text, shown_value, verdict_text
from prefine.view.chart_data import ChartData, Series, curve_points
from prefine.view.chart_data import figure as chart_figure
from prefine.view.words import marked


class ShownSide(NamedTuple):
    """One run's answer to a prompt, with the words marked that another run does not have."""

    side: ApartSide
    words: Markup


class ShownPrompt(NamedTuple):
    """A prompt on which the runs are far apart, and their answers."""

    prompt: PromptApart
    sides: list[ShownSide]


def compared(paths: Sequence[Path], *, common: bool = False, shown: int = 8) -> dict[str, Any]:
    """Return the values of `compare.html`, all but what every page has.

    Where the evaluation prompts differ, and are not to be compared on those that all have,
    `refused` says so, with what is common; settings and curves are shown nevertheless.

    Args:
        paths: The run folders; the first one is what the others are compared with.
        common: Compare on the prompts that all runs have.
        shown: How many of the prompts on which the runs are furthest apart.

    Raises:
        ConfigError: Fewer than two runs, too many, one twice, or a folder that is no run.
        DataError: A file of a run is damaged.
    """
    runs = read_runs(paths)
    refused = "" if common else differing_prompts(runs)
    found = comparison(runs, common=True, shown=0 if refused else shown)
    if refused:
        notes = tuple(note for note in found.notes if note != refused)
        found = found.model_copy(update={"scores": (), "notes": notes})
    return {
        "found": found,
        "refused": refused,
        "titles": TITLES,
        "figure": figure,
        "p_text": p_text,
        "verdict_text": verdict_text,
        "shown_value": shown_value,
        "kind": kind,
        "scores": [(score, score_picture(score, found.evaluated)) for score in found.scores],
        "charts": [chart_figure(chart) for chart in _charts(runs)],
        "losses_differ": any(row.path.startswith("train.loss") for row in found.settings),
        "apart": [_shown(one, found.evaluated) for one in found.furthest_apart],
    }


def _charts(runs: Sequence[RunRead]) -> list[ChartData]:
    """The figures that two curves or more have, those of training and of held-out items."""
    found = []
    for drawn in FIGURES:
        factor = 100.0 if drawn.unit == "%" else 1.0
        sides = [
            (f"{run.letter} {side}", f"{kind(run.letter)} {side}", points_of(log, drawn.name))
            for side in ("training", "held-out")
            for run in runs
            for log in [run.train_log if side == "training" else run.eval_log]
        ]
        series = tuple(
            Series(name=name, kind=style, points=curve_points(values, factor))
            for name, style, values in sides
            if len(values) > 1
        )
        if any(value for one in series for _, value in one.points):
            whole = (0.0, 100.0) if drawn.unit == "%" else None
            found.append(ChartData(title=drawn.title, y=drawn.unit, series=series, range=whole))
    return found


def _shown(one: PromptApart, letters: Sequence[str]) -> ShownPrompt:
    sides = sides_of(one, letters)
    tags = ["del", *["ins"] * (len(sides) - 1)]
    return ShownPrompt(
        one,
        [ShownSide(side, marked(side.pieces, tag)) for side, tag in zip(sides, tags, strict=True)],
    )
