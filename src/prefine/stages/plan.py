"""The road through the stages: which of them a configuration needs, what it will cost, and walking it."""

import importlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

from prefine.config.sections import Component, Decoding, RankConfig, RunConfig, components
from prefine.data.import_report import ImportReport
from prefine.data.sources import open_source
from prefine.errors import BackendError, ConfigError, DataError, LimitError
from prefine.judging.choose import choose_rater, judges_asked, make_judge
from prefine.models.protocol import Sampler
from prefine.records import Completion, Manifest, Message, Prompt
from prefine.run.folder import RunFolder
from prefine.stages.costs import estimates
from prefine.stages.imported_pairs import readable_by_loss, stating_enough
from prefine.stages.inputs import read_completions, read_pairs, read_prompts, short_enough, unseen
from prefine.stages.sampling import sampler_of
from prefine.stages.stage_run import Progress, check_judge, check_model

STAGES = ("sample", "rank", "pair", "train", "evaluate", "report")
_BEFORE_PAIRS = STAGES[:2]


class DryRunPlan(NamedTuple):
    """What a run would do, as lines of (what, how much); what is set aside of the inputs."""

    lines: tuple[tuple[str, str], ...]
    imports: tuple[str, ...]
    notes: tuple[str, ...]


class Inputs(NamedTuple):
    """The inputs of a run: how many usable rows each has, by its name, and what was set aside."""

    counts: dict[str, int]
    notes: tuple[str, ...]


def stages_of(config: RunConfig) -> tuple[str, ...]:
    """The stages that a configuration walks through."""
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


def check(config: RunConfig, *, strict: bool = False, through: str = STAGES[-1]) -> Inputs:
    """Resolve every component and look at every input that is on disk, before anything is spent.

    Args:
        config: The configuration.
        strict: Refuse the first row that would be set aside.
        through: The last stage that will run; pairs that no loss can read are no fault of a run
            that ends before.

    Raises:
        ConfigError: A name or option is wrong, or two components do not go together.
        DataError: An input has a bad row.
        BackendError: A model folder cannot be used.
    """
    ranked_by = () if config.rank is None else _asked_in_ranking(config.rank)
    idle = _idle(config, ranked_by, through)
    for where, kind, component in components(config):
        if kind == "judge":
            judge = make_judge(component, where=where)
            if where not in idle:
                check_model(judge)
            continue
        if kind == "source":
            open_source(component, where=where)
            continue
        given = {"strategy": ("first_slot_bias",), "selector": ("seed",)}.get(kind, ())
        made = component.resolve(kind, where=where, given=given)
        if kind == "backend" and where not in idle:
            check_model(made())
    _check_pairing(config)
    from prefine.stages.training_inputs import (
        check_adapter,
        check_evaluation,
        check_loss,
        trainable,
    )

    trains = STAGES.index(through) >= STAGES.index("train")
    if trains:
        check_loss(config)
        check_evaluation(config)
    check_adapter(config, trainable(config.policy, where="policy"))
    if isinstance(config.train.reference, Component):
        trainable(config.train.reference, where="train.reference")
    counts: dict[str, int] = {}
    notes = [
        f"{name}: {note}"
        for name, screen in _inputs(config, counts, ranked_by, strict=strict, trains=trains)
        for note in screen.notes()
    ]
    prompts = next(
        counts[name] for name in ("prompts", "completions", "prompts of pairs") if name in counts
    )
    if config.pair.held_out_prompts >= prompts:
        raise ConfigError(
            f"pair.held_out_prompts: {config.pair.held_out_prompts} of {prompts} prompts leaves "
            "none to train on"
        )
    return Inputs(counts, tuple(notes))


def _asked_in_ranking(settings: RankConfig) -> tuple[str, ...]:
    """Where the judges stand that the strategy asks, if somebody gives the ratings that it asks for."""
    from prefine.stages.rank import strategy_facts

    judge = make_judge(settings.judge, where="rank.judge")
    scorer = None if settings.scorer is None else make_judge(settings.scorer, where="rank.scorer")
    facts = strategy_facts(settings.strategy)
    choose_rater(judge, scorer, strategy=settings.strategy.name, facts=facts)
    return tuple(
        "rank.scorer" if one is scorer else "rank.judge"
        for one in judges_asked(judge, scorer, facts)
    )


def _idle(config: RunConfig, ranked_by: Collection[str], through: str) -> tuple[str, ...]:
    """What is configured and never asked, so that its key and its folder are not needed: a judge beside a scorer."""
    evaluates = config.evaluate.prompts is not None and STAGES.index(through) >= STAGES.index(
        "evaluate"
    )
    if "rank.judge" in ranked_by or (evaluates and config.evaluate.judge is None):
        return ()
    return ("rank.judge", "rank.judge.model")


def _check_pairing(config: RunConfig) -> None:
    """Nothing, if the strategy knows what the selector and its options need."""
    from prefine.stages.imported_pairs import check_imported
    from prefine.stages.selection import BoundSelector

    if config.pairs is not None:
        check_imported(config.pair)
    else:
        BoundSelector(config.pair, None if config.rank is None else config.rank.strategy)


Groups = Iterator[tuple[Prompt, list[Completion]]]


def _inputs(
    config: RunConfig,
    counts: dict[str, int],
    ranked_by: Collection[str],
    *,
    strict: bool,
    trains: bool,
) -> Iterator[tuple[str, ImportReport]]:
    """Each input with what was set aside; every row is checked on the way, also by those who will work on it."""
    rank = config.rank
    judge = rank.judge if rank is not None and "rank.judge" in ranked_by else None
    scorer = None if rank is None else rank.scorer
    ids: set[str] = set()
    if config.prompts is not None:
        assert config.sample is not None, "checked by RunConfig"
        screen = ImportReport(strict=strict)
        groups = _judgeable(_unanswered(config.prompts, "prompts", screen), judge, "rank.judge")
        groups = _judgeable(groups, scorer, "rank.scorer")
        counts["prompts"] = _count(
            _answerable(groups, config, config.sample, "sample", screen), ids
        )
        yield "prompts", screen
    if config.completions is not None:
        screen = ImportReport(strict=strict)
        groups = _judgeable(
            read_completions(config.completions, screen=screen), judge, "rank.judge"
        )
        counts["completions"] = _count(_judgeable(groups, scorer, "rank.scorer"), ids)
        yield "completions", screen
    if config.pairs is not None:
        screen = ImportReport(strict=strict)
        pairs = readable_by_loss(read_pairs(config.pairs, screen=screen), config.train, screen)
        if trains:
            pairs = stating_enough(pairs, config.train, screen)
        if strict:
            from prefine.stages.training_inputs import readable_whole

            pairs = readable_whole(pairs, config, screen)
        ids |= {pair.prompt.id for pair in pairs}
        counts |= {"pairs": screen.kept, "prompts of pairs": len(ids)}
        yield "pairs", screen
    if config.evaluate.prompts is not None:
        screen = ImportReport(strict=strict)
        # Which prompts will be held out is not known yet; without any, an evaluation prompt among
        # them is a leak.
        trained_on = frozenset() if config.pair.held_out_prompts and not strict else ids
        groups = _unanswered(config.evaluate.prompts, "evaluate.prompts", screen, trained_on)
        groups = _judgeable(
            groups, config.evaluate.judge or (rank.judge if rank else None), "evaluate.judge"
        )
        decoding = config.evaluate.decoding or config.sample or Decoding()
        answerable = _answerable(groups, config, decoding, "evaluate.decoding", screen)
        counts["evaluation prompts"] = _count(answerable, set())
        yield "evaluation prompts", screen


def _unanswered(
    source: Component, where: str, screen: ImportReport, trained_on: Collection[str] = ()
) -> Groups:
    """Prompts with a stand-in for the completions that are yet to be sampled, which will have no metadata."""
    for prompt in unseen(read_prompts(source, where=where, screen=screen), trained_on, screen):
        message = Message(role="assistant", content="")
        yield (
            prompt,
            [Completion(id="unsampled", prompt_id=prompt.id, sample_index=0, message=message)],
        )


def _judgeable(groups: Groups, judge: Component | None, where: str) -> Groups:
    """The same, each checked by the judge."""
    made = None if judge is None else make_judge(judge, where=where)
    for prompt, completions in groups:
        if made is not None:
            check_judge(made, prompt, completions)
        yield prompt, completions


def _answerable(
    groups: Groups, config: RunConfig, decoding: Decoding, where: str, screen: ImportReport
) -> Groups:
    """The same, each checked by what will answer it; the trained model has the policy's tokenizer and length."""
    policy: Sampler = (
        sampler_of(config)
        if where == "sample"
        else config.policy.resolve("backend", where="policy")()
    )
    prompts = (prompt for prompt, _ in groups)
    for prompt in short_enough(
        prompts, lambda prompt: policy.check_prompt(prompt, decoding, where=where), screen
    ):
        yield prompt, []


def _count(groups: Groups, ids: set[str]) -> int:
    """How many there are; their ids are added to `ids`."""
    before = len(ids)
    ids |= {prompt.id for prompt, _ in groups}
    return len(ids) - before


def plan(config: RunConfig, *, strict: bool = False) -> DryRunPlan:
    """What the run would do, counted from the inputs; nothing is sampled, judged or trained."""
    counts, notes = check(config, strict=strict)
    lines = [(name, f"{count:,}") for name, count in counts.items()]
    rows = counts.get("prompts", counts.get("completions", 0))
    if config.prompts is not None and config.sample is not None:
        tokens = rows * config.sample.completions_per_prompt * config.sample.max_new_tokens
        lines.append(("completions to sample", f"{rows * config.sample.completions_per_prompt:,}"))
        lines.append(("tokens to sample, at most", f"{tokens:,}"))
    if config.rank is not None and config.pairs is None:
        duels, ratings = _most_asks(config, rows)
        lines += [("judge calls, at most", f"{duels:,}")] if duels or not ratings else []
        lines += [("ratings, at most", f"{ratings:,}")] if ratings else []
        lines += estimates(config, _groups(config), duels=duels, ratings=ratings)
    if config.evaluate.prompts is not None:
        lines.append(("evaluation answers to sample", f"{2 * counts['evaluation prompts']:,}"))
        lines.append(("evaluation judge calls", f"{2 * counts['evaluation prompts']:,}"))
    pairs = counts.get("pairs", _most_pairs(config, rows))
    if pairs is not None:
        steps = -(-pairs // config.train.pairs_per_step) * config.train.epochs
        lines.append(
            ("training steps, at most", f"{min(steps, config.train.max_steps or steps):,}")
        )
    own = [component.name for _, _, component in components(config) if ":" in component.name]
    if "evaluate" not in stages_of(config):
        notes = (
            *notes,
            "nothing will be evaluated: give evaluate.prompts, or pair.held_out_prompts: 100",
        )
    return DryRunPlan(tuple(lines), tuple(own), notes)


def _groups(config: RunConfig) -> Groups:
    """Prompts with the completions that exist."""
    if config.completions is not None:
        return read_completions(config.completions)
    assert config.prompts is not None, "checked by RunConfig"
    return ((prompt, []) for prompt in read_prompts(config.prompts, where="prompts"))


def _most_pairs(config: RunConfig, rows: int) -> int | None:
    """The pairs to train on, if the selector takes a number of each prompt."""
    from prefine.stages.selection import BoundSelector

    limit = BoundSelector(config.pair, None).limit
    return None if limit is None else limit * (rows - config.pair.held_out_prompts)


def _most_asks(config: RunConfig, rows: int) -> tuple[int, int]:
    """The duels and the ratings of all prompts."""
    from prefine.stages.rank import most_asks

    assert config.rank is not None, "checked by the caller"
    strategy = config.rank.strategy
    if config.prompts is not None and config.sample is not None:
        duels, ratings = most_asks(strategy, config.sample.completions_per_prompt)
        return rows * duels, rows * ratings
    assert config.completions is not None, "checked by RunConfig"
    groups = read_completions(config.completions)
    asks = [most_asks(strategy, len(found)) for _, found in groups]
    return sum(one.duels for one in asks), sum(one.ratings for one in asks)
