"""The pipeline: which stages a configuration needs, running one of them, and what a run came to."""

import importlib
import json
from typing import Any

from prefine.config.sections import RunConfig
from prefine.errors import BackendError, ConfigError, DataError, LimitError
from prefine.records import Manifest, MetricValue, Record
from prefine.report.data import ConstraintScore, Evaluation, HeadToHead
from prefine.run.folder import RunFolder
from prefine.run.tables import parse
from prefine.schedules import last
from prefine.stages.stage_run import Progress

STAGES = ("sample", "rank", "pair", "train", "evaluate", "report")
_BEFORE_PAIRS = STAGES[:2]


def stages_of(config: RunConfig) -> tuple[str, ...]:
    """The stages that a configuration needs, in order."""
    skipped = set(_BEFORE_PAIRS) if config.pairs is not None else set()
    if config.evaluate.prompts is None and config.pair.held_out_prompts == 0:
        skipped.add("evaluate")
    return tuple(stage for stage in STAGES if stage not in skipped)


def run_stage(stage: str, config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Run one stage; its module is imported now and not before.

    Raises:
        ConfigError: The configuration begins behind this stage.
        PrefineError: As the stage says.
    """
    if config.pairs is not None and stage in _BEFORE_PAIRS:
        raise ConfigError(
            f"{stage}: this configuration starts with pairs, so there is nothing to {stage}; run "
            "prefine pair"
        )
    module = importlib.import_module(f"prefine.stages.{stage}")
    new, answers = stage not in folder.manifests(), folder.answers()
    try:
        manifest: Manifest = module.run(config, folder, progress)
    except (ConfigError, DataError, BackendError, LimitError):
        # A wrong name that is found at the first call must not freeze the configuration that holds
        # it.
        if new and folder.answers() == answers and not any((folder / "checkpoints").glob("step-*")):
            folder.forget(stage)
        raise
    return manifest


class RunResult(Record):
    """A run in a few numbers.

    `win_rate` and `interval` are by gold where there is one, else by the judge; in %. `chosen_fall`
    is in nats per answer, or per token where the budget is (`delta_per`).
    """

    win_rate: float | None
    interval: tuple[float, float] | None
    chosen_fall: float | None
    chosen_fall_standard_error: float | None
    delta: float | None
    delta_per: str
    seconds: float
    report: str
    contests: tuple[HeadToHead, ...] = ()
    constraints: tuple[ConstraintScore, ...] = ()
    metrics: tuple[MetricValue, ...] = ()


def result_of(config: RunConfig, folder: RunFolder, seconds: float) -> RunResult:
    """Win rate, fall of the chosen answers, time and report of a run."""
    metrics, trained = _json(folder, "metrics.json"), _json(folder, "train_final.json")
    evaluation = parse(Evaluation, metrics, where=str(folder / "metrics.json")) if metrics else None
    contests = evaluation.contests if evaluation else ()
    win_rates = {contest.role: contest.win_rate for contest in contests}
    win_rate = win_rates.get("gold") or win_rates.get("judge")
    options: dict[str, Any] = {}
    if config.train.regularizer is not None:
        bound = config.train.regularizer.resolve("regularizer", where="train.regularizer")
        options = bound.keywords
    delta_per = str(options.get("per", "sequence"))
    fall = "token_fall" if delta_per == "token" else "fall"
    final = trained["final"] if trained else {}
    return RunResult(
        win_rate=win_rate.value if win_rate else None,
        interval=win_rate.interval if win_rate else None,
        chosen_fall=final.get(fall),
        chosen_fall_standard_error=final.get(f"{fall}_se"),
        delta=last(options.get("delta")),
        delta_per=delta_per,
        seconds=round(seconds, 1),
        report=str((folder / "report.html").resolve()),
        contests=contests,
        constraints=evaluation.constraints if evaluation else (),
        metrics=evaluation.metrics if evaluation else (),
    )


def lines_of(result: RunResult) -> list[str]:
    """The result as lines to print."""
    lines = [
        _line(f"win rate by {contest.judge} ({contest.role})", contest.win_rate)
        for contest in result.contests
    ]
    for constraint in result.constraints:
        name = f"gold: {constraint.name}"
        lines.append(f"  {name:<38} {constraint.before.value:.3f} → {constraint.after.value:.3f}")
    lines += [_line(metric.name.replace("_", " "), metric) for metric in result.metrics]
    if result.chosen_fall is not None:
        unit = "nats per token" if result.delta_per == "token" else "nats"
        error = result.chosen_fall_standard_error
        spread = f" ± {error:.2f}" if error is not None else ""
        budget = f", may fall by {result.delta:g}" if result.delta is not None else ""
        change = f"{-result.chosen_fall:+.2f}".replace("-0.00", "0.00").replace("+0.00", "0.00")
        lines.append(f"  {f'change of chosen answers [{unit}]':<38} {change}{spread}{budget}")
    return lines


def _json(folder: RunFolder, name: str) -> Any:
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _line(name: str, metric: MetricValue) -> str:
    interval = f"  [{metric.interval[0]:.1f}, {metric.interval[1]:.1f}]" if metric.interval else ""
    return f"  {name:<38} {metric.value:.1f} {metric.unit}{interval}  n={metric.n}"
