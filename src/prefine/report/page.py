"""The report as one HTML page; the template formats what the data says."""

from statistics import fmean

from prefine.report import outcome
from prefine.report.data import ReportData
from prefine.report.examples import changed_words
from prefine.report.html import html_page
from prefine.report.provenance import provenance
from prefine.report.text import duration, plural
from prefine.report.training import change_interval, held_out, item_charts, training

# The best value of the figures that have one; of others the page says nothing.
_FAULTS = ("cut_answers", "empty_answers", "repeated_answers")
_RIGHT = ("swap_consistency", "reward_accuracy")
_IDEALS = {
    **dict.fromkeys(_FAULTS, "0 %"),
    **dict.fromkeys(_RIGHT, "100 %"),
    "first_slot_rate": "50 %",
}
# What has longer words on average, in characters, is written in a language without spaces.
_LONGEST_MEAN_WORD = 15


def render(data: ReportData) -> str:
    """Return the whole page; the same data gives the same text."""
    decided = [c for c in data.contests if c.wins + c.ties + c.losses]
    return html_page(
        "report",
        title=data.title,
        data=data,
        outcome=outcome,
        verdict_line=outcome.verdict_line(data),
        headline=outcome.headline(data),
        alarm=outcome.alarm(data.contests),
        # An exploited judge is said at the head of the page.
        warnings=[one for one in data.warnings if not one.startswith(outcome.EXPLOITED)],
        hero=next(iter(outcome.gold_first(decided)), None),
        seconds=sum(stage.seconds for stage in data.stages) or 1,
        calls=sum(stage.calls for stage in data.stages) or 1,
        totals=_totals(data),
        budget=outcome.budget_outcome(data),
        training=training(data),
        chosen_interval=change_interval(data, "chosen"),
        held_out=held_out(data),
        item_training=item_charts(data.item_training, rewards=data.reward_model),
        item_evaluations=item_charts(data.item_evaluations, rewards=data.reward_model),
        constraints=outcome.score_changes(data.constraints),
        changes=outcome.figure_changes(data.metrics),
        metrics=outcome.single_figures(data.metrics),
        ideal=ideal,
        provenance=provenance(data),
        repeated_share=repeated_share,
        changed_words=changed_words,
        mean=fmean,
    )


def _totals(data: ReportData) -> str:
    """Return the wall time and the calls of all stages in words."""
    asked = sum(stage.calls for stage in data.stages if stage.calls_are == "calls")
    again = sum(stage.repeated_after_interruption for stage in data.stages)
    return (
        f"Wall time {duration(sum(stage.seconds for stage in data.stages))} in "
        f"{plural(len(data.stages), 'stage')}; {plural(asked, 'call')}, "
        f"{f'{again:,}' if again else 'none'} repeated after a stop."
    )


def repeated_share(content: str) -> float | None:
    """Return the share of runs of 3 words that occurred before; None for a text too short to tell.

    Of a text that is written without spaces it is the share of runs of 8 characters, which is about
    as much text.
    """
    parts, length = content.split(), 3
    if sum(map(len, parts)) > _LONGEST_MEAN_WORD * len(parts):
        parts, length = list("".join(parts)), 8
    runs = [tuple(parts[i : i + length]) for i in range(len(parts) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if len(runs) >= 8 else None


def ideal(name: str) -> str:
    """Return the best value of a figure in words; an empty text where none is known.

    A length has none: longer answers are neither better nor worse.
    """
    return _IDEALS.get(name, "")
