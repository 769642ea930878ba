"""Figures of people's verdicts: agreement, and the win rate with a judge's help."""

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from statistics import fmean

from prefine.annotate.questions import Question
from prefine.annotate.verdicts import Verdicts
from prefine.errors import DataError
from prefine.judges.human import Scope
from prefine.judging.recorded import read_verdicts
from prefine.metrics.judges.agreement import rater_agreement
from prefine.metrics.statistics.intervals import percentage
from prefine.metrics.win_rates.prediction_powered import prediction_powered
from prefine.records import MetricValue, Record


class AgreementOf(Record):
    """Two raters, how often they name the same winner (in %), and Cohen's kappa.

    Both are None where no question has a verdict of both, kappa also where it does not exist.
    """

    raters: tuple[str, str]
    agreement: MetricValue | None = None
    kappa: MetricValue | None = None


class Annotator(Record):
    """One annotator's questions: judged, of them ties, skipped, and by the queue that asked."""

    judge: str
    judged: int
    ties: int
    skipped: int
    queues: dict[str, int]


class WinRateOfPeople(Record):
    """The win rate after training according to people, from labels of the random sample.

    `labels_only` is their mean. `prediction_powered` adds the judge's verdicts on the other
    prompts, `judge_only` is the mean of those alone. `worth` is how many labels the judge saves, 0
    where it `adds_nothing`; `labels_needed` how many more make the interval ± `half_width`
    percentage points, None where all prompts would not do. The last ones are None where there is no
    prediction-powered win rate, and `why_not` says why. `skipped` are random questions without a
    verdict, `missing` those of all questions that the judge has none on, which are left out.
    """

    labels_only: MetricValue | None
    skipped: int
    half_width: float
    prediction_powered: MetricValue | None = None
    judge_only: MetricValue | None = None
    weight: float | None = None
    worth: float | None = None
    adds_nothing: bool | None = None
    labels_needed: int | None = None
    missing: int | None = None
    why_not: str | None = None


class AnnotationSummary(Record):
    """All figures of a run; `outdated` are verdicts on answers that it does not have."""

    run: str
    scope: Scope
    questions: int
    annotators: tuple[Annotator, ...]
    agreements: tuple[AgreementOf, ...]
    win_rate: WinRateOfPeople
    outdated: int


def read_annotators(
    folder: Path, questions: Mapping[str, Question], scope: Scope
) -> dict[str, Verdicts]:
    """The verdicts of all annotators with a file in a folder, by judge; no file is locked.

    Raises:
        DataError: A row is damaged, a file holds verdicts of several annotators, or several files
            those of one.
    """
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        rows = read_verdicts(path)
        judges = {row.judge for row in rows}
        if len(judges) > 1:
            raise DataError(
                f"{path}: verdicts of several annotators ({', '.join(sorted(judges))}) in one "
                "file; give each a file of its own"
            )
        for judge in judges:
            if judge in found:
                raise DataError(
                    f"{path}: verdicts of {judge}, which another file here holds, too; keep one"
                )
            found[judge] = Verdicts(questions, rows, scope)
    return found


def summary(
    run: Path,
    questions: Mapping[str, Question],
    annotators: Mapping[str, Verdicts],
    *,
    scope: Scope,
    half_width: float,
) -> AnnotationSummary:
    """The figures of all annotators of a run.

    Args:
        run: Its folder.
        questions: Its questions by id.
        annotators: Verdicts by judge.
        scope: Of the questions.
        half_width: The half-width to count needed labels for [percentage points].
    """
    judge = {id_: one.p_one for id_, one in questions.items() if one.p_one is not None}
    said = {name: verdicts.known() for name, verdicts in annotators.items()}
    agreements = [_agreement(name, "judge", known, judge) for name, known in said.items()]
    agreements += [_agreement(a, b, said[a], said[b]) for a, b in combinations(said, 2)]
    return AnnotationSummary(
        run=str(run),
        scope=scope,
        questions=len(questions),
        annotators=tuple(_annotator(name, one) for name, one in annotators.items()),
        agreements=tuple(agreements),
        win_rate=_win_rate(questions, annotators, scope, half_width),
        outdated=sum(one.outdated for one in annotators.values()),
    )


def _annotator(judge: str, verdicts: Verdicts) -> Annotator:
    known = verdicts.known()
    return Annotator(
        judge=judge,
        judged=len(known),
        ties=sum(p == 0.5 for p in known.values()),
        skipped=len(verdicts.given) - len(known),
        queues=dict(sorted(Counter(one.queue for one in verdicts.given.values()).items())),
    )


def _agreement(
    one: str, other: str, said: Mapping[str, float], said_too: Mapping[str, float]
) -> AgreementOf:
    common = [id_ for id_ in said if id_ in said_too]
    if not common:
        return AgreementOf(raters=(one, other))
    found = rater_agreement([said[id_] for id_ in common], [said_too[id_] for id_ in common])
    return AgreementOf(raters=(one, other), agreement=found.agreement, kappa=found.kappa)


def _win_rate(
    questions: Mapping[str, Question],
    annotators: Mapping[str, Verdicts],
    scope: Scope,
    half_width: float,
) -> WinRateOfPeople:
    """Estimate the win rate from random samples; annotators are averaged for each question."""
    said: dict[str, list[float]] = {}
    passed: set[str] = set()
    for verdicts in annotators.values():
        passed |= verdicts.sampled
        for id_, p in verdicts.known().items():
            if id_ in verdicts.sampled:
                said.setdefault(id_, []).append(p)
    labels = {id_: fmean(values) for id_, values in said.items()}
    if scope == "rank":
        return WinRateOfPeople(
            labels_only=None,
            skipped=len(passed - labels.keys()),
            half_width=half_width,
            why_not="duels of a ranking have no side whose wins could be counted",
        )
    found = WinRateOfPeople(
        labels_only=percentage("labels_win_rate", list(labels.values())) if labels else None,
        skipped=len(passed - labels.keys()),
        half_width=half_width,
    )
    if not labels:
        judged = any(verdicts.given for verdicts in annotators.values())
        others = "other queues choose by the judge's verdicts, so their labels say nothing of the "
        why_not = f"no label of the random queue; {others if judged else ''}" + (
            "prompts that they leave out" if judged else "annotate with --queue random or mixed"
        )
        return found.model_copy(update={"why_not": why_not})
    try:
        powered = prediction_powered(
            list(labels.values()),
            [questions[id_].p_one for id_ in labels],
            [one.p_one for id_, one in questions.items() if id_ not in labels],
        )
    except ValueError as error:
        return found.model_copy(update={"why_not": str(error)})
    return found.model_copy(
        update={
            "labels_only": powered.labels_only,
            "prediction_powered": powered.estimate,
            "judge_only": powered.judge_only,
            "weight": powered.weight,
            "worth": powered.worth,
            "adds_nothing": powered.adds_nothing,
            "missing": powered.missing,
            "labels_needed": powered.labels_needed(half_width),
        }
    )
