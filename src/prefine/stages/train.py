"""Stage `train`: pairs, lists or labelled answers → a trained model."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefine.atomic import disk_errors, write_text
from prefine.config.checking import listed
from prefine.config.sections import RunConfig
from prefine.config.training import TrainConfig
from prefine.errors import ConfigError, DataError
from prefine.models.capabilities import check_model
from prefine.models.hf.adapters import base_of, whole
from prefine.models.hf.backend import HfModel
from prefine.models.hf.loading import Dtype, load_model, weights_written
from prefine.models.protocol import HasWeights
from prefine.records import Manifest, content_hash
from prefine.run.config_changes import config_diff, fingerprinted
from prefine.run.folder import RunFolder
from prefine.run.tables import table_hash
from prefine.run.view import JOINT_JUDGMENTS, TOKEN_LOGPS
from prefine.stages.bridged import check_bridged, items_table
from prefine.stages.budget import automatic_budget
from prefine.stages.lineage import earlier_checkpoints, falls_count_from, first_policy
from prefine.stages.loss_checks import check_loss
from prefine.stages.pair_options import held_out_inputs
from prefine.stages.references import (
    RunReference,
    check_references,
    check_weights,
    reads_held_out,
    references_of,
    scored,
    with_their_tokens,
)
from prefine.stages.saved_model import card_of, save_model
from prefine.stages.stage_run import Progress, StageRun
from prefine.stages.template_date import date_notes
from prefine.stages.training_inputs import (
    check_adapter,
    check_first_rows,
    check_trackers,
    configured_relation,
    held_out_tables,
    read_all_items,
    read_held_out,
    trainable,
)
from prefine.training.checkpoints import newest_optimizer
from prefine.training.distributed.processes import from_main
from prefine.training.items import OtherTokens, TokenizedItem
from prefine.training.logging.figures import (
    BUDGET_LOG_NAME,
    CLIMB_LOG_NAME,
    EVALUATION_LOG_NAME,
    FINAL_NAME,
    LOG_NAME,
    LoggedRow,
    TrainSummary,
)
from prefine.training.loop import train
from prefine.training.relations.choose import configured_loss
from prefine.training.step_sources.protocol import MakeStepSource
from prefine.training.step_sources.share_counts import kept_below, planned_steps

if TYPE_CHECKING:
    from prefine.training.budget.settings import AutomaticBudget
    from prefine.training.logging.trackers import Trackers
    from prefine.training.token_sample import ScoredItem

_TRAINING = (
    "checkpoints",
    "model",
    LOG_NAME,
    EVALUATION_LOG_NAME,
    BUDGET_LOG_NAME,
    CLIMB_LOG_NAME,
    FINAL_NAME,
    TOKEN_LOGPS,
    "trackers",
)
"""The files and folders of a training in the run folder, its reference values aside."""


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `model/`, the logs, `train_final.json`, `checkpoints/`, and `heldout_tokens/`.

    Raises:
        ConfigError: The policy cannot be trained here, its loss cannot read the selector's pairs,
            or the pairs were made with other settings than today's.
        DataError: No item can be trained on or evaluated, or not all of them are there.
        BackendError: An experiment tracker does not start.
        NumericsError: A loss or gradient is not finite.
        Interrupted: The user asked to stop; a checkpoint was saved.
    """
    settings = config.train
    models = _Models.of(config)
    policy = models.policy
    check_model(policy)
    check_adapter(config, policy)
    for reference in models.references:
        if reference.model is not None:
            check_model(reference.model)
    check_weights(policy, models.references, rewards=settings.reward is not None)
    check_loss(config)
    reference_notes = check_references(config, policy, models.references)
    models = models.with_tokens(config)
    check_trackers(config)
    relation = configured_relation(config)
    kinds = [kind.name for kind in relation.kinds]
    words = listed(kinds)
    for kind in kinds:
        _check_items_made(config, folder, kind)
    tables = [items_table(config, kind) for kind in kinds]
    inputs = {table: table_hash(folder / table) for table in tables}
    inputs["policy"] = policy.fingerprint
    if weights := config.item_weights:
        inputs["weights"] = content_hash(weights)
    for reference in models.references:
        if reference.model is not None:
            inputs[reference.stated.where.removeprefix("train.")] = reference.model.fingerprint
    if models.first is not None:
        check_model(models.first)
        inputs["first_policy"] = models.first.fingerprint
    if (earlier := earlier_checkpoints(config)) is not None:
        inputs["optimizer"] = newest_optimizer(earlier)[1]
    automatic = automatic_budget(config)
    if automatic is not None:
        # Here and not above: few trainings have one.
        from prefine.stages.anchors import anchor_inputs

        inputs |= anchor_inputs(config, automatic)
    if settings.evaluate_every is not None or automatic is not None or reads_held_out(config):
        inputs |= {table.name: table_hash(table) for table in held_out_tables(config)}
    stage = StageRun(folder, "train", config, inputs)
    if stage.finished and (folder / "model").is_dir():
        from_main(None)
        return stage.finished
    run_key = content_hash("train", stage.fingerprinted["train"], stage.inputs)
    _set_aside_other_run(folder, run_key, progress)
    stage.begin(settings.seed)
    from_main(run_key)
    examples = read_all_items(config, policy, models.others)
    stage.dropped.update(examples.dropped)
    stage.notes += reference_notes
    stage.notes += check_first_rows(config, examples.items, policy)
    stage.notes += date_notes(config)
    held_out = read_held_out(config, policy, models.others)
    budgeted = _budget_arguments(config, policy, examples.items, held_out.items)
    if automatic is not None and automatic.anchor == "auto":
        stage.notes += _notes_on_anchors(budgeted["automatic"])
    read = {
        "prompts": len(examples.items),
        "completions": sum(len(item.texts) for item in examples.items),
    }
    stage.notes += [
        *(f"held-out {words}: {count} × {reason}" for reason, count in held_out.dropped.items()),
        *(
            f"{count} answers left out of {words}: {reason}"
            for reason, count in examples.left_out.items()
        ),
        *(
            f"{count:,} of {read[side]:,} {side} shortened to the token limit"
            for side, count in examples.truncated.items()
        ),
    ]
    # Loaded once: for training, after the references, and again to be saved.
    model = cache(partial(models.load_policy, settings, stage.notes.append))
    numbers = {
        kind.name: sum(isinstance(item, kind.item) for item in examples.items)
        for kind in relation.kinds
    }
    if settings.ches_below is not None:
        numbers["pairs"] = kept_below(numbers["pairs"], settings.ches_below)
    total = planned_steps(numbers, weights, settings.pairs_per_step) * settings.epochs
    progress.start("train", min(total, settings.max_steps or total), "steps")

    shown = 0

    def on_step(row: LoggedRow) -> None:
        nonlocal shown
        if shown == 0 and row.step > 1:
            progress.say(f"training goes on after step {row.step - 1}")
        # A resumed training begins where it was.
        progress.advance(row.step - shown, f"loss {row.loss:.3f}, {row.headline}")
        shown = row.step

    def on_evaluation(row: LoggedRow) -> None:
        count = len(held_out.items)
        progress.say(f"{count} held-out {words} after step {row.step}: {row.headline}")

    def trackers(first_step: int) -> "Trackers":
        from prefine.training.logging.trackers import open_trackers

        return open_trackers(
            settings.tracking.trackers,
            project=settings.tracking.project,
            run_name=settings.tracking.run_name or folder.path.resolve().name,
            config=config.resolved(),
            folder=folder / "trackers",
            run_key=run_key,
            first_step=first_step,
        )

    def write_tokens(scored: "list[ScoredItem]") -> None:
        # Here and not above: a training without held-out items has none.
        from prefine.stages.token_logps import write_token_logps

        write_token_logps(config, folder, policy.tokenizer, scored, key=run_key)

    with disk_errors(folder.path), weights_written():
        summary = models.trainer(config, run_key, progress)(
            model,
            examples.items,
            held_out=held_out.items,
            **budgeted,
            trackers=trackers if settings.tracking.trackers else None,
            on_step=on_step,
            on_evaluation=on_evaluation,
            on_tokens=write_tokens,
        )
        if summary.final.headline:
            progress.advance(0, summary.final.headline)
        card = card_of(
            config,
            folder,
            summary,
            base=first_policy(config).path,
            train=stage.fingerprinted["train"],
            dropped=examples.dropped,
        )
        save_model(model(), policy, settings, folder / "model", card=card)
    if summary.stopped_by is not None:
        stage.notes.append(
            f"the alarm {summary.stopped_by} ended training after step {summary.steps} of "
            f"{summary.planned_steps}"
        )
    if settings.ches_below is not None:
        reason = "its answers are more alike than train.ches_below allows"
        stage.dropped[reason] = len(examples.items) - summary.items
    stage.notes += summary.notes
    trained = HfModel(path=str(folder / "model"))
    return stage.end(
        taken=len(examples.items) + sum(examples.dropped.values()),
        produced=summary.items,
        outputs={"model": trained.fingerprint},
    )


def follow(config: RunConfig, progress: Progress) -> None:
    """Train in another process than the first one, which does `run` and keeps the folder.

    Raises:
        PrefineError: As `run`.
    """
    run_key: str | None = from_main(None)
    if run_key is None:
        return  # it was finished before
    models = _Models.of(config).with_tokens(config)
    examples = read_all_items(config, models.policy, models.others).items
    held_out = read_held_out(config, models.policy, models.others).items
    budgeted = _budget_arguments(config, models.policy, examples, held_out)
    model = partial(models.load_policy, config.train, lambda _: None)
    models.trainer(config, run_key, progress)(model, examples, held_out=held_out, **budgeted)


def _budget_arguments(
    config: RunConfig,
    policy: HasWeights,
    examples: Sequence[TokenizedItem],
    held_out: Sequence[TokenizedItem],
) -> dict[str, Any]:
    """The arguments of `training.loop.train` for a budget whose weight is set during training.

    Raises:
        DataError: Too few items are held out, checked before the model is loaded.
    """
    automatic = automatic_budget(config)
    if automatic is None:
        return {}
    from prefine.stages.anchors import read_anchors
    from prefine.training.budget.probe import halves

    halves(held_out)
    anchors = read_anchors(config, policy, automatic, examples=examples, held_out=held_out)
    return {"automatic": automatic.settled(anchors), "anchors": anchors}


def _notes_on_anchors(budget: "AutomaticBudget") -> list[str]:
    if budget.anchor != "chosen":
        return []
    return [
        "the budget's weight pulls at chosen answers alone: no other completion of a training "
        "prompt is in the upper half of its ranking (more sample.completions_per_prompt leave some)"
    ]


@dataclass(frozen=True)
class _Models:
    """The models of a training.

    Args:
        policy: What is trained.
        references: What the losses compare with.
        first: The policy from which falls and budgets count; None is `policy`.
    """

    policy: HasWeights
    references: tuple[RunReference, ...]
    first: HasWeights | None = None

    @classmethod
    def of(cls, config: RunConfig) -> "_Models":
        """The models that the configuration names."""
        return cls(
            trainable(config.policy, where="policy"),
            references_of(config),
            falls_count_from(config),
        )

    def with_tokens(self, config: RunConfig) -> "_Models":
        """Return the models with readers of texts for references that have other tokenizers."""
        return replace(self, references=with_their_tokens(config, self.policy, self.references))

    @property
    def others(self) -> list[OtherTokens]:
        """The readers of texts for references that have other tokenizers."""
        found = (one.other_tokens for one in self.references)
        return [one for one in found if one is not None]

    def load_policy(self, settings: TrainConfig, note: Callable[[str], None]) -> Any:
        """Load the policy; an adapter that it was loaded with becomes part of its weights."""
        path, device = self.policy.path, self.policy.device
        # The master weights are float32 whatever the layers compute in: rounding them first would
        # change the start. Frozen weights that are rounded anyway need no more memory than their
        # file.
        adapter = settings.adapter is not None
        frozen = adapter and settings.dtype == "bfloat16" and base_of(path) is None
        dtype: Dtype = "auto" if frozen else "float32"
        model = whole(load_model(path, dtype=dtype, device=device, note=note))
        if settings.reward is not None:
            from prefine.models.hf.reward_head import with_reward_head

            return with_reward_head(model, path, seed=settings.seed)
        return model

    def trainer(
        self, config: RunConfig, run_key: str, progress: Progress
    ) -> Callable[..., TrainSummary]:
        """Bind `training.loop.train` to everything that all processes share but the examples."""
        settings, regularizer = config.train, None
        earlier = earlier_checkpoints(config)
        if settings.fixed_regularizer is not None:
            regularizer = settings.fixed_regularizer.resolve(
                "regularizer", where="train.regularizer"
            )
        return partial(
            train,
            config=settings,
            loss=configured_loss(settings),
            regularizer=regularizer,
            out_dir=config.run_dir,
            run_key=run_key,
            references=[one.for_training(self.policy.device) for one in self.references],
            reference_dir=settings.reference_cache or _shared_reference_dir(config.run_dir),
            step_source=_step_source(config),
            optimizer_state={} if earlier is None else newest_optimizer(earlier)[0],
            first_policy=None if self.first is None else scored(self.first, self.policy.device),
            should_stop=lambda: progress.stopping,
        )


def _step_source(config: RunConfig) -> MakeStepSource:
    """The source of each step's items; of several kinds, each has its share."""
    if weights := config.item_weights:
        # Here and not above: most trainings have one kind of items.
        from prefine.training.step_sources.shares import Shares

        kinds = {kind.name: kind.item for kind in configured_relation(config).kinds}
        return partial(Shares, weights=weights, kinds=kinds)
    source = config.train.step_source
    made: MakeStepSource = source.resolve("step_source", where="train.step_source")
    return made


def _check_items_made(config: RunConfig, folder: RunFolder, kind: str) -> None:
    """Check that the folder's items are complete and made as the configuration asks.

    Raises:
        ConfigError: They were made with other settings.
        DataError: Their stage has not ended, or the rankings have changed since.
    """
    made = folder.manifests().get("pair")
    if items_table(config, kind) != kind:
        check_bridged(config, folder)
    if made is None:
        return
    if not made.complete:
        raise DataError(
            f"{folder / kind}: stage pair has begun and not ended, so {kind} are missing; run "
            "prefine pair"
        )
    if held_out_inputs(config).get("held_out") != made.input_hashes.get("held_out"):
        raise ConfigError(
            f"{folder / kind}: stage pair held out prompts for another train.regularizer_weight "
            "(an automatic one needs more of them); run `prefine pair CONFIG` first"
        )
    for table in ("rankings", JOINT_JUDGMENTS):
        read = made.input_hashes.get(table)
        if read is not None and read != table_hash(folder / table):
            raise DataError(
                f"{folder / table}: changed since stage pair made {kind} of them; run `prefine "
                "pair CONFIG` first"
            )
    resolved = config.resolved()
    wanted = fingerprinted({name: resolved[name] for name in made.config if name in resolved})
    changes = [
        f"{name}: {json.dumps(before, ensure_ascii=False)}, now "
        f"{json.dumps(now, ensure_ascii=False)}"
        for name, (before, now) in config_diff(fingerprinted(made.config), wanted).items()
    ]
    if changes:
        raise ConfigError(
            f"{folder / kind}: stage pair was made with {'; '.join(changes)}; run `prefine "
            "pair CONFIG` first"
        )


def _set_aside_other_run(folder: RunFolder, run_key: str, progress: Progress) -> None:
    """Move aside the training of other items (the run was extended); nothing is deleted."""
    marker = folder / "checkpoints" / "run_key"
    if marker.exists() and marker.read_text() != run_key:
        old = folder / f"training-before-{run_key}"
        progress.say(
            f"what it trains on has changed since the last training, which is kept in {old}"
        )
        old.mkdir(exist_ok=True)
        for name in (*_TRAINING, "metrics.json"):
            if (folder / name).exists():
                shutil.move(folder / name, old / name)
    write_text(marker, run_key)


def _shared_reference_dir(run_dir: Path) -> Path:
    """The folder of reference values beside the runs; this run's own if that is not writable."""
    parent = run_dir.resolve().parent
    shared = parent / ".prefine" / "reference"
    writable = os.access(shared if shared.is_dir() else parent, os.W_OK)
    return shared if writable else run_dir / "reference"
