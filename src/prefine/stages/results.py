"""The outcome of a run in a few numbers, for the command line."""

import json
from typing import Any

from prefine.config.sections import RunConfig
from prefine.records import MetricValue, Record
from prefine.report.data import ConstraintScore, Evaluation, HeadToHead
from prefine.run.folder import RunFolder
from prefine.run.tables import parse
from prefine.schedules import last


class RunResult(Record):
    """What a run came to.

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
    metrics, final = _json(folder, "metrics.json"), _json(folder, "train_final.json")
    evaluation = parse(Evaluation, metrics, where=str(folder / "metrics.json")) if metrics else None
    contests = (
        {contest.role: contest.win_rate for contest in evaluation.contests} if evaluation else {}
    )
    main = contests.get("gold") or contests.get("judge")
    regularizer = config.train.regularizer
    options = (
        regularizer.resolve("regularizer", where="train.regularizer").keywords
        if regularizer
        else {}
    )
    per = str(options.get("per", "sequence"))
    fall = "token_fall" if per == "token" else "fall"
    return RunResult(
        win_rate=main.value if main else None,
        interval=main.interval if main else None,
        chosen_fall=final["final"][fall] if final else None,
        chosen_fall_standard_error=final["final"][f"{fall}_se"] if final else None,
        delta=last(options.get("delta")),
        delta_per=per,
        seconds=round(seconds, 1),
        report=str((folder / "report.html").resolve()),
        contests=evaluation.contests if evaluation else (),
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
