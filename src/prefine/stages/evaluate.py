"""Stage `evaluate`: is the trained model better, in whose eyes, and by how much, with intervals."""

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple, TypeAlias

from prefine.calls.engine import CallEngine
from prefine.config import Component, Decoding, RunConfig
from prefine.errors import ConfigError, DataError, Interrupted, LimitError
from prefine.judges.base import ComputedJudge
from prefine.judging.computed import Matchup, judge_all
from prefine.metrics.intervals import mean_value
from prefine.metrics.judge_facts import first_slot_rate, swap_consistency
from prefine.metrics.win_rates import both_order_wins, win_rate
from prefine.models.base import Sampler, decoding_settings
from prefine.records import Completion, Judgment, Manifest, MetricValue, Prompt, content_hash
from prefine.stages.base import Progress, StageRun, check_judge, chunks
from prefine.stages.report_data import OUTCOMES, ConstraintScore, Contest, Evaluation, Example
from prefine.stages.sampling import read_prompts, sample_shard
from prefine.store.base import write_text
from prefine.store.folder import RunFolder
from prefine.store.rows import completion_row
from prefine.store.tables import part_path, remove_parts_from, shard_key, table_hash, write_part

GoldParts: TypeAlias = dict[str, float]
_SHARD = 256
_TIE = 1e-9  # gold scores are means of a few fractions; closer than this they differ by rounding only


class Answered(NamedTuple):
    """One evaluation prompt with the answers of baseline and trained model."""

    prompt: Prompt
    before: Completion
    after: Completion


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Write `metrics.json`, and the completions and outcomes under `evaluation/`.

    Raises:
        ConfigError: There is nothing to evaluate on.
        DataError: There is no trained model yet, or the judge cannot work on these prompts.
        LimitError: A model failed on every evaluation prompt.
    """
    settings = config.evaluate
    if settings.model == "trained" and not (folder / "model").is_dir():
        raise DataError(f"{folder / 'model'}: there is no trained model yet; run `prefine train` first")
    after, before = _models(config, folder)
    prompts = [] if settings.prompts is None else list(read_prompts(settings.prompts, where="evaluate.prompts"))
    judge = _judge(config)
    decoding = settings.decoding or config.sample or Decoding()
    inputs = {
        "trained": after.fingerprint,
        "baseline": before.fingerprint,
        "heldout_pairs": table_hash(folder / "heldout_pairs"),
        # These may come from sections of other stages, or from a file.
        "prompts": content_hash([prompt.id for prompt in prompts]),
        "judge": judge.fingerprint if judge else "",
        "decoding": content_hash(decoding_settings(decoding)),
    }
    stage = StageRun(folder, "evaluate", config, inputs)
    if stage.finished and all((folder / name).exists() for name in ("metrics.json", *([OUTCOMES] if prompts else []))):
        return stage.finished
    for prompt in prompts:
        for sampler in (before, after):
            sampler.check_prompt(prompt, decoding, where="evaluate.decoding")
    stage.begin(settings.seed)
    engine = CallEngine(folder.journal())
    metrics: list[MetricValue] = []
    contests: list[Contest] = []
    constraints: list[ConstraintScore] = []
    answered: list[Answered] = []
    if prompts:
        answered = _answers(prompts, {"baseline": before, "trained": after}, decoding, folder, engine, progress)
        engine.check_failures(2 * len(prompts), settings.max_failed_fraction, where="evaluate")
        p_after, facts = _judged(answered, judge, config, engine, contests)
        engine.check_failures(2 * (len(prompts) + len(answered)), settings.max_failed_fraction, where="evaluate")
        metrics += facts + _lengths(answered, config)
        gold = _gold(answered, config, contests, constraints)
        lines = [
            Example(
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
        stage.dropped.update({f"held-out pair: {reason}": count for reason, count in rewards.dropped.items()})
    if not metrics:
        raise ConfigError("evaluate: nothing to evaluate on; give evaluate.prompts, or pair.held_out_prompts")
    evaluation = Evaluation(
        policy=f"{before.label}, trained" if settings.model == "trained" else after.label,
        baseline="initial" if settings.baseline == "initial" else before.label,
        contests=tuple(contests),
        constraints=tuple(constraints),
        metrics=tuple(metrics),
    )
    write_text(folder / "metrics.json", json.dumps(evaluation.model_dump(mode="json"), indent=1) + "\n")
    stage.failed.update(engine.failures)
    taken = len(prompts) or scored + sum(stage.dropped.values())
    return stage.end(taken=taken, produced=len(answered) or scored, outputs={}, engine=engine)


def _models(config: RunConfig, folder: RunFolder) -> tuple[Sampler, Sampler]:
    """The model and its baseline."""
    choice, other = config.evaluate.model, config.evaluate.baseline
    after: Sampler
    if isinstance(choice, Component):
        after = choice.resolve("backend", where="evaluate.model")()
    else:
        # Here and not above: models of other kinds must not import torch.
        from prefine.stages.training_inputs import trainable

        # With the policy's own device, dtype and batch size: what fits one of the two fits the other.
        after = trainable(config.policy, where="policy").at(str(folder / "model"))
    baseline = other if isinstance(other, Component) else config.policy
    before: Sampler = baseline.resolve("backend", where="evaluate.baseline")()
    return after, before


def _judge(config: RunConfig) -> ComputedJudge | None:
    component = _judge_component(config)
    judge: ComputedJudge | None = None if component is None else component.resolve("judge", where="evaluate.judge")()
    return judge


def _judge_component(config: RunConfig) -> Component | None:
    return config.evaluate.judge or (config.rank.judge if config.rank else None)


def _answers(
    prompts: list[Prompt],
    samplers: Mapping[str, Sampler],
    decoding: Decoding,
    folder: RunFolder,
    engine: CallEngine,
    progress: Progress,
) -> list[Answered]:
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
            rows = [completion_row(completion, prompt) for prompt in shard for completion in drawn[prompt.id]]
            key = shard_key("evaluate", sampler.fingerprint, own.model_dump(), [prompt.id for prompt in shard])
            write_part(part_path(folder / "evaluation" / name, number), "completions", rows, key=key)
            tables[name] |= {id_: found[0] for id_, found in drawn.items() if found}
            progress.advance(len(shard))
        remove_parts_from(folder / "evaluation" / name, number + 1)
    answered = [
        Answered(prompt, tables["baseline"][prompt.id], tables["trained"][prompt.id])
        for prompt in prompts
        if prompt.id in tables["baseline"] and prompt.id in tables["trained"]
    ]
    if not answered:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in engine.failures.most_common(3))
        raise LimitError(f"evaluate: none of {len(prompts)} prompts was answered by both models ({reasons})")
    return answered


def _judged(
    answered: Sequence[Answered],
    judge: ComputedJudge | None,
    config: RunConfig,
    engine: CallEngine,
    contests: list[Contest],
) -> tuple[list[float | None], list[MetricValue]]:
    """Each prompt's P(after is better) in the judge's eyes, both orders averaged; and facts about the judge."""
    component = _judge_component(config)
    if judge is None or component is None:
        return [None] * len(answered), []
    settings = config.evaluate
    for one in answered:
        check_judge(judge, one.prompt, [one.before, one.after])
    shown_first = judge_all(engine, judge, [Matchup(one.prompt, one.after, one.before) for one in answered])
    shown_second = judge_all(engine, judge, [Matchup(one.prompt, one.before, one.after) for one in answered])
    first, second = _p_first(shown_first), _p_first(shown_second)
    both = both_order_wins(first, second)
    p_after: list[float | None] = [None] * len(answered)
    for place, value in zip((i for i, ok in enumerate(both.answered) if ok), both.wins, strict=True):
        p_after[place] = float(value)
    if not len(both.wins):
        raise LimitError(f"evaluate: the judge gave no verdict in both orders on any of {len(answered)} prompts")
    contests.append(_contest(component.name, "judge", list(map(float, both.wins)), config))
    ids = [one.prompt.id for one in answered]
    judged = [(p, id_) for p, id_ in zip(first + second, ids + ids, strict=True) if p is not None]
    rates = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    return p_after, [
        first_slot_rate([p for p, _ in judged], prompt_ids=[id_ for _, id_ in judged], **rates),
        swap_consistency(first, [None if p is None else p for p in second], prompt_ids=ids, **rates),
    ]


def _p_first(judgments: Sequence[Judgment]) -> list[float | None]:
    return [judgment.p_first for judgment in judgments]


def _gold(
    answered: Sequence[Answered], config: RunConfig, contests: list[Contest], constraints: list[ConstraintScore]
) -> Sequence[tuple[GoldParts, GoldParts] | None]:
    """The gold parts of both answers to each prompt; None for each when the configuration names no gold score."""
    component = config.evaluate.gold
    if component is None:
        return [None] * len(answered)
    score: Callable[[str, str], GoldParts] = component.resolve("gold", where="evaluate.gold")
    parts = [_scored(score, one) for one in answered]
    gaps = [fmean(after.values()) - fmean(before.values()) for before, after in parts]
    contests.append(_contest("gold", "gold", [0.5 if abs(g) < _TIE else float(g > 0) for g in gaps], config))
    for name in sorted({name for before, _ in parts for name in before}):
        having = [(before[name], after[name]) for before, after in parts if name in before]
        constraints.append(
            ConstraintScore(
                name=name,
                before=_mean(f"{name}_before", [before for before, _ in having], config),
                after=_mean(f"{name}_after", [after for _, after in having], config),
            )
        )
    return parts


def _scored(score: Callable[[str, str], GoldParts], one: Answered) -> tuple[GoldParts, GoldParts]:
    try:
        return score(one.prompt.text, one.before.text), score(one.prompt.text, one.after.text)
    except ValueError as error:
        raise DataError(
            f"{one.prompt.source}: evaluate.gold cannot score this prompt: {error}; "
            "evaluate on prompts that it knows, or leave evaluate.gold out"
        ) from error


def _contest(judge: str, role: str, wins: Sequence[float], config: RunConfig) -> Contest:
    rate = win_rate(
        wins,
        samples=config.evaluate.bootstrap_samples,
        seed=config.evaluate.seed,
        name="gold_win_rate" if role == "gold" else "win_rate",
    )
    return Contest.model_validate(
        {
            "judge": judge,
            "role": role,
            "win_rate": rate,
            "wins": sum(w > 0.5 for w in wins),
            "ties": sum(w == 0.5 for w in wins),
            "losses": sum(w < 0.5 for w in wins),
        }
    )


def _lengths(answered: Sequence[Answered], config: RunConfig) -> list[MetricValue]:
    return [
        _mean("mean_length_before", [len(one.before.text) for one in answered], config, unit="characters"),
        _mean("mean_length_after", [len(one.after.text) for one in answered], config, unit="characters"),
    ]


def _mean(name: str, values: Sequence[float], config: RunConfig, *, unit: str = "") -> MetricValue:
    settings = config.evaluate
    return mean_value(name, values, samples=settings.bootstrap_samples, seed=settings.seed, unit=unit)
