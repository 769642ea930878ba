"""The figures of a comparison: settings that differ, paired differences, prompts far apart."""

from collections.abc import Callable, Collection, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from pydantic import JsonValue

from prefine.compare.runs import RunRead
from prefine.errors import DataError
from prefine.metrics.statistics.intervals import mean_value, percentage
from prefine.metrics.statistics.paired import holm, paired_change, sign_flips
from prefine.metrics.statistics.values import Array
from prefine.metrics.win_rates.win_rates import win_of
from prefine.records import MetricValue, Record
from prefine.report.data import AnswerExample
from prefine.run.config_changes import differing_settings

_LEVEL = 0.05
_FLIPS = 9_999
_APART = ("run_dir", "lineage")
"""Settings that say where a run lies, and differ between any two."""


class ComparedRun(Record):
    """One run, and its last figures; falls are in nats per answer, on its own items.

    `letter` is its short name. `fall` is that of the chosen answers trained on, after the last
    step, `held_out_fall` of those held out, with its standard error over prompts.
    """

    letter: str
    path: str
    status: str
    prompts: int
    steps: int
    fall: float | None = None
    held_out_fall: float | None = None
    held_out_fall_se: float | None = None


class SettingRow(Record):
    """A setting in which runs differ: its value in each; None where a run does not have it."""

    path: str
    values: tuple[JsonValue, ...]


class PairedDifference(Record):
    """A run minus the first run on the same prompts.

    `above`, `below` and `same` count prompts by the run's score against the first run's. `p` is the
    two-sided p of the sign-flip test of the mean, `corrected` the same by Holm's method for all
    runs of this score, and `decided` what that says at 5 %; None where it is not decided.
    """

    run: str
    difference: MetricValue
    above: int
    below: int
    same: int
    p: float
    corrected: float
    decided: Literal["higher", "lower"] | None


class ComparedScore(Record):
    """One score of all runs, on the same prompts: its mean in each, and differences to the first.

    Attributes:
        name: `gold_win_rate` and `judge_win_rate` are of the trained answer over the baseline's,
            `gold_score` is the trained answer's mean part, `answer_length` in characters.
        prompts: How many prompts have it in every run.
        values: One for each run that was evaluated, in their order.
        differences: One for each but the first.
    """

    name: str
    prompts: int
    values: tuple[MetricValue, ...]
    differences: tuple[PairedDifference, ...]


class PromptApart(Record):
    """An evaluation prompt with the trained answer of each run that was evaluated.

    `gold` is the mean gold score of each answer, `p_better` the judge's P(it is better than the
    baseline's answer), None where there is none. `baseline` is the baseline's answer, None where
    runs have different ones; `apart` is by how much the first of gold and judge that exist differ.
    """

    prompt_id: str
    prompt: str
    baseline: str | None
    answers: tuple[str, ...]
    gold: tuple[float | None, ...]
    p_better: tuple[float | None, ...]
    apart: float


class RunComparison(Record):
    """Runs side by side.

    `evaluated` are the letters of the runs whose evaluation has ended: scores and prompts are
    theirs, in this order. `prompts` is how many evaluation prompts they share.
    """

    runs: tuple[ComparedRun, ...]
    settings: tuple[SettingRow, ...]
    evaluated: tuple[str, ...]
    prompts: int
    scores: tuple[ComparedScore, ...]
    furthest_apart: tuple[PromptApart, ...]
    notes: tuple[str, ...]


class _ScoreOf(NamedTuple):
    """A score: its value for an outcome, and how its mean and difference are written."""

    name: str
    of: Callable[[AnswerExample], float | None]
    unit: str
    scale: float = 1.0


_SCORES = (
    _ScoreOf("gold_win_rate", lambda one: _gold_win(one), "points", 100.0),
    _ScoreOf("judge_win_rate", lambda one: one.p_after, "points", 100.0),
    _ScoreOf("gold_score", lambda one: _gold(one), ""),
    _ScoreOf("answer_length", lambda one: float(len(one.after)), "characters"),
)
_SCORED_BY = {"gold_win_rate": "gold", "judge_win_rate": "judge", "gold_score": "gold"}


def comparison(
    runs: Sequence[RunRead], *, common: bool = False, shown: int = 8, seed: int = 0
) -> RunComparison:
    """The comparison of all runs; each is compared with the first.

    Args:
        runs: Two or more.
        common: Compare on the evaluation prompts that all have, where they have different ones.
        shown: How many of the prompts on which they are furthest apart.
        seed: Seed of bootstrap and sign flips.

    Raises:
        DataError: The evaluation prompts differ, and `common` is not set.
    """
    evaluated = [run for run in runs if run.outcomes]
    notes = [
        f"{run.letter} has no evaluated answers ({run.status}): its win rates are not compared"
        for run in runs
        if not run.outcomes
    ]
    ids: list[str] = []
    if len(evaluated) > 1:
        ids = _shared(evaluated, notes, common=common)
    refused = _refused(evaluated, ids, notes) if ids else set()
    scores = _scores(evaluated, ids, refused, notes, seed) if len(ids) > 1 else ()
    if scores:
        notes.append(
            "one training run each: intervals are over prompts, and say nothing about other seeds"
        )
    rows = differing_settings([{**run.config, **dict.fromkeys(_APART)} for run in runs])
    return RunComparison(
        runs=tuple(map(_compared, runs)),
        settings=tuple(SettingRow(path=path, values=values) for path, values in rows.items()),
        evaluated=tuple(run.letter for run in evaluated),
        prompts=len(ids),
        scores=scores,
        furthest_apart=_furthest(evaluated, ids, refused, shown),
        notes=tuple(notes),
    )


def _compared(run: RunRead) -> ComparedRun:
    held_out = run.eval_log[-1] if run.eval_log else {}
    return ComparedRun(
        letter=run.letter,
        path=str(run.path),
        status=run.status,
        prompts=len(run.outcomes),
        steps=run.train_log[-1]["step"] if run.train_log else 0,
        fall=run.final.get("fall"),
        held_out_fall=held_out.get("fall"),
        held_out_fall_se=held_out.get("fall_se"),
    )


def _shared(runs: Sequence[RunRead], notes: list[str], *, common: bool) -> list[str]:
    """The ids of the prompts that all runs have, in the first run's order."""
    ids = _common(runs)
    if said := differing_prompts(runs):
        if not common:
            these = "on these alone" if len(ids) > 1 else "settings and curves, without differences"
            raise DataError(f"{said}; --common compares {these}")
        notes.append(said)
    return ids


def differing_prompts(runs: Sequence[RunRead]) -> str:
    """Say in which evaluation prompts the evaluated runs differ, and what is common; or ""."""
    evaluated = [run for run in runs if run.outcomes]
    shared = len(_common(evaluated))
    if all(len(run.outcomes) == shared for run in evaluated):
        return ""
    sizes = ", ".join(f"{run.letter} ({run.path}) has {len(run.outcomes)}" for run in evaluated)
    return f"the runs have different evaluation prompts: {sizes}; all share {shared}"


def _common(runs: Sequence[RunRead]) -> list[str]:
    """The ids of the prompts that all runs have, in the first run's order."""
    found = next((run.outcomes for run in runs), {})
    return [prompt for prompt in found if all(prompt in run.outcomes for run in runs)]


def _scores(
    runs: Sequence[RunRead],
    ids: Sequence[str],
    refused: Collection[str],
    notes: list[str],
    seed: int,
) -> tuple[ComparedScore, ...]:
    found = []
    for score in _SCORES:
        if score.name in refused:
            continue
        rows = [[score.of(run.outcomes[prompt]) for run in runs] for prompt in ids]
        whole = [row for row in rows if all(value is not None for value in row)]
        if len(whole) < 2:
            if any(value is not None for row in rows for value in row):
                notes.append(f"{score.name}: {len(whole)} prompts have it in all runs; left out")
            continue
        if len(whole) < len(rows):
            notes.append(
                f"{score.name}: {len(rows) - len(whole)} prompts have none in some run, and are "
                "left out"
            )
        found.append(_score(score, runs, np.array(whole, dtype=np.float64).T, seed))
    return tuple(found)


def _refused(runs: Sequence[RunRead], ids: Sequence[str], notes: list[str]) -> set[str]:
    """The scores that say different things in different runs, each with a note."""
    refused = set()
    for scorer, values in (("gold", [r.gold for r in runs]), ("judge", [r.judge for r in runs])):
        if any(value != values[0] for value in values):
            refused |= {name for name, by in _SCORED_BY.items() if by == scorer}
            notes.append(f"the runs have different settings of their {scorer}: it is not compared")
    first = runs[0].outcomes
    moved = sum(
        any(run.outcomes[prompt].before != first[prompt].before for run in runs) for prompt in ids
    )
    if moved:
        refused |= {"gold_win_rate", "judge_win_rate"}
        notes.append(
            f"on {moved} of {len(ids)} prompts the baseline's answers differ between runs: win "
            "rates over it are not compared"
        )
    return refused


def _score(score: _ScoreOf, runs: Sequence[RunRead], table: Array, seed: int) -> ComparedScore:
    """One score from its values [runs, prompts]."""
    tests = sign_flips(table[1:] - table[0], _FLIPS, seed)
    differences = []
    for run, row, p, corrected in zip(runs[1:], table[1:], tests, holm(tests), strict=True):
        moved = row - table[0]
        difference = paired_change(
            f"{score.name}_difference",
            table[0],
            row,
            seed=seed,
            unit=score.unit,
            scale=score.scale,
        )
        decided: Literal["higher", "lower"] | None = None
        if corrected <= _LEVEL and difference.value:
            decided = "higher" if difference.value > 0 else "lower"
        differences.append(
            PairedDifference(
                run=run.letter,
                difference=difference,
                above=int((moved > 0).sum()),
                below=int((moved < 0).sum()),
                same=int((moved == 0).sum()),
                p=float(p),
                corrected=float(corrected),
                decided=decided,
            )
        )
    return ComparedScore(
        name=score.name,
        prompts=table.shape[1],
        values=tuple(
            percentage(score.name, row)
            if score.scale != 1
            else mean_value(score.name, row, seed=seed, unit=score.unit)
            for row in table
        ),
        differences=tuple(differences),
    )


def _gold(one: AnswerExample) -> float | None:
    return fmean(one.gold_after.values()) if one.gold_after else None


def _gold_win(one: AnswerExample) -> float | None:
    """1 if the trained answer has the higher gold score, .5 if both have the same."""
    after = _gold(one)
    if after is None or not one.gold_before:
        return None
    return win_of(after - fmean(one.gold_before.values()))


def _furthest(
    runs: Sequence[RunRead], ids: Sequence[str], refused: Collection[str], shown: int
) -> tuple[PromptApart, ...]:
    """The prompts with the widest range of gold scores, or of the judge's P without gold.

    Of equal ones the judge's range decides, then the id. Prompts on which all answers are the same
    are left out.
    """
    found: list[tuple[float, float, PromptApart]] = []
    for prompt in ids:
        each = [run.outcomes[prompt] for run in runs]
        answers = tuple(one.after for one in each)
        if len(set(answers)) == 1:
            continue
        golds, ps = tuple(map(_gold, each)), tuple(one.p_after for one in each)
        gold = None if "gold_score" in refused else _range(golds)
        judged = None if "judge_win_rate" in refused else _range(ps)
        first = judged if gold is None else gold
        if first is None:
            continue
        baselines = {one.before for one in each}
        apart = PromptApart(
            prompt_id=prompt,
            prompt=each[0].prompt,
            baseline=each[0].before if len(baselines) == 1 else None,
            answers=answers,
            gold=golds,
            p_better=ps,
            apart=first,
        )
        found.append((first, judged or 0.0, apart))
    found.sort(key=lambda one: (-round(one[0], 9), -one[1], one[2].prompt_id))
    return tuple(apart for _, _, apart in found[:shown])


def _range(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if len(known) == len(values) else None
