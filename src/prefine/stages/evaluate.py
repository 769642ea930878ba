"""Stage `evaluate`: the trained model against a baseline, on prompts and on held-out pairs."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import NamedTuple, TypeAlias

from prefine.atomic import write_text
from prefine.calls.engine import CallEngine
from prefine.config.base import Component
from prefine.config.checking import listed
from prefine.config.sections import ITEM_ENTRIES, Decoding, RunConfig
from prefine.data.import_report import ImportReport
from prefine.errors import ConfigError, DataError
from prefine.judging.choose import make_judge
from prefine.judging.protocol import Judge
from prefine.metrics.protocol import AnswerPair
from prefine.metrics.win_rates.win_rates import win_of
from prefine.models.capabilities import backend_of
from prefine.models.protocol import At, Samples, decoding_settings
from prefine.records import Completion, Judgment, Manifest, MetricValue, Prompt, content_hash
from prefine.report.data import OUTCOMES, AnswerExample, ConstraintScore, Evaluation, HeadToHead
from prefine.run.folder import RunFolder
from prefine.run.rows import Groups, judgment_row
from prefine.run.tables import PartsWritten, TableWriter, shard_key, table_hash
from prefine.run.view import EVALUATION_JUDGMENTS, JUDGMENTS, RunView
from prefine.stages.evaluation_jobs import (
    MODELS,
    AnswerJob,
    BothOrders,
    BothOrdersJob,
    evaluation_decoding,
    judge_component,
    models_of,
)
from prefine.stages.evidence import NamedMetric, configured_metrics, figures, left_by_stages
from prefine.stages.head_to_head import (
    according_to,
    answer_both,
    before_and_after,
    change,
    head_to_head,
    mean,
)
from prefine.stages.inputs import read_prompts, short_enough, trained_on, unseen
from prefine.stages.shards import SHARD, spread
from prefine.stages.stage_run import Progress, StageRun, chunks

GoldParts: TypeAlias = dict[str, float]
"""Gold scores are means of a few fractions; closer than this they differ by rounding only."""


class GoldScores(NamedTuple):
    """The gold parts of both answers to each prompt, and what they come to."""

    parts: list[tuple[GoldParts, GoldParts]]
    gaps: list[float]
    head_to_head: HeadToHead
    constraints: list[ConstraintScore]


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Write `metrics.json`, and the completions and outcomes under `evaluation/`.

    Raises:
        ConfigError: There is nothing to evaluate on.
        DataError: There is no trained model yet, or the judge cannot work on these prompts.
        LimitError: A model failed on every evaluation prompt.
    """
    settings = config.evaluate
    named = configured_metrics(config)
    if config.train.reward is not None:
        return _reward_model(config, folder, progress, named)
    if settings.model == "trained" and not (folder / "model").is_dir():
        raise DataError(
            f"{folder / 'model'}: there is no trained model yet; run `prefine train` first"
        )
    before, after = models_of(config, folder.path)
    report = ImportReport()
    prompts: list[Prompt] = []
    if settings.prompts is not None:
        rows = read_prompts(settings.prompts, where="evaluate.prompts", report=report)
        prompts = list(unseen(rows, trained_on(folder.path), report))
    component = judge_component(config)
    judge = None if component is None else make_judge(component, where="evaluate.judge")
    decoding = evaluation_decoding(config)
    of_items = (f"heldout_{kind}" for kind in ITEM_ENTRIES)
    held_out = [name for name in of_items if (folder / name).is_dir()]
    inputs = {
        "trained": after.fingerprint,
        "baseline": before.fingerprint,
        **{name: table_hash(folder / name) for name in held_out or ["heldout_pairs"]},
        # These may come from sections of other stages, or from a file.
        "prompts": content_hash([[prompt.id, prompt.metadata] for prompt in prompts]),
        "judge": judge.fingerprint if judge else "",
        "decoding": content_hash(decoding_settings(decoding)),
    }
    stage = StageRun(folder, "evaluate", config, inputs)
    files = ["metrics.json", OUTCOMES] if prompts else ["metrics.json"]
    if stage.finished and all((folder / name).exists() for name in files):
        return stage.finished
    found = left_by_stages(RunView(folder.path), named) if named else {}
    for sampler in (before, after):
        prompts = list(short_enough(prompts, partial(_check_prompt, sampler, decoding), report))
    stage.asks(judge)
    stage.begin(settings.seed)
    engine = CallEngine(
        folder.journal(),
        stage="evaluate",
        should_stop=lambda: progress.stopping,
        on_answers=lambda count: progress.advance(0, engine.status),
        on_heartbeat=lambda: stage.note(engine),
    )
    metrics: list[MetricValue] = []
    contests: list[HeadToHead] = []
    constraints: list[ConstraintScore] = []
    answered: list[AnswerPair] = []
    told: dict[str, None] = {}
    if prompts:
        samplers = (before, after)

        def draw(which: int) -> dict[str, Completion]:
            model = samplers[which]
            return _answered_by(which, prompts, model, config, folder, engine, progress, told)

        answered = answer_both(prompts, samplers, decoding, settings, engine, progress, draw)
        stage.failed.update(engine.failures)
        p_after: list[float | None] = [None] * len(answered)
        if judge is not None and component is not None:
            name = getattr(judge, "label", component.name)
            ask = partial(_judged_by, judge, answered, config, folder, engine, progress, told)
            result = according_to(judge, name, answered, engine, settings, ask)
            p_after = result.p_after
            contests.append(result.head_to_head)
            metrics += result.metrics
            stage.notes += result.notes
            found["verdicts"] = result.judgments
            _write_judgments(folder, result.judgments)
        metrics += before_and_after(answered, settings)
        gold = None if settings.gold is None else _gold(answered, settings.gold, config)
        if gold is not None:
            contests.append(gold.head_to_head)
            constraints += gold.constraints
            ids = [one.prompt.id for one in answered]
            found["gold"] = dict(zip(ids, gold.gaps, strict=True))
        _write_outcomes(folder, answered, p_after, gold)
        found["answers"] = answered
    scored = 0
    if held_out:
        # Here and not above: an evaluation of prompts alone must not import the training engine.
        from prefine.stages.held_out import reward_metrics

        rewards = reward_metrics(config, folder, after, should_stop=lambda: progress.stopping)
        scored = sum(one.n for one in rewards.metrics if one.name != "longer_is_better")
        metrics += rewards.metrics
        found |= {"held_out_pairs": rewards.pairs, "held_out_lists": rewards.lists}
        kinds = listed(name.removeprefix("heldout_") for name in held_out)
        what = f"held-out {kinds}".removesuffix("s")
        for reason, count in rewards.dropped.items():
            stage.dropped[f"{what}: {reason}"] += count
    metrics += figures(config, named, found)
    if not metrics:
        raise ConfigError(
            "evaluate: nothing to evaluate on; give evaluate.prompts, or pair.held_out_prompts"
        )
    evaluation = Evaluation(
        policy=f"{before.label}, trained" if settings.model == "trained" else after.label,
        baseline="initial" if settings.baseline == "initial" else before.label,
        contests=tuple(contests),
        constraints=tuple(constraints),
        metrics=tuple(metrics),
    )
    write_text(
        folder / "metrics.json", json.dumps(evaluation.model_dump(mode="json"), indent=1) + "\n"
    )
    stage.set_aside(report)
    ours = [*before.notes, *after.notes, *(judge.notes if judge else ())]
    stage.notes += dict.fromkeys([*ours, *told])
    taken = report.read or scored + stage.dropped.total()
    return stage.end(taken=taken, produced=len(answered) or scored, outputs={}, engine=engine)


def _reward_model(
    config: RunConfig, folder: RunFolder, progress: Progress, named: Sequence[NamedMetric]
) -> Manifest:
    """Evaluate a trained reward model on held-out items.

    Raises:
        ConfigError: None are held out.
        DataError: There is no trained model yet.
    """
    # Here and not above: it imports the training engine.
    from prefine.stages.reward_evaluation import evaluate_rewards, reward_model

    if not (folder / "model").is_dir():
        raise DataError(
            f"{folder / 'model'}: there is no trained model yet; run `prefine train` first"
        )
    held_out = next(
        (f"heldout_{k}" for k in ITEM_ENTRIES if (folder / f"heldout_{k}").is_dir()), ""
    )
    if not held_out and not named:
        raise ConfigError("evaluate: nothing to evaluate on; give pair.held_out_prompts")
    inputs = {"trained": reward_model(config, folder).fingerprint}
    if held_out:
        inputs[held_out] = table_hash(folder / held_out)
    stage = StageRun(folder, "evaluate", config, inputs)
    if stage.finished and (folder / "metrics.json").exists():
        return stage.finished
    found = left_by_stages(RunView(folder.path), named) if named else {}
    stage.begin(config.evaluate.seed)
    metrics: list[MetricValue] = []
    scored = 0
    if held_out:
        rewards = evaluate_rewards(config, folder, progress)
        metrics, scored = rewards.metrics, rewards.items
        what = held_out.replace("heldout_", "held-out ").removesuffix("s")
        stage.dropped.update({f"{what}: {reason}": n for reason, n in rewards.dropped.items()})
    metrics += figures(config, named, found)
    policy = backend_of(config.policy, At, where="policy")
    evaluation = Evaluation(
        policy=f"{policy.label}, reward model", baseline="none", metrics=tuple(metrics)
    )
    write_text(
        folder / "metrics.json", json.dumps(evaluation.model_dump(mode="json"), indent=1) + "\n"
    )
    return stage.end(taken=scored + stage.dropped.total(), produced=scored, outputs={})


def _check_prompt(sampler: Samples, decoding: Decoding, prompt: Prompt) -> None:
    sampler.check_prompt(prompt, decoding, where="evaluate.decoding")


def _answered_by(
    which: int,
    prompts: Sequence[Prompt],
    sampler: Samples,
    config: RunConfig,
    folder: RunFolder,
    engine: CallEngine,
    progress: Progress,
    told: dict[str, None],
) -> dict[str, Completion]:
    """One model's answers by the ids of prompts, which are written; those that failed are missing.

    They go through the configured executor; its notes go to `told`.
    """
    found: dict[str, Completion] = {}

    def take(groups: Groups) -> None:
        found.update({prompt.id: drawn[0] for prompt, drawn in groups if drawn})
        written.count += 1

    with PartsWritten(folder / "evaluation" / MODELS[which]) as written:
        told |= dict.fromkeys(
            spread(
                AnswerJob(config, folder.path, which=which, sampler=sampler),
                chunks(prompts, SHARD),
                take,
                stage="evaluate",
                config=config,
                folder=folder,
                progress=progress,
                engine=engine,
                advance=progress.advance,
                which=which,
            )
        )
    return found


def _judged_by(
    judge: Judge,
    answered: Sequence[AnswerPair],
    config: RunConfig,
    folder: RunFolder,
    engine: CallEngine,
    progress: Progress,
    told: dict[str, None],
) -> list[BothOrders]:
    """The judgments in both orders, through the configured executor; its notes go to `told`."""
    found: list[BothOrders] = []
    told |= dict.fromkeys(
        spread(
            BothOrdersJob(config, folder.path, judge=judge),
            chunks(answered, SHARD),
            found.extend,
            stage="evaluate",
            config=config,
            folder=folder,
            progress=progress,
            engine=engine,
        )
    )
    return found


def _gold(answered: Sequence[AnswerPair], component: Component, config: RunConfig) -> GoldScores:
    """Both answers to each prompt by the configured gold score.

    Raises:
        DataError: It cannot score a prompt.
    """
    score: Callable[[str, str], GoldParts] = component.resolve("gold", where="evaluate.gold")
    settings = config.evaluate
    parts = []
    for one in answered:
        try:
            texts = (one.before.text, one.after.text)
            before, after = (score(one.prompt.text, text) for text in texts)
        except ValueError as error:
            raise DataError(
                f"{one.prompt.source}: evaluate.gold cannot score this prompt: {error}; "
                "evaluate on prompts that it knows, or leave evaluate.gold out"
            ) from error
        parts.append((before, after))
    gaps = [fmean(after.values()) - fmean(before.values()) for before, after in parts]
    wins = [win_of(gap) for gap in gaps]
    constraints = []
    for name in sorted({name for before, _ in parts for name in before}):
        having = [(before[name], after[name]) for before, after in parts if name in before]
        old, new = [before for before, _ in having], [after for _, after in having]
        constraints.append(
            ConstraintScore(
                name=name,
                before=mean(f"{name}_before", old, settings),
                after=mean(f"{name}_after", new, settings),
                change=change(name, old, new, settings),
            )
        )
    return GoldScores(parts, gaps, head_to_head("gold", "gold", wins, settings), constraints)


def _write_judgments(folder: RunFolder, judgments: list[Judgment]) -> None:
    with TableWriter(folder / EVALUATION_JUDGMENTS, JUDGMENTS) as table:
        for part in chunks(judgments, 2 * SHARD):
            rows = [judgment_row(one, one.comparison.prompt_id) for one in part]
            table.write(rows, key=shard_key("evaluate", rows))


def _write_outcomes(
    folder: RunFolder,
    answered: Sequence[AnswerPair],
    p_after: Sequence[float | None],
    gold: GoldScores | None,
) -> None:
    lines = []
    for number, (one, p) in enumerate(zip(answered, p_after, strict=True)):
        gold_before, gold_after = gold.parts[number] if gold else (None, None)
        example = AnswerExample(
            prompt_id=one.prompt.id,
            prompt=one.prompt.text,
            before=one.before.text,
            after=one.after.text,
            p_after=p,
            gold_before=gold_before,
            gold_after=gold_after,
        )
        lines.append(example.model_dump_json() + "\n")
    write_text(folder / OUTCOMES, "".join(lines))
