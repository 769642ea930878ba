"""The figures of a round that has ended: against the first policy, the last and the best."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from prefine.atomic import write_text
from prefine.calls.engine import CallEngine
from prefine.config.sections import Decoding, RunConfig
from prefine.judging.choose import make_judge
from prefine.judging.protocol import Judge
from prefine.metrics.judges.agreement import rater_agreement
from prefine.metrics.protocol import AnswerPair
from prefine.metrics.texts.diversity import within_prompt
from prefine.metrics.win_rates.win_rates import win_of
from prefine.models.capabilities import backend_of, provided
from prefine.models.protocol import At, Releases, Samples
from prefine.records import Completion, MetricValue, Prompt, Record, content_hash
from prefine.report.data import Evaluation, HeadToHead
from prefine.rounds.configs import RoundsPlan
from prefine.run.config_changes import fingerprinted
from prefine.run.folder import RunFolder
from prefine.run.manifests import read_manifests
from prefine.run.rows import Groups
from prefine.run.tables import parse
from prefine.run.view import RunView
from prefine.stages.head_to_head import according_to, change, head_to_head, mean
from prefine.stages.shards import SHARD, in_parts, sample_shard
from prefine.stages.stage_run import Progress, chunks

INITIAL = 0
"""The number of the initial policy among the rounds."""


class RoundFigures(Record):
    """A round's model, on the same evaluation prompts in every round; falls are in nats.

    `over_initial`, `over_previous` and `over_best` are its answers against those of the initial
    policy, of the round before and of the best one before, `best_before` (0 is the initial policy):
    the one with the highest gold score or, without gold, win rate over the initial policy.
    `gold_over_best` is the paired difference of the gold scores. `agreement` says how often judge
    and gold name the same winner over the initial policy. `diversity` is that of two answers to a
    prompt. `fall` is the initial minus this model's log-probability of the answers that were chosen
    in round 1. Changes are paired and to the initial policy. With `second_judge`, the evaluation
    has another judge than the ranking.
    """

    key: str
    round: int
    best_before: int = INITIAL
    over_initial: tuple[HeadToHead, ...] = ()
    over_previous: tuple[HeadToHead, ...] = ()
    over_best: tuple[HeadToHead, ...] = ()
    gold_initial: MetricValue | None = None
    gold: MetricValue | None = None
    gold_over_best: MetricValue | None = None
    agreement: MetricValue | None = None
    length_initial: MetricValue | None = None
    length: MetricValue | None = None
    length_change: MetricValue | None = None
    diversity_initial: MetricValue | None = None
    diversity: MetricValue | None = None
    diversity_change: MetricValue | None = None
    fall: MetricValue | None = None
    second_judge: bool = False


class _EvaluatedModel(NamedTuple):
    """The answers of a model to the evaluation prompts, and their gold scores, by prompt id."""

    prompts: Mapping[str, Prompt]
    answers: Mapping[str, Completion]
    gold: Mapping[str, float]


def figures_file(rounds: RoundsPlan, number: int) -> Path:
    """The file of a round's figures in the folder of all rounds."""
    return rounds.config.run_dir / "figures" / f"{rounds.name(number)}.json"


def read_figures(rounds: RoundsPlan, number: int) -> RoundFigures | None:
    """The figures of a round, if they are of what its folder holds today."""
    file = figures_file(rounds, number)
    if not file.is_file():
        return None
    found = parse(RoundFigures, json.loads(file.read_text(encoding="utf-8")), where=str(file))
    return found if found.key == _key(rounds, number) else None


def measure(
    rounds: RoundsPlan, number: int, parent: RunFolder, progress: Progress
) -> CallEngine | None:
    """Measure a round that has ended, and keep its figures; None if they are there already.

    Every answer of a judge or a model is journaled in the folder of all rounds.

    Args:
        rounds: The rounds.
        number: Of the round; all before it have figures.
        parent: The folder of all rounds.
        progress: Is told of the work.

    Returns: What asked, for its counts.

    Raises:
        Interrupted: The user asked to stop.
        LimitError: A judge or a model failed on too many prompts.
    """
    # Here and not above: it imports the training engine.
    from prefine.rounds.falls import fall_of_first_answers

    if read_figures(rounds, number) is not None:
        return None
    engine = CallEngine(
        parent.journal(),
        stage=rounds.name(number),
        should_stop=lambda: progress.stopping,
        on_answers=lambda count: progress.advance(0, engine.status),
    )
    config = rounds.config_of(number)
    found: dict[str, Any] = {"key": _key(rounds, number), "round": number}
    if config.evaluate.prompts is not None:
        found |= _evaluated(rounds, number, config, engine, progress)
    found["fall"] = fall_of_first_answers(
        rounds.config_of(1), config.run_dir / "model", should_stop=lambda: progress.stopping
    )
    file = figures_file(rounds, number)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_text(file, RoundFigures(**found).model_dump_json(indent=1) + "\n")
    return engine


def _key(rounds: RoundsPlan, number: int) -> str:
    """A hash of what the figures of a round are computed from."""
    made: list[Any] = []
    for earlier in range(1, number + 1):
        stages = read_manifests(rounds.folder(earlier))
        made += [stages["train"].output_hashes] if "train" in stages else []
        made += [stages["evaluate"].input_hashes] if "evaluate" in stages else []
    settings = fingerprinted(rounds.config_of(number).resolved())
    return content_hash("figures of a round", made, settings["evaluate"])


def _evaluated(
    rounds: RoundsPlan, number: int, config: RunConfig, engine: CallEngine, progress: Progress
) -> dict[str, Any]:
    """The figures on the evaluation prompts."""
    settings, run = config.evaluate, RunView(config.run_dir)
    evaluation = parse(Evaluation, run.json("metrics.json"), where=str(run.path / "metrics.json"))
    component = settings.judge or (config.rank.judge if config.rank else None)
    judge = None if component is None else make_judge(component, where="evaluate.judge")
    name = next((one.judge for one in evaluation.contests if one.role == "judge"), "judge")
    models = {earlier: _answered(rounds, earlier) for earlier in range(INITIAL, number + 1)}
    own = models[number]
    best = _best(rounds, {one: models[one] for one in range(INITIAL, number)})
    progress.start("compare", 2 * len(own.answers), "answers")

    def over(other: int) -> tuple[HeadToHead, ...]:
        if other == INITIAL:
            return evaluation.contests
        return _contests(models[other], own, judge, name, engine, config)

    previous = over(number - 1)
    found: dict[str, Any] = {
        "best_before": best,
        "over_initial": evaluation.contests,
        "over_previous": previous,
        "over_best": previous if best == number - 1 else over(best),
        "second_judge": settings.judge is not None
        and config.rank is not None
        and settings.judge != config.rank.judge,
    }
    lengths = {one.name: one for one in evaluation.metrics}
    found |= {
        "length_initial": lengths.get("mean_length_before"),
        "length": lengths.get("mean_length_after"),
        "length_change": lengths.get("mean_length_change"),
    }
    if own.gold:
        found |= _gold(models[INITIAL], models[best], own, run, config)
    assert settings.decoding is not None, "set for every round"
    if settings.decoding.temperature != 0:
        found |= _diversity(models[INITIAL], own, rounds, config, engine, progress)
    return found


def _answered(rounds: RoundsPlan, number: int) -> _EvaluatedModel:
    """The evaluation answers of a round's model; those of the initial policy stand in round 1."""
    run = RunView(rounds.folder(max(1, number)))
    side = "before" if number == INITIAL else "after"
    table = "evaluation/baseline" if number == INITIAL else "evaluation/trained"
    outcomes = {row["prompt_id"]: row for row in run.outcomes()}
    prompts, answers = {}, {}
    for prompt, completions in run.completions(table):
        if prompt.id in outcomes and completions:
            prompts[prompt.id], answers[prompt.id] = prompt, completions[0]
    gold = {
        id_: fmean(row[f"gold_{side}"].values())
        for id_, row in outcomes.items()
        if row[f"gold_{side}"] is not None
    }
    return _EvaluatedModel(prompts, answers, gold)


def best_so_far(rounds: RoundsPlan, number: int) -> int:
    """The best model after a round that has figures; 0 is the initial policy."""
    if rounds.config.evaluate.prompts is None:
        return number
    every = {one: _answered(rounds, one) for one in range(INITIAL, number + 1)}
    return _best(rounds, every)


def _best(rounds: RoundsPlan, models: Mapping[int, _EvaluatedModel]) -> int:
    """The best of some models: by gold or, without it, by win rate over the initial one."""
    prompts = sorted(set.intersection(*(set(one.gold) for one in models.values())))

    def score(one: int) -> float:
        if prompts:
            return fmean(models[one].gold[id_] for id_ in prompts)
        figures = None if one == INITIAL else read_figures(rounds, one)
        contests = () if figures is None else figures.over_initial
        return next((c.win_rate.value for c in contests if c.role == "judge"), 50.0)

    # Of equals the first.
    return max(sorted(models), key=score)


def _contests(
    other: _EvaluatedModel,
    own: _EvaluatedModel,
    judge: Judge | None,
    name: str,
    engine: CallEngine,
    config: RunConfig,
) -> tuple[HeadToHead, ...]:
    """A model's answers against those of an earlier one, by the judge and by gold."""
    contests = []
    ids = [id_ for id_ in own.answers if id_ in other.answers]
    if judge is not None and ids:
        pairs = [AnswerPair(own.prompts[id_], other.answers[id_], own.answers[id_]) for id_ in ids]
        contests.append(according_to(judge, name, pairs, engine, config.evaluate).head_to_head)
    scored = [id_ for id_ in own.gold if id_ in other.gold]
    if scored:
        wins = [win_of(own.gold[id_] - other.gold[id_]) for id_ in scored]
        contests.append(head_to_head("gold", "gold", wins, config.evaluate))
    return tuple(contests)


def _gold(
    initial: _EvaluatedModel,
    best: _EvaluatedModel,
    own: _EvaluatedModel,
    run: RunView,
    config: RunConfig,
) -> dict[str, Any]:
    """The gold scores, their paired difference to the best, and how often the judge agrees."""
    settings = config.evaluate
    ids = [id_ for id_ in own.gold if id_ in initial.gold and id_ in best.gold]
    scores = [[one.gold[id_] for id_ in ids] for one in (initial, best, own)]
    found: dict[str, Any] = {
        "gold_initial": mean("gold_initial", scores[0], settings),
        "gold": mean("gold", scores[2], settings),
        "gold_over_best": change("gold_over_best", scores[1], scores[2], settings),
    }
    judged = {row["prompt_id"]: row["p_after"] for row in run.outcomes()}
    both = [id_ for id_ in ids if judged.get(id_) is not None]
    if both:
        found["agreement"] = rater_agreement(
            [judged[id_] for id_ in both],
            [win_of(own.gold[id_] - initial.gold[id_]) for id_ in both],
            samples=settings.bootstrap_samples,
            seed=settings.seed,
        ).agreement
    return found


def _diversity(
    initial: _EvaluatedModel,
    own: _EvaluatedModel,
    rounds: RoundsPlan,
    config: RunConfig,
    engine: CallEngine,
    progress: Progress,
) -> dict[str, Any]:
    """The diversity of two answers to a prompt: the second one is drawn here."""
    settings = config.evaluate
    assert settings.decoding is not None, "set for every round"
    first = rounds.config.policy
    trained = backend_of(first, At, where="policy").at(str(config.run_dir / "model"))
    ids = [id_ for id_ in own.answers if id_ in initial.answers]
    prompts = [own.prompts[id_] for id_ in ids]
    # The seeds behind those of the evaluation itself.
    drawing = settings.decoding.model_copy(update={"seed": settings.decoding.seed + 2})
    samplers = (backend_of(first, Samples, where="policy"), trained)
    seconds = [_second(prompts, one, drawing, engine, progress) for one in samplers]
    both = [id_ for id_ in ids if all(id_ in one for one in seconds)]
    if not both:
        return {}
    before, after = (
        [within_prompt([one.answers[id_].text, second[id_].text]) for id_ in both]
        for one, second in zip((initial, own), seconds, strict=True)
    )
    return {
        "diversity_initial": mean("diversity_initial", before, settings),
        "diversity": mean("diversity", after, settings),
        "diversity_change": change("diversity", before, after, settings),
    }


def _second(
    prompts: Sequence[Prompt],
    sampler: Samples,
    drawing: Decoding,
    engine: CallEngine,
    progress: Progress,
) -> dict[str, Completion]:
    """One more answer to each prompt; those that failed are missing."""
    found: dict[str, Completion] = {}

    async def work(shard: list[Prompt]) -> Groups:
        return await sample_shard(engine.scope(), sampler, shard, 1, drawing)

    def write(shard: list[Prompt], groups: Groups) -> None:
        found.update({prompt.id: drawn[0] for prompt, drawn in groups if drawn})
        progress.advance(len(shard))

    engine.run(in_parts(chunks(prompts, SHARD), work, write, concurrency=sampler.concurrency))
    if (heavy := provided(sampler, Releases)) is not None:
        heavy.release()
    return found
