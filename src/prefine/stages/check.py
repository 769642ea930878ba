"""Checks before a run: resolve every component and read every input row, before any work."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from prefine.config.base import Component
from prefine.config.filled import GIVEN
from prefine.config.named import outer_components
from prefine.config.sections import ITEM_ENTRIES, Decoding, RunConfig
from prefine.data.import_report import ImportReport
from prefine.data.sources import open_source
from prefine.errors import ConfigError
from prefine.executors.protocol import executor_of
from prefine.models.capabilities import backend_of, check_model, provided
from prefine.models.protocol import Launches, ListsModels, Samples
from prefine.records import Completion, LabelledCompletion, Message, PreferencePair, Prompt
from prefine.stages.budget import automatic_budget
from prefine.stages.inputs import (
    conversations_of,
    prompts_to_answer,
    read_completions,
    read_labels,
    read_lists,
    read_pairs,
    read_prompts,
    readable_by_loss,
    renderable,
    short_enough,
    unseen,
    with_loss_inputs,
    with_scores_read,
)
from prefine.stages.pair_options import check_imported, held_out_of_run, label_notes
from prefine.stages.pipeline import STAGES
from prefine.stages.stage_run import ChecksAnswers, check_judge

if TYPE_CHECKING:  # a run without a judge does not load them
    from prefine.judging.protocol import Judge


ALL_PROMPTS = "prompts of all items"
"""Their number where there are items of several kinds, which may share prompts."""


class Inputs(NamedTuple):
    """The inputs of a run: how many usable rows each has, by its name, and what was set aside.

    `servers` are the models at servers that the run asks, by their config paths; `notes` say which
    servers it starts itself, too.
    """

    counts: dict[str, int]
    notes: tuple[str, ...]
    servers: dict[str, ListsModels]


def check(
    config: RunConfig,
    *,
    strict: bool = False,
    through: str = STAGES[-1],
    read: Inputs | None = None,
) -> Inputs:
    """Check the configuration and its inputs as far as they are on disk.

    Args:
        config: The configuration.
        strict: Refuse the first row that would be set aside.
        through: The last stage that will run; pairs that no loss can read are no fault of a run
            that ends before.
        read: The same inputs, of a configuration that differs in nothing that rows are read by;
            they are not read again.

    Raises:
        ConfigError: A name or option is wrong, or two components do not go together.
        DataError: An input has a bad row.
        BackendError: A model folder cannot be used.
    """
    from prefine.stages.loss_checks import check_loss
    from prefine.stages.references import check_references, check_weights, references_of
    from prefine.stages.training_inputs import (
        check_adapter,
        check_evaluation,
        check_trackers,
        stop_token,
        trainable,
    )

    trains = STAGES.index(through) >= STAGES.index("train")
    ranked_by, pairs_per_prompt = _asked_in_ranking(config), None
    bridge = None
    if config.bridge is not None and STAGES.index(through) >= STAGES.index("bridge"):
        # Here and not above: few runs have it.
        from prefine.stages.bridge_options import bridge_check

        bridge = bridge_check(config)
    executor_of(config).check(config)
    servers, launches = _check_components(config, _never_asked(config, ranked_by, through))
    if config.items_entries:
        check_imported(config.pair, list(config.items_entries))
    else:
        # Here and not above: an import of items loads no selector.
        from prefine.stages.selection import BoundSelector, strategy_of

        selector = BoundSelector(config.pair, strategy_of(config))
        pairs_per_prompt = selector.limit
        if config.rank is not None and config.rank.across is not None and not selector.reads_judged:
            raise ConfigError(
                "rank.across: compares answers to different prompts, which pair.selector "
                f"{selector.name!r} does not read; choose joint, or take rank.across out"
            )
    if config.pair.replay is not None:
        # Here and not above: few runs are a round of several.
        from prefine.stages.replay import check_replay

        check_replay(config)
    policy = trainable(config.policy, where="policy")
    references = references_of(config)
    reference_notes: tuple[str, ...] = ()
    if trains:
        check_loss(config)
        check_trackers(config)
        check_weights(policy, references, rewards=config.train.reward is not None)
        reference_notes = check_references(config, policy, references)
    if config.evaluate.metrics:
        from prefine.stages.evidence import configured_metrics

        configured_metrics(config)
    check_adapter(config, policy)
    if trains:
        stop_token(policy)
    counts: dict[str, int] = {} if read is None else read.counts
    notes: Iterable[str] = () if read is None else read.notes
    if read is None:
        judges: list[ChecksAnswers] = [*ranked_by.values()]
        if bridge is not None:
            judges.append(bridge)
        labels: Counter[bool] = Counter()
        reports = _inputs(config, counts, judges, labels, strict=strict, trains=trains)
        notes = [
            *reference_notes,
            *(
                f"{name}: {note}"
                for name, report in reports
                for note in (*report.recognised(), *report.notes())
            ),
        ]
        if trains:
            notes = [*notes, *label_notes(labels, config)]
    held_out = held_out_of_run(prompts_of(counts), config)
    if trains:
        check_evaluation(config, held_out)
        if (budget := automatic_budget(config)) is not None:
            # Here and not above: few trainings have one.
            from prefine.stages.anchors import check_automatic_budget

            check_automatic_budget(config, budget, held_out, pairs_per_prompt)
    return Inputs(counts, tuple(dict.fromkeys([*launches, *notes])), servers)


def prompts_of(counts: Mapping[str, int]) -> int:
    """The number of prompts of a run, of the usable rows of its inputs by their names."""
    of_items = (f"prompts of {kind}" for kind in ITEM_ENTRIES)
    names = (ALL_PROMPTS, "prompts", "completions", *of_items)
    return next(counts[name] for name in names if name in counts)


def _asked_in_ranking(config: RunConfig) -> dict[str, "Judge"]:
    """The judges that the strategy asks, by their config path.

    Raises:
        ConfigError: It asks for ratings and no judge can give them.
    """
    if config.rank is None or config.unranked:
        return {}
    from prefine.stages.ranker import configured_ranker

    ranker = configured_ranker(config)
    return {"rank.scorer" if one is ranker.scorer else "rank.judge": one for one in ranker.asked}


def _never_asked(config: RunConfig, ranked_by: Collection[str], through: str) -> tuple[str, ...]:
    """The components that are configured and never asked, so that key and folder are not needed.

    That is the judge of a strategy that only rates, where there is a scorer.
    """
    evaluates = config.evaluate.prompts is not None and STAGES.index(through) >= STAGES.index(
        "evaluate"
    )
    bridges = config.bridge is not None and config.bridge.judge == "rank"
    if "rank.judge" in ranked_by or bridges or (evaluates and config.evaluate.judge is None):
        return ()
    return ("rank.judge",)


def _check_components(
    config: RunConfig, never_asked: Collection[str]
) -> tuple[dict[str, ListsModels], tuple[str, ...]]:
    """Check names, options and models.

    Returns: The models at servers by their config paths, and which servers would be started.
    """
    servers, launches = {}, dict[str, str]()
    for where, kind, component in outer_components(config):
        if kind == "selector" and config.items_entries:
            continue  # not used: `check_imported` looks at it
        if kind == "source":
            open_source(component, where=where)
            continue
        if kind == "judge":
            asked: Any = _judge(component, where)
            model, path = getattr(asked, "model", None), f"{where}.model"
        else:
            made = component.resolve(kind, where=where, given=GIVEN.get(kind, ()))
            if kind not in ("backend", "bridger"):
                continue
            asked = model = made()
            path = where
        if where not in never_asked:
            check_model(asked)
            if (listing := provided(model, ListsModels)) is not None:
                servers[path] = listing
            if (launching := provided(model, Launches)) is not None:
                launches.setdefault(launching.launches(), path)
    return servers, tuple(f"{path}: {what}" for what, path in launches.items())


def _inputs(
    config: RunConfig,
    counts: dict[str, int],
    judges: Sequence[ChecksAnswers],
    labels: Counter[bool],
    *,
    strict: bool,
    trains: bool,
) -> Iterator[tuple[str, ImportReport]]:
    """Each input with what was set aside; every row is also checked by those who will work on it.

    The usable rows of each are counted in `counts`, and in `labels` the labels that are known.
    """
    from prefine.stages.positions import as_group, as_item, as_prompt, read_in_one_piece

    ids: set[str] = set()
    if config.prompts is not None:
        assert config.sample is not None, "checked by RunConfig"
        # Here and not above: a run of pairs samples nothing.
        from prefine.stages.shards import sampler_of

        report = ImportReport(strict=strict)
        asked = prompts_to_answer(config, report)
        prompts = renderable(asked, lambda prompt: [prompt], config.policy, report)
        if trains:
            prompts = read_in_one_piece(prompts, config, as_prompt, report)
        ids = _answerable(prompts, judges, sampler_of(config), config.sample, "sample", report)
        counts["prompts"] = len(ids)
        yield "prompts", report
    if config.completions is not None:
        report = ImportReport(strict=strict)
        found = read_completions(config.completions, report=report)
        taken = renderable(found, lambda group: [group[0]], config.policy, report)
        if trains:
            taken = read_in_one_piece(taken, config, as_group, report)
        for prompt, completions in taken:
            for judge in judges:
                check_judge(judge, prompt, completions)
            if config.unranked:
                from prefine.data.reference_answers import reference_of

                reference_of(prompt)
            ids.add(prompt.id)
        counts["completions"] = len(ids)
        yield "completions", report
    if config.pairs is not None:
        report = ImportReport(strict=strict)
        pairs = readable_by_loss(read_pairs(config.pairs, report=report), config.train, report)
        pairs = renderable(pairs, conversations_of, config.policy, report)
        pairs = _judgeable(pairs, judges)
        if trains:
            pairs = with_loss_inputs(pairs, config.train, report)
            pairs = read_in_one_piece(pairs, config, as_item(config, "pairs"))
        if strict:
            from prefine.stages.training_inputs import readable_whole

            pairs = readable_whole(pairs, config, report)
        ids = {pair.prompt.id for pair in pairs}
        counts |= {"pairs": report.kept, "prompts of pairs": len(ids)}
        yield "pairs", report
    others: tuple[tuple[str, Component | None, Callable[..., Iterator[Any]]], ...] = (
        ("lists", config.lists, read_lists),
        ("labels", config.labels, read_labels),
    )
    for kind, source, read in others:
        if source is not None:
            report = ImportReport(strict=strict)
            items = renderable(read(source, report=report), conversations_of, config.policy, report)
            if trains:
                if kind == "lists":
                    items = with_scores_read(items, config.train)
                items = read_in_one_piece(items, config, as_item(config, kind))
            prompt_ids = []
            for item in items:
                prompt_ids.append(item.prompt.id)
                if isinstance(item, LabelledCompletion):
                    labels[item.desirable] += 1
            ids |= set(prompt_ids)
            if trains and kind == "labels":
                from prefine.training.relations.choose import configured_losses, losses_of_kind
                from prefine.training.relations.labels import check_other_prompts

                losses = losses_of_kind(configured_losses(config.train), kind)
                check_other_prompts(losses, set(prompt_ids), what=kind)
            counts |= {kind: len(prompt_ids), f"prompts of {kind}": len(set(prompt_ids))}
            yield kind, report
    if len(config.items_entries) > 1:
        counts[ALL_PROMPTS] = len(ids)
    if config.evaluate.prompts is not None:
        report = ImportReport(strict=strict)
        where = "evaluate.decoding"
        # Which prompts will be held out is not known yet; without any, an evaluation prompt among
        # them is a leak.
        held_out = held_out_of_run(len(ids), config)
        trained_on = ids if strict or not held_out else set()
        prompts = read_prompts(config.evaluate.prompts, where="evaluate.prompts", report=report)
        component = config.evaluate.judge or (config.rank.judge if config.rank else None)
        judges = [] if component is None else [_judge(component, "evaluate.judge")]
        # The trained model has the policy's tokenizer and length.
        policy = backend_of(config.policy, Samples, where="policy")
        decoding = config.evaluate.decoding or config.sample or Decoding()
        unseen_prompts = unseen(prompts, trained_on, report)
        answerable = _answerable(unseen_prompts, judges, policy, decoding, where, report)
        counts["evaluation prompts"] = len(answerable)
        yield "evaluation prompts", report


def _judgeable(
    pairs: Iterable[PreferencePair], judges: Sequence[ChecksAnswers]
) -> Iterator[PreferencePair]:
    """Pass pairs on; their rejected answers are checked by those who will be asked about them."""
    for pair in pairs:
        for judge in judges:
            check_judge(judge, pair.prompt, [pair.rejected])
        yield pair


def _answerable(
    prompts: Iterable[Prompt],
    judges: Collection[ChecksAnswers],
    sampler: Samples,
    decoding: Decoding,
    where: str,
    report: ImportReport,
) -> set[str]:
    """The ids of the prompts that fit into the model, each also checked by the judges."""
    # A stand-in for the completions that are yet to be sampled, which will have no metadata.
    empty = Message(role="assistant", content="")

    def judgeable() -> Iterator[Prompt]:
        for prompt in prompts:
            unsampled = Completion(
                id="unsampled", prompt_id=prompt.id, sample_index=0, message=empty
            )
            for judge in judges:
                check_judge(judge, prompt, [unsampled])
            yield prompt

    fitting = short_enough(
        judgeable(), lambda prompt: sampler.check_prompt(prompt, decoding, where=where), report
    )
    return {prompt.id for prompt in fitting}


def _judge(component: Component, where: str) -> "Judge":
    from prefine.judging.choose import make_judge

    return make_judge(component, where=where)
