"""Stage `evaluate`: is the trained model better, according to whom, and by how much, with intervals."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TypeAlias

from prefine.atomic import write_text
from prefine.calls.engine import CallEngine
from prefine.config.sections import Component, Decoding, RunConfig
from prefine.data.import_report import ImportReport
from prefine.errors import ConfigError, DataError, Interrupted
from prefine.judging.choose import make_judge
from prefine.models.protocol import Sampler, decoding_settings
from prefine.records import Completion, Manifest, MetricValue, Prompt, content_hash
from prefine.report.data import OUTCOMES, AnswerExample, ConstraintScore, Evaluation, HeadToHead
from prefine.run.folder import RunFolder
from prefine.run.rows import completion_row
from prefine.run.tables import part_path, remove_parts_from, shard_key, table_hash, write_part
from prefine.stages.head_to_head import (
    AnsweredByBoth,
    according_to,
    answered_by_both,
    head_to_head,
    lengths,
    mean,
)
from prefine.stages.inputs import read_prompts, short_enough, trained_on, unseen
from prefine.stages.sampling import sample_shard
from prefine.stages.stage_run import Progress, StageRun, chunks

GoldParts: TypeAlias = dict[str, float]
_SHARD = 256
_TIE = (
    1e-9  # gold scores are means of a few fractions; closer than this they differ by rounding only
)


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Write `metrics.json`, and the completions and outcomes under `evaluation/`.

    Raises:
        ConfigError: There is nothing to evaluate on.
        DataError: There is no trained model yet, or the judge cannot work on these prompts.
        LimitError: A model failed on every evaluation prompt.
    """
    settings = config.evaluate
    if settings.model == "trained" and not (folder / "model").is_dir():
        raise DataError(
            f"{folder / 'model'}: there is no trained model yet; run `prefine train` first"
        )
    after, before = _models(config, folder)
    screen = ImportReport()
    prompts: list[Prompt] = []
    if settings.prompts is not None:
        found = read_prompts(settings.prompts, where="evaluate.prompts", screen=screen)
        prompts = list(unseen(found, trained_on(folder), screen))
    component = settings.judge or (config.rank.judge if config.rank else None)
    judge = None if component is None else make_judge(component, where="evaluate.judge")
    decoding = settings.decoding or config.sample or Decoding()
    inputs = {
        "trained": after.fingerprint,
        "baseline": before.fingerprint,
        "heldout_pairs": table_hash(folder / "heldout_pairs"),
        # These may come from sections of other stages, or from a file.
        "prompts": content_hash([[prompt.id, prompt.metadata] for prompt in prompts]),
        "judge": judge.fingerprint if judge else "",
        "decoding": content_hash(decoding_settings(decoding)),
    }
    stage = StageRun(folder, "evaluate", config, inputs)
    if stage.finished and all(
        (folder / name).exists() for name in ("metrics.json", *([OUTCOMES] if prompts else []))
    ):
        return stage.finished
    for sampler in (before, after):
        prompts = list(short_enough(prompts, partial(_fits, sampler, decoding), screen))
    stage.begin(settings.seed)
    engine = CallEngine(
        folder.journal(),
        should_stop=lambda: progress.stopping,
        on_answers=lambda count: progress.advance(0, f"{engine.asked:,} calls"),
    )
    metrics: list[MetricValue] = []
    contests: list[HeadToHead] = []
    constraints: list[ConstraintScore] = []
    answered: list[AnsweredByBoth] = []
    if prompts:
        answered = _answers(
            prompts, {"baseline": before, "trained": after}, decoding, folder, engine, progress
        )
        engine.check_failures(2 * len(prompts), settings.max_failed_fraction, where="evaluate")
        stage.failed.update(engine.failures)
        p_after: list[float | None] = [None] * len(answered)
        if judge is not None and component is not None:
            result = according_to(
                judge, getattr(judge, "label", component.name), answered, engine, settings
            )
            p_after = result.p_after
            contests.append(result.head_to_head)
            metrics += result.facts
            stage.notes += result.failures.notes()
        metrics += lengths(answered, settings)
        gold = _gold(answered, config, contests, constraints)
        lines = [
            AnswerExample(
                prompt_id=one.prompt.id,
                prompt=one.prompt.text,
                before=one.before.text,
                after=one.after.text,
                p_after=p,
                gold_before=parts[0] if parts else None,
                gold_after=parts[1] if parts else None,
            ).model_dump_json()
            for one, p, parts in zip(answered, p_after, gold, strict=True)
        ]
        write_text(folder / OUTCOMES, "\n".join(lines) + "\n")
    scored = 0
    if (folder / "heldout_pairs").is_dir():
        # Here and not above: an evaluation of prompts alone must not import the training engine.
        from prefine.stages.held_out import reward_metrics

        rewards = reward_metrics(config, folder, after, should_stop=lambda: progress.stopping)
        scored = rewards.metrics[0].n
        metrics += rewards.metrics
        stage.dropped.update(
            {f"held-out pair: {reason}": count for reason, count in rewards.dropped.items()}
        )
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
    stage.set_aside(screen)
    stage.notes += [*before.notes, *after.notes, *(judge.notes if judge else ())]
    taken = screen.read or scored + sum(stage.dropped.values())
    return stage.end(taken=taken, produced=len(answered) or scored, outputs={}, engine=engine)


def _fits(sampler: Sampler, decoding: Decoding, prompt: Prompt) -> None:
    sampler.check_prompt(prompt, decoding, where="evaluate.decoding")


def _models(config: RunConfig, folder: RunFolder) -> tuple[Sampler, Sampler]:
    """The model and its baseline."""
    choice, other = config.evaluate.model, config.evaluate.baseline
    after: Sampler
    if isinstance(choice, Component):
        after = choice.resolve("backend", where="evaluate.model")()
    else:
        # Here and not above: models of other kinds must not import torch.
        from prefine.stages.training_inputs import trainable

        # With the policy's own device, dtype and batch size: what fits one of the two fits the
        # other.
        after = trainable(config.policy, where="policy").at(str(folder / "model"))
    baseline = other if isinstance(other, Component) else config.policy
    before: Sampler = baseline.resolve("backend", where="evaluate.baseline")()
    return after, before


def _answers(
    prompts: list[Prompt],
    samplers: Mapping[str, Sampler],
    decoding: Decoding,
    folder: RunFolder,
    engine: CallEngine,
    progress: Progress,
) -> list[AnsweredByBoth]:
    """One answer of each model to each prompt, drawn with the same settings from independent random streams."""
    progress.start("evaluate", 2 * len(prompts), "answers")
    tables: dict[str, dict[str, Completion]] = {}
    for offset, (name, sampler) in enumerate(samplers.items()):
        own = Decoding(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            max_new_tokens=decoding.max_new_tokens,
            seed=decoding.seed + offset,
        )
        tables[name] = {}
        number = 0
        for number, shard in enumerate(chunks(prompts, _SHARD)):
            if progress.stopping:
                raise Interrupted("stopped while evaluating; the same command goes on from here")
            drawn = sample_shard(engine, sampler, shard, 1, own, group=1)
            rows = [
                completion_row(completion, prompt)
                for prompt in shard
                for completion in drawn[prompt.id]
            ]
            key = shard_key(
                "evaluate", sampler.fingerprint, own.model_dump(), [prompt.id for prompt in shard]
            )
            write_part(
                part_path(folder / "evaluation" / name, number), "completions", rows, key=key
            )
            tables[name] |= {id_: found[0] for id_, found in drawn.items() if found}
            progress.advance(len(shard))
        remove_parts_from(folder / "evaluation" / name, number + 1)
    return answered_by_both(prompts, tables["baseline"], tables["trained"], engine)


def _gold(
    answered: Sequence[AnsweredByBoth],
    config: RunConfig,
    contests: list[HeadToHead],
    constraints: list[ConstraintScore],
) -> Sequence[tuple[GoldParts, GoldParts] | None]:
    """The gold parts of both answers to each prompt; None for each when the configuration names no gold score."""
    component = config.evaluate.gold
    if component is None:
        return [None] * len(answered)
    score: Callable[[str, str], GoldParts] = component.resolve("gold", where="evaluate.gold")
    parts = [_scored(score, one) for one in answered]
    gaps = [fmean(after.values()) - fmean(before.values()) for before, after in parts]
    contests.append(
        head_to_head(
            "gold", "gold", [0.5 if abs(g) < _TIE else float(g > 0) for g in gaps], config.evaluate
        )
    )
    for name in sorted({name for before, _ in parts for name in before}):
        having = [(before[name], after[name]) for before, after in parts if name in before]
        constraints.append(
            ConstraintScore(
                name=name,
                before=mean(f"{name}_before", [before for before, _ in having], config.evaluate),
                after=mean(f"{name}_after", [after for _, after in having], config.evaluate),
            )
        )
    return parts


def _scored(
    score: Callable[[str, str], GoldParts], one: AnsweredByBoth
) -> tuple[GoldParts, GoldParts]:
    try:
        return score(one.prompt.text, one.before.text), score(one.prompt.text, one.after.text)
    except ValueError as error:
        raise DataError(
            f"{one.prompt.source}: evaluate.gold cannot score this prompt: {error}; "
            "evaluate on prompts that it knows, or leave evaluate.gold out"
        ) from error
