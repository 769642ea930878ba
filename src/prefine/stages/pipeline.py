"""The pipeline: which stages a configuration needs, running one of them, and what a run came to."""

import importlib
from collections.abc import Mapping
from contextlib import suppress

from prefine.config.checking import listed
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError, Interrupted, PrefineError
from prefine.executors.protocol import executor_of
from prefine.records import Manifest, MetricValue, Record
from prefine.report.data import BudgetPer, ConstraintScore, HeadToHead, fall_unit
from prefine.report.outcome import (
    FIGURE_WORDS,
    SCORE_WORDS,
    BudgetVerdict,
    Change,
    Direction,
    budget_outcome,
    figure_changes,
    score_changes,
    single_figures,
    tally_words,
    verdict,
)
from prefine.report.text import NO_BREAK
from prefine.run.folder import RunFolder
from prefine.run.view import RunView
from prefine.stages.report import report_data
from prefine.stages.stage_run import Progress, Watched

STAGES = ("sample", "rank", "pair", "bridge", "train", "evaluate", "report")
_BEFORE_ITEMS = STAGES[:2]
_NAMES = 32
"""The width of the names that are printed beside figures."""


def stages_of(config: RunConfig) -> tuple[str, ...]:
    """The stages that a configuration needs, in order."""
    skipped = set(_BEFORE_ITEMS) if config.items_entries else set()
    if config.unranked:
        skipped.add("rank")
    if config.bridge is None:
        skipped.add("bridge")
    evaluation = config.evaluate
    if not (evaluation.prompts or evaluation.metrics or config.pair.held_out_prompts):
        skipped.add("evaluate")
    return tuple(stage for stage in STAGES if stage not in skipped)


def is_needed(stage: str, config: RunConfig, folder: RunFolder) -> bool:
    """Return False for `evaluate` without anything to evaluate on: few prompts, none held out."""
    return (
        stage != "evaluate"
        or config.evaluate.prompts is not None
        or config.pair.held_out_prompts != "auto"
        or (folder / "heldout_pairs").is_dir()
    )


def refuse_rounds(config: RunConfig) -> None:
    """Check that a configuration is of one run.

    Raises:
        ConfigError: It is of several rounds.
    """
    if config.rounds is not None:
        raise ConfigError(
            "rounds: `prefine run` walks this configuration; a stage of one round is run in its "
            f"own folder, such as `prefine report {config.run_dir}/round-01`"
        )


def run_stage(stage: str, config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Run one stage; its module is imported now and not before.

    Raises:
        ConfigError: The configuration begins behind this stage, or is of several rounds.
        PrefineError: As the stage says.
    """
    try:
        return _run_stage(stage, config, folder, progress)
    finally:
        executor_of(config).close()


def _run_stage(stage: str, config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    refuse_rounds(config)
    if config.items_entries and stage in _BEFORE_ITEMS:
        raise ConfigError(
            f"{stage}: this configuration starts with {listed(config.items_entries)}, so "
            f"there is nothing to {stage}; run prefine pair"
        )
    if config.unranked and stage == "rank":
        raise ConfigError(
            f"rank: pair.selector {config.pair.selector.name!r} reads no ranking, so there is "
            "nothing to rank; run prefine pair"
        )
    module = importlib.import_module(f"prefine.stages.{stage}")
    if folder.mirror is not None:
        progress = Watched(progress, folder.mirror.check)
    new, answers = stage not in folder.manifests(), folder.answers()
    try:
        manifest: Manifest = module.run(config, folder, progress)
    except Interrupted as error:
        _note_stop(folder, stage, error)
        raise
    except Exception as error:
        # What is found at the first call or step must not freeze the configuration at fault.
        if new and folder.answers() == answers and not any((folder / "checkpoints").glob("step-*")):
            folder.forget(stage)
        else:
            _note_stop(folder, stage, error)
        raise
    return manifest


def _note_stop(folder: RunFolder, stage: str, error: Exception) -> None:
    name = "" if isinstance(error, PrefineError) else f"{type(error).__name__}: "
    # The error itself goes on; a full disk, which may be that error, takes no note of it.
    with suppress(PrefineError, OSError):
        folder.stopped(stage, f"{name}{error}")


def run_all(config: RunConfig, folder: RunFolder, progress: Progress) -> list[Manifest]:
    """Run every stage that a configuration needs, in order; return their manifests.

    Raises:
        ConfigError: The folder holds the run of another configuration.
        PrefineError: As the stages say.
    """
    refuse_rounds(config)
    folder.adopt_config(config.resolved())
    try:
        return [
            _run_stage(stage, config, folder, progress)
            for stage in stages_of(config)
            if is_needed(stage, config, folder)
        ]
    finally:
        executor_of(config).close()


class RunResult(Record):
    """A run in a few numbers.

    `win_rate` and `interval` are by gold where there is one, else by the judge; in %. `chosen_fall`
    of the training pairs and `held_out_fall` of the held-out ones are in nats per answer, or per
    token where the budget is (`delta_per`). `budget` says whether the latter is kept, exceeded or
    undecided by its interval; None without a budget or held-out pairs. With a budget whose weight
    a controller sets, it is about the held-out pairs that this has not seen (`untouched_fall`).
    """

    win_rate: float | None
    interval: tuple[float, float] | None
    chosen_fall: float | None
    chosen_fall_standard_error: float | None
    held_out_fall: MetricValue | None = None
    budget: BudgetVerdict | None = None
    delta: float | None
    delta_per: BudgetPer
    seconds: float
    report: str
    contests: tuple[HeadToHead, ...] = ()
    constraints: tuple[ConstraintScore, ...] = ()
    metrics: tuple[MetricValue, ...] = ()
    warnings: tuple[str, ...] = ()


def result_of(config: RunConfig, folder: RunFolder, seconds: float) -> RunResult:
    """Win rate, fall of the chosen answers, warnings, time and report of a run."""
    data = report_data(config, RunView(folder.path))
    win_rates = {contest.role: contest.win_rate for contest in data.contests}
    win_rate = win_rates.get("gold") or win_rates.get("judge")
    kept = budget_outcome(data)
    return RunResult(
        win_rate=win_rate.value if win_rate else None,
        interval=win_rate.interval if win_rate else None,
        chosen_fall=data.trained.fall if data.trained else None,
        chosen_fall_standard_error=data.trained.fall_se if data.trained else None,
        held_out_fall=kept.held_out if kept else None,
        budget=kept.verdict if kept else None,
        delta=data.delta,
        delta_per=data.delta_per,
        seconds=round(seconds, 1),
        report=str((folder / "report.html").resolve()),
        contests=data.contests,
        constraints=data.constraints,
        metrics=data.metrics,
        # The terminal and JSON need no marks against line breaks.
        warnings=tuple(warning.replace(NO_BREAK, "") for warning in data.warnings),
    )


def lines_of(result: RunResult) -> list[str]:
    """The result as lines to print; a before and after stands beside its paired difference."""
    lines = []
    for contest in result.contests:
        lines.append(_line(f"win rate by {contest.judge} ({contest.role})", contest.win_rate))
        lines.append(f"  {'':<{_NAMES}} {tally_words(contest)}: {verdict(contest.win_rate)}")
    lines += [
        _change_line(f"gold: {change.name}", change, 2, SCORE_WORDS)
        for change in score_changes(result.constraints)
    ]
    lines += [
        _change_line(f"{_words(change.name)} [{change.before.unit}]", change, 1, FIGURE_WORDS)
        for change in figure_changes(result.metrics)
    ]
    lines += [_line(_words(metric.name), metric) for metric in single_figures(result.metrics)]
    if result.chosen_fall is not None:
        unit = fall_unit(result.delta_per)
        error = result.chosen_fall_standard_error
        spread = f" ± {error:.2f}" if error is not None else ""
        budget = f", may fall by {result.delta:g}" if result.delta is not None else ""
        lines.append(
            f"  {f'change of chosen answers [{unit}]':<{_NAMES}} "
            f"{_signed(-result.chosen_fall, 2)}{spread}{budget}"
        )
    if (held_out := result.held_out_fall) is not None:
        kind = "untouched" if held_out.name == "untouched_fall" else "held-out"
        line = f"  {f'  of {kind} pairs':<{_NAMES}} {_signed(-held_out.value, 2)}"
        if held_out.interval is not None:
            low, high = held_out.interval
            line += f" [{_signed(-high, 2)}, {_signed(-low, 2)}]"
        lines.append(f"{line}  n={held_out.n}  budget {result.budget}")
    return lines


def _words(name: str) -> str:
    return name.replace("_", " ")


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return text if float(text) else f"{0:.{decimals}f}"


def _line(name: str, metric: MetricValue) -> str:
    # A squared error is far below 1.
    digits = 3 if metric.name == "brier_score" else 1
    interval = ""
    if metric.interval is not None:
        low, high = metric.interval
        interval = f"  [{low:.{digits}f}, {high:.{digits}f}]"
    return f"  {name:<{_NAMES}} {metric.value:.{digits}f} {metric.unit}{interval}  n={metric.n}"


def _change_line(name: str, found: Change, decimals: int, said: Mapping[Direction, str]) -> str:
    line = (
        f"  {name:<{_NAMES}} {found.before.value:.{decimals}f} → {found.after.value:.{decimals}f}"
    )
    if found.change is not None:
        line += f"  {_signed(found.change.value, decimals)}"
        if found.change.interval is not None:
            low, high = found.change.interval
            digits = found.decimals(decimals)
            line += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{line}  {said[found.direction]}"
