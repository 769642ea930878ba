"""The outcome of a run in a few numbers, for the command line."""

import json
from typing import Any

from prefine.config import RunConfig
from prefine.records import MetricValue
from prefine.stages.report_data import Evaluation
from prefine.store.folder import RunFolder
from prefine.store.tables import parse


def result_of(config: RunConfig, folder: RunFolder, seconds: float) -> dict[str, Any]:
    """Win rate, fall of the chosen answers, time and report of a run, and the same as lines to print.

    `win_rate` and `interval` are by gold where there is one, else by the judge; in %.
    """
    metrics_path, final_path = folder / "metrics.json", folder / "train_final.json"
    evaluation = (
        parse(Evaluation, json.loads(metrics_path.read_text()), where=str(metrics_path))
        if metrics_path.exists()
        else None
    )
    final = json.loads(final_path.read_text())["final"] if final_path.exists() else None
    contests = {contest.role: contest.win_rate for contest in evaluation.contests} if evaluation else {}
    main = contests.get("gold") or contests.get("judge")
    delta = config.train.regularizer.options.get("delta") if config.train.regularizer else None
    lines = [""]
    if evaluation:
        lines += [
            _line(f"win rate by {contest.judge} ({contest.role})", contest.win_rate) for contest in evaluation.contests
        ]
        for constraint in evaluation.constraints:
            before, after = constraint.before.value, constraint.after.value
            lines.append(f"  {'gold: ' + constraint.name:<38} {before:.3f} → {after:.3f}")
        lines += [_line(metric.name, metric) for metric in evaluation.metrics]
    if final:
        budget = f", budget {delta:g}" if delta is not None else ""
        lines.append(
            f"  {'fall of chosen answers [nats]':<38} {final['fall']:.2f} ± {final['fall_se'] or 0:.2f}{budget}"
        )
    return {
        "win_rate": main.value if main else None,
        "interval": list(main.interval) if main and main.interval else None,
        "chosen_fall": final["fall"] if final else None,
        "chosen_fall_standard_error": final["fall_se"] if final else None,
        "delta": delta,
        "seconds": round(seconds, 1),
        "report": str((folder / "report.html").resolve()),
        "contests": [contest.model_dump(mode="json") for contest in evaluation.contests] if evaluation else [],
        "constraints": [constraint.model_dump(mode="json") for constraint in evaluation.constraints]
        if evaluation
        else [],
        "metrics": [metric.model_dump(mode="json") for metric in evaluation.metrics] if evaluation else [],
        "lines": lines,
    }


def _line(name: str, metric: MetricValue) -> str:
    interval = f"  [{metric.interval[0]:.1f}, {metric.interval[1]:.1f}]" if metric.interval else ""
    return f"  {name.replace('_', ' '):<38} {metric.value:.1f} {metric.unit}{interval}  n={metric.n}"
