"""The summary of people's verdicts as text."""

from collections.abc import Iterator
from textwrap import wrap

from prefine.annotate.summary import AgreementOf, AnnotationSummary, WinRateOfPeople
from prefine.records import MetricValue
from prefine.report.text import plural

_SCOPES = {"evaluation": "answers before and after training", "rank": "duels of the ranking"}


def as_text(found: AnnotationSummary, *, columns: int) -> str:
    """Return the summary in lines of at most so many columns."""
    paragraphs = list(_lines(found))
    return "\n".join(
        line
        for text in paragraphs
        for line in wrap(text, max(columns, 40), subsequent_indent="  ", break_on_hyphens=False)
        or [""]
    )


def _lines(found: AnnotationSummary) -> Iterator[str]:
    comparisons = plural(found.questions, "comparison")
    yield f"{found.run}: {comparisons}, {_SCOPES[found.scope]}"
    if not found.annotators:
        yield "nobody has judged any yet"
        return
    yield ""
    for one in found.annotators:
        queues = ", ".join(f"{count:,} {queue}" for queue, count in one.queues.items())
        ties = plural(one.ties, "tie")
        yield (
            f"{one.judge}: {one.judged:,} judged ({ties}), {one.skipped:,} skipped"
            f"{queues and f'; asked by queue: {queues}'}"
        )
    if found.outdated:
        yield (
            f"{found.outdated:,} verdicts are on answers that this run does not have (any more); "
            "they count nowhere here"
        )
    yield ""
    yield from map(_agreement, found.agreements)
    yield ""
    yield from _win_rate(found.win_rate)


def _agreement(found: AgreementOf) -> str:
    one, other = found.raters
    with_whom = "the judge" if other == "judge" else other
    if found.agreement is None:
        return f"{one} and {with_whom}: no comparison that both have judged"
    kappa = "" if found.kappa is None else f", kappa {found.kappa.value:.2f}"
    return (
        f"{one} and {with_whom} agree on {number(found.agreement)} of {found.agreement.n:,}{kappa}"
    )


def _win_rate(found: WinRateOfPeople) -> Iterator[str]:
    estimate = found.prediction_powered
    if estimate is not None and found.judge_only is not None:
        yield (
            f"win rate by people, with the judge's help: {number(estimate)}, from {estimate.n:,} "
            "labels of the random sample"
        )
    if found.labels_only is not None:
        yield f"win rate by those labels alone: {number(found.labels_only)}"
    if estimate is None:
        yield f"no prediction-powered win rate: {found.why_not}"
        return
    assert found.judge_only is not None, "they come together"
    yield f"win rate by the judge alone: {number(found.judge_only)} of {found.judge_only.n:,}"
    if found.adds_nothing:
        yield (
            "this judge adds nothing: its verdicts do not narrow the interval by more than chance "
            "or 2.5 %"
        )
    else:
        yield f"the judge is worth {found.worth or 0:,.0f} labels"
    wanted = f"± {found.half_width:g} points"
    if found.labels_needed == 0:
        yield f"the interval is {wanted} or narrower already"
    elif found.labels_needed is None:
        yield f"{wanted} cannot be reached, not with labels on all of these prompts either"
    else:
        yield f"for {wanted}: about {found.labels_needed:,} more labels"
    if found.missing:
        yield f"{found.missing:,} comparisons without a verdict of the judge are left out"
    if found.skipped:
        yield (
            f"{found.skipped:,} of the random sample were skipped: where people skip the hard "
            "ones, the win rate is that of the others"
        )


def number(metric: MetricValue) -> str:
    """Return a percentage with its interval."""
    if metric.interval is None:
        return f"{metric.value:.1f} %"
    low, high = metric.interval
    return f"{metric.value:.1f} % [{low:.1f}, {high:.1f}]"
