"""Stage `report`: the run folder → one page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from prefine.atomic import write_text
from prefine.config.base import Component
from prefine.config.checking import listed
from prefine.config.sections import ITEM_ENTRIES, RunConfig
from prefine.errors import DataError
from prefine.models.protocol import label_of
from prefine.records import Manifest, Record
from prefine.report.data import (
    AnswerExample,
    BudgetPoint,
    Evaluation,
    EvaluationPoint,
    ItemPoint,
    ReportData,
    StageOrigin,
    StageSummary,
    TrainEnd,
    TrainPoint,
)
from prefine.report.examples import choose_examples
from prefine.report.page import render
from prefine.report.text import plural
from prefine.report.warnings import warnings_of
from prefine.run.folder import RunFolder
from prefine.run.tables import column, parse, parts
from prefine.run.view import RunView
from prefine.stages.bridged import bridge_examples, items_table
from prefine.stages.budget import budget_of
from prefine.stages.inputs import trained_on
from prefine.stages.pair_examples import label_examples, list_examples, pair_examples
from prefine.stages.stage_run import Progress, StageRun

R = TypeVar("R", bound=Record)

SHUFFLED = "Control experiment: chosen and rejected were shuffled, so no improvement is expected."
_BRIDGE_EXAMPLES = 3
_TAKES_AND_MAKES = {
    "sample": ("prompts", "completions"),
    "rank": ("prompts", "rankings"),
    "pair": ("candidate pairs", "pairs"),
    "bridge": ("pairs", "pairs bridged"),
    "train": ("pairs", "pairs trained on"),
    "evaluate": ("prompts", "prompts answered"),
}


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Write `report.html` from whatever the stages so far have left.

    Raises:
        DataError: No stage has run yet.
    """
    manifests = folder.manifests()
    if not manifests.keys() & _TAKES_AND_MAKES.keys():
        raise DataError(f"{folder.path}: there is nothing to report yet; run `prefine run` first")
    stage = StageRun(folder, "report", config, {})
    stage.begin()
    progress.start("report", 1, "page")
    write_text(folder / "report.html", render(report_data(config, RunView(folder.path))))
    progress.advance()
    return stage.end(taken=len(manifests), produced=1, outputs={})


def report_data(config: RunConfig, run: RunView) -> ReportData:
    """Read everything on the page from a run, finished or not."""
    manifests, evaluation = run.manifests(), None
    if "evaluate" in manifests and (found := run.json("metrics.json")):
        evaluation = parse(Evaluation, found, where=str(run.path / "metrics.json"))
    regularizer = config.train.regularizer
    contests = evaluation.contests if evaluation else ()
    versions: dict[str, str] = {}
    for manifest in manifests.values():
        versions |= {"prefine": manifest.code_version, **manifest.versions}
    examples = choose_examples(
        [AnswerExample.model_validate(row) for row in run.outcomes()],
        config.report.examples,
        seed=config.evaluate.seed,
    )
    unfinished = next(
        (n for n in _TAKES_AND_MAKES if n in manifests and not manifests[n].complete), None
    )
    data = ReportData(
        title=config.report.title,
        run_name=run.path.resolve().name,
        policy=evaluation.policy if evaluation else _named(config.policy),
        baseline=evaluation.baseline if evaluation else "initial",
        stages=tuple(
            _summary(name, manifests[name], config, run.path)
            for name in _TAKES_AND_MAKES
            if name in manifests
        ),
        unfinished=unfinished,
        stopped_by=manifests[unfinished].stopped_by if unfinished else None,
        **training_values(config, run),
        loss_name=config.train.loss_name,
        regularizer_name=regularizer.name if regularizer else None,
        contests=contests,
        constraints=evaluation.constraints if evaluation else (),
        metrics=evaluation.metrics if evaluation else (),
        examples=examples,
        pair_examples=()
        if examples
        else pair_examples(run.path / items_table(config, "pairs"), config.report.examples),
        list_examples=() if examples else list_examples(run.path / "lists", config.report.examples),
        label_examples=()
        if examples
        else label_examples(run.path / "labels", config.report.examples),
        bridge_examples=bridge_examples(run.path, _BRIDGE_EXAMPLES) if config.bridge else (),
        prompts_also_trained_on=_overlap(run) if contests and "pair" in manifests else None,
        config_yaml=yaml.safe_dump(config.resolved(), sort_keys=False, allow_unicode=True),
        versions=versions,
        origins=tuple(
            _origin(name, manifests[name]) for name in _TAKES_AND_MAKES if name in manifests
        ),
    )
    shuffled = [SHUFFLED] if config.pair.labels == "shuffled" else []
    return data.model_copy(update={"warnings": (*shuffled, *warnings_of(data))})


def training_values(config: RunConfig, run: RunView) -> dict[str, Any]:
    """Read the fields of `ReportData` that say how training went, as far as it has come."""
    budget = budget_of(config)
    # The fall in the budget's own unit.
    fall = budget.fall if budget else "fall"
    renamed = {
        "fall": fall,
        "fall_se": f"{fall}_se",
        "chosen_change_se": "fall_se",
        "fall_low": f"{fall}_q10",
        "fall_high": f"{fall}_q90",
        "beyond_delta": "beyond_budget",
    }
    log, end, held_out, moved = (
        run.path / name
        for name in ("train_log.jsonl", "train_final.json", "eval_log.jsonl", "budget_log.jsonl")
    )
    rows, evaluated = run.log(log.name), run.log(held_out.name)
    # A row's column with the number of its items is called as they are.
    columns = rows[0] if rows else {}
    kinds = [kind for kind in ITEM_ENTRIES if kind in columns.get("kinds", ())]
    items = next((name for name in ("items", *ITEM_ENTRIES) if name in columns), "pairs")
    of_pairs = items == "pairs" and config.train.reward is None
    # All pairs after the last update, which no row of the log has seen.
    final = run.json(end.name) if of_pairs else None
    return {
        "training": tuple(_record(TrainPoint, row, log, renamed) for row in rows if of_pairs),
        "trained": _record(TrainEnd, final | final["final"], end, renamed) if final else None,
        "evaluations": tuple(
            _record(EvaluationPoint, row, held_out, renamed) for row in evaluated if of_pairs
        ),
        "items": items,
        "kinds": tuple(kinds),
        "item_training": tuple(_item_point(row) for row in rows if not of_pairs),
        "item_evaluations": tuple(_item_point(row) for row in evaluated if not of_pairs),
        "delta": budget.delta if budget else None,
        "delta_per": budget.per if budget else "sequence",
        "delta_of": budget.of if budget else "mean",
        "budget_points": tuple(
            _record(BudgetPoint, row, moved, {}) for row in run.log(moved.name) if budget
        ),
        "reward_model": config.train.reward is not None,
    }


def _named(policy: Component) -> str:
    """The label of a model that is not loaded here, as its backend would choose it."""
    options = policy.options
    return str(options.get("label") or label_of(str(options.get("path") or policy.name)))


def _summary(name: str, manifest: Manifest, config: RunConfig, folder: Path) -> StageSummary:
    takes, makes = _TAKES_AND_MAKES[name]
    tables = [kind for kind in ITEM_ENTRIES if (folder / kind).is_dir()]
    items = listed(tables) or "pairs"
    calls_are = "calls"
    if name == "sample" and config.completions is not None:
        table = folder / "completions"
        prompts = {id_ for path in parts(table) for id_ in column(path, "prompt_id")}
        takes, makes = "completions", f"completions imported, of {plural(len(prompts), 'prompt')}"
    if name == "rank" and config.rank is not None and config.rank.judge.name == "recorded":
        calls_are = "look-ups"
    if name == "pair":
        makes = items
        takes = "rows" if config.items_entries else f"candidate {makes}"
    if name == "train":
        takes, makes = items, f"{items} trained on"
    if name == "evaluate" and config.evaluate.prompts is None:
        takes, makes = f"held-out {items}", f"{items} scored"
    return StageSummary(
        stage=name,
        takes=takes,
        makes=makes,
        counts=manifest.counts,
        calls=manifest.usage.calls,
        calls_are=calls_are,
        drops_are="left" if name == "bridge" else "dropped",
        repeated_after_interruption=manifest.repeated_after_interruption,
        seconds=manifest.wall_time_s,
        notes=manifest.notes,
    )


def _origin(name: str, manifest: Manifest) -> StageOrigin:
    return StageOrigin(
        stage=name,
        began_at=manifest.began_at,
        command=manifest.command,
        code_version=manifest.code_version,
        commit=manifest.commit,
        seed=manifest.seed,
        inputs=manifest.input_hashes,
        outputs=manifest.output_hashes,
        judge_prompt=manifest.judge_prompt,
    )


def _record(kind: type[R], row: Mapping[str, Any], path: Path, renamed: Mapping[str, str]) -> R:
    """Read a record's fields from a row that calls some of them otherwise."""
    values = {name: row.get(renamed.get(name, name)) for name in kind.model_fields}
    return parse(kind, values, where=str(path))


def _item_point(row: Mapping[str, Any]) -> ItemPoint:
    figures = {name: value for name, value in row.items() if isinstance(value, float)}
    if "kinds" in row:
        # Their own margins and not the mean of all, which belongs to early stopping.
        del figures["margin"]
    for kind, own in row.get("kinds", {}).items():
        figures |= {
            f"{kind}.{name}": value for name, value in own.items() if isinstance(value, float)
        }
    return ItemPoint(step=row["step"], figures=figures)


def _overlap(run: RunView) -> int:
    """Count the evaluated prompts that were trained on."""
    return len({row["prompt_id"] for row in run.outcomes()} & trained_on(run.path))
