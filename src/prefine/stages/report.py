"""Stage `report`: what is in the run folder → one page."""

import json
from pathlib import Path

import yaml

from prefine.atomic import write_text
from prefine.config.sections import RunConfig
from prefine.errors import DataError
from prefine.records import Manifest
from prefine.report.data import (
    OUTCOMES,
    AnswerExample,
    Evaluation,
    EvaluationPoint,
    ReportData,
    RoadStep,
    TrainEnd,
    TrainPoint,
)
from prefine.report.page import render
from prefine.run.folder import RunFolder
from prefine.run.tables import parse, parts, read_part
from prefine.schedules import last
from prefine.stages.stage_run import Progress, StageRun

_ROAD = {
    "sample": ("prompts", "completions"),
    "rank": ("prompts", "rankings"),
    "pair": ("rankings", "pairs"),
    "train": ("pairs", "pairs trained on"),
    "evaluate": ("prompts", "prompts answered"),
}
_IMPORTED = {
    "completions": {"sample": ("prompts", "completions imported")},
    "pairs": {"pair": ("rows", "pairs imported")},
}


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Write `report.html` from whatever the stages so far have left.

    Raises:
        DataError: No stage has run yet.
    """
    manifests = folder.manifests()
    if not manifests.keys() & _ROAD.keys():
        raise DataError(f"{folder.path}: there is nothing to report yet; run `prefine run` first")
    stage = StageRun(folder, "report", config, {})
    stage.begin()
    progress.start("report", 1, "page")
    write_text(folder / "report.html", render(report_data(config, folder, manifests)))
    progress.advance()
    return stage.end(taken=len(manifests), produced=1, outputs={})


def report_data(config: RunConfig, folder: RunFolder, manifests: dict[str, Manifest]) -> ReportData:
    """Everything on the page, read from the run folder."""
    evaluation = _evaluation(folder / "metrics.json") if "evaluate" in manifests else None
    regularizer = config.train.regularizer
    is_budget = regularizer is not None and regularizer.name in ("budget", "step_budget")
    bound = (
        regularizer.resolve("regularizer", where="train.regularizer")
        if regularizer and is_budget
        else None
    )
    return ReportData(
        title=config.report.title,
        run_name=folder.path.resolve().name,
        policy=evaluation.policy if evaluation else config.policy.name,
        baseline=evaluation.baseline if evaluation else "initial",
        road=tuple(_step(name, manifests[name], config) for name in _ROAD if name in manifests),
        training=_training(
            folder / "train_log.jsonl", per_token=bool(bound and bound.keywords["per"] == "token")
        ),
        trained=_trained(
            folder / "train_final.json", per_token=bool(bound and bound.keywords["per"] == "token")
        ),
        evaluations=_evaluations(folder / "eval_log.jsonl"),
        delta=last(bound.keywords["delta"]) if bound else None,
        delta_per=bound.keywords["per"] if bound else "sequence",
        loss_name=config.train.loss.name,
        regularizer_name=regularizer.name if regularizer else None,
        contests=evaluation.contests if evaluation else (),
        constraints=evaluation.constraints if evaluation else (),
        metrics=evaluation.metrics if evaluation else (),
        examples=_examples(folder / OUTCOMES, config.report.examples),
        prompts_also_trained_on=_overlap(folder)
        if evaluation and evaluation.contests and "pair" in manifests
        else None,
        warnings=_warnings(config),
        config_yaml=yaml.safe_dump(config.resolved(), sort_keys=False, allow_unicode=True),
        versions=_versions(manifests),
    )


def _step(name: str, manifest: Manifest, config: RunConfig) -> RoadStep:
    takes, makes = _ROAD[name]
    for entry, words in _IMPORTED.items():
        if getattr(config, entry) is not None and name in words:
            takes, makes = words[name]
    if name == "evaluate" and config.evaluate.prompts is None:
        takes, makes = "held-out pairs", "pairs scored"
    return RoadStep(
        stage=name,
        takes=takes,
        makes=makes,
        counts=manifest.counts,
        calls=manifest.usage.calls,
        repeated_after_interruption=manifest.repeated_after_interruption,
        seconds=manifest.wall_time_s,
        notes=manifest.notes,
    )


def _training(path: Path, *, per_token: bool) -> tuple[TrainPoint, ...]:
    """The log's rows; the fall in the budget's own unit."""
    fall = "token_fall" if per_token else "fall"
    if not path.exists():
        return ()
    points = []
    for line in path.read_bytes().splitlines():
        row = json.loads(line)
        points.append(
            parse(
                TrainPoint,
                {name: row[name] for name in TrainPoint.model_fields if name in row}
                | {
                    "fall": row[fall],
                    "fall_low": row[f"{fall}_q10"],
                    "fall_high": row[f"{fall}_q90"],
                    "beyond_delta": row["beyond_budget"],
                },
                where=str(path),
            )
        )
    return tuple(points)


def _trained(path: Path, *, per_token: bool) -> TrainEnd | None:
    """Where all pairs stand after the last update, which no row of the log has seen."""
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    final = content["final"]
    values = {
        "stopped_by": content.get("stopped_by"),
        "chosen_change": final["chosen_change"],
        "rejected_change": final["rejected_change"],
        "fall": final["token_fall" if per_token else "fall"],
        "beyond_delta": final["beyond_budget"],
    }
    return parse(TrainEnd, values, where=str(path))


def _evaluations(path: Path) -> tuple[EvaluationPoint, ...]:
    """The held-out pairs during training."""
    if not path.exists():
        return ()
    rows = map(json.loads, path.read_bytes().splitlines())
    names = EvaluationPoint.model_fields
    return tuple(
        parse(EvaluationPoint, {name: row[name] for name in names}, where=str(path)) for row in rows
    )


def _evaluation(path: Path) -> Evaluation | None:
    return (
        parse(Evaluation, json.loads(path.read_text()), where=str(path)) if path.exists() else None
    )


def _examples(path: Path, count: int) -> tuple[AnswerExample, ...]:
    """The first prompts, which are a random sample: nobody picked them."""
    if not path.exists():
        return ()
    lines = path.read_bytes().splitlines()[:count]
    return tuple(AnswerExample.model_validate_json(line) for line in lines)


def _overlap(folder: RunFolder) -> int:
    """How many of the evaluated prompts were trained on."""
    evaluated = {
        json.loads(line)["prompt_id"] for line in (folder / OUTCOMES).read_bytes().splitlines()
    }
    trained = {
        row["prefine_prompt_id"] for path in parts(folder / "pairs") for row in read_part(path)
    }
    return len(evaluated & trained)


def _versions(manifests: dict[str, Manifest]) -> dict[str, str]:
    versions: dict[str, str] = {}
    for manifest in manifests.values():
        versions |= {"prefine": manifest.code_version, **manifest.versions}
    return versions


def _warnings(config: RunConfig) -> tuple[str, ...]:
    warnings = []
    if config.pair.labels == "shuffled":
        warnings.append(
            "Control experiment: chosen and rejected were shuffled, so no improvement is expected."
        )
    return tuple(warnings)
