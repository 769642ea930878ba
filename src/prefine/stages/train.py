"""Stage `train`: pairs → a trained model."""

import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from prefine.atomic import disk_errors, write_text
from prefine.config.sections import AdapterConfig, RunConfig, TrainConfig
from prefine.errors import ConfigError, DataError
from prefine.losses.protocol import LossFunction
from prefine.models.hf.adapters import base_of, merge, save_adapter, whole
from prefine.models.hf.backend import HfModel
from prefine.models.hf.loading import load_model, weights_written
from prefine.records import Manifest, content_hash
from prefine.run.config_changes import config_diff, fingerprinted
from prefine.run.folder import RunFolder
from prefine.run.tables import table_hash
from prefine.stages.stage_run import Progress, StageRun, versions
from prefine.stages.training_inputs import (
    check_adapter,
    check_first_rows,
    check_loss,
    read_examples,
    read_held_out,
    trainable,
)
from prefine.training.distributed.processes import from_main
from prefine.training.evaluation import EVALUATION_LOG_NAME, EvaluationRow
from prefine.training.items import TokenizedPair
from prefine.training.logging.figures import StepRow, TrainSummary
from prefine.training.logging.model_card import CARD_NAME, foreign_card, model_card, write_card
from prefine.training.logging.trackers import Trackers, check_installed, open_trackers
from prefine.training.loop import train

_TRAINING = (
    "checkpoints",
    "model",
    "train_log.jsonl",
    EVALUATION_LOG_NAME,
    "train_final.json",
    "trackers",
)
"""What a training leaves in the run folder, its reference values aside."""


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `model/`, `train_log.jsonl`, `eval_log.jsonl`, `train_final.json` and `checkpoints/`.

    Raises:
        ConfigError: The policy is no model that can be trained here, its loss cannot read what the
            selector makes, or other settings than today's have made the pairs.
        DataError: No pair can be trained on or evaluated, or not all of them are there.
        BackendError: An experiment tracker does not start.
        NumericsError: A loss or gradient is not finite.
        Interrupted: The user asked to stop; a checkpoint was saved.
    """
    settings = config.train
    parts = _parts(config)
    policy = parts.policy
    check_adapter(config, policy)
    check_loss(config)
    check_installed(settings.tracking.trackers)
    _check_pairs_made(config, folder)
    inputs = {"pairs": table_hash(folder / "pairs"), "policy": policy.fingerprint}
    if parts.reference is not None:
        inputs["reference"] = parts.reference.fingerprint
    if settings.evaluate_every is not None:
        inputs["heldout_pairs"] = table_hash(folder / "heldout_pairs")
    stage = StageRun(folder, "train", config, inputs)
    if stage.finished and (folder / "model").is_dir():
        from_main(None)
        return stage.finished
    run_key = content_hash("train", stage.fingerprinted["train"], stage.inputs)
    _set_aside_other_run(folder, run_key, progress)
    stage.begin(settings.seed)
    from_main(run_key)
    examples = read_examples(folder / "pairs", policy, config)
    notes = check_first_rows(folder / "pairs", examples.examples, policy)
    held_out, left_out = _held_out(config, policy)
    notes += [f"held-out pairs: {count} × {why}" for why, count in left_out.items()]
    model = _load(policy, settings)
    stage.dropped.update(examples.dropped)
    stage.notes += notes
    stage.notes += [
        f"{count} {side} shortened to the token limit" for side, count in examples.truncated.items()
    ]
    total = -(-len(examples.examples) // settings.pairs_per_step) * settings.epochs
    progress.start("train", min(total, settings.max_steps or total), "steps")

    shown = 0

    def on_step(row: StepRow) -> None:
        nonlocal shown
        if shown == 0 and row.step > 1:
            progress.say(f"training goes on after step {row.step - 1}")
        # A resumed training begins where it was.
        progress.advance(
            row.step - shown, f"margin {row.margin:.2f}, chosen answers {-row.fall:+.2f} nats"
        )
        shown = row.step

    def on_evaluation(row: EvaluationRow) -> None:
        figures = f"loss {row.loss:.3f}, margin {row.margin:.2f}, accuracy {row.accuracy:.0%}"
        progress.say(f"{row.pairs} held-out pairs after step {row.step}: {figures}")

    def trackers(first_step: int) -> Trackers:
        return open_trackers(
            settings.tracking.trackers,
            project=settings.tracking.project,
            run_name=settings.tracking.run_name or folder.path.resolve().name,
            config=config.resolved(),
            folder=folder / "trackers",
            run_key=run_key,
            first_step=first_step,
        )

    with disk_errors(folder.path), weights_written():
        summary = _train(
            parts,
            model,
            examples.examples,
            held_out,
            config,
            run_key,
            progress,
            trackers=trackers,
            on_step=on_step,
            on_evaluation=on_evaluation,
        )
        card = model_card(
            # Not the run's folder: the same training writes the same bytes anywhere.
            name=f"{Path(policy.path).name}-{settings.loss.name}",
            base_model=policy.path,
            base_on_hub=not Path(policy.path).exists(),
            adapter=settings.adapter is not None and settings.adapter.save == "adapter",
            # Where it was shown and what it kept beside itself is nothing of the model's.
            train=settings.model_dump(mode="json", exclude={"reference_cache", "tracking"}),
            summary=summary,
            dropped=examples.dropped,
            stopped_by=summary.stopped_by,
            versions={"prefine": version("prefine"), **versions()},
            datasets=_hub_datasets(config),
        )
        _save(model, policy, settings.adapter, folder / "model", card=card)
    stage.notes += [*_early_end(summary), *summary.notes]
    trained = HfModel(path=str(folder / "model"))
    return stage.end(
        taken=len(examples.examples) + sum(examples.dropped.values()),
        produced=summary.pairs,
        outputs={"model": trained.fingerprint},
    )


def _early_end(summary: TrainSummary) -> list[str]:
    if summary.stopped_by is None:
        return []
    return [
        f"the alarm {summary.stopped_by} ended training after step {summary.steps} of "
        f"{summary.planned_steps}"
    ]


def follow(config: RunConfig, progress: Progress) -> None:
    """Do the part of another process of a training: the first one does `run`, keeps the folder and says what there is.

    Raises:
        PrefineError: As `run`.
    """
    run_key: str | None = from_main(None)
    if run_key is None:
        return  # it was finished before
    parts = _parts(config)
    examples = read_examples(config.run_dir / "pairs", parts.policy, config).examples
    held_out, _ = _held_out(config, parts.policy)
    _train(parts, _load(parts.policy, config.train), examples, held_out, config, run_key, progress)


def _held_out(config: RunConfig, policy: HfModel) -> tuple[list[TokenizedPair], dict[str, int]]:
    """The pairs that are evaluated during training, if any are, and how many were left out, by reason."""
    if config.train.evaluate_every is None:
        return [], {}
    examples, left_out, _ = read_held_out(config.run_dir / "heldout_pairs", policy, config)
    return examples, left_out


class _Parts(NamedTuple):
    """What is trained, beside which reference, by what."""

    policy: HfModel
    reference: HfModel | None
    loss: LossFunction
    regularizer: LossFunction | None


def _parts(config: RunConfig) -> _Parts:
    settings = config.train
    return _Parts(
        policy=trainable(config.policy, where="policy"),
        reference=None
        if settings.reference == "initial"
        else trainable(settings.reference, where="train.reference"),
        loss=settings.loss.resolve("loss", where="train.loss"),
        regularizer=None
        if settings.regularizer is None
        else settings.regularizer.resolve("regularizer", where="train.regularizer"),
    )


def _train(
    parts: _Parts,
    model: Any,
    examples: Sequence[TokenizedPair],
    held_out: Sequence[TokenizedPair],
    config: RunConfig,
    run_key: str,
    progress: Progress,
    **told: Any,
) -> TrainSummary:
    """What all processes of a training do."""
    return train(
        model,
        examples,
        config.train,
        loss=parts.loss,
        regularizer=parts.regularizer,
        out_dir=config.run_dir,
        run_key=run_key,
        ref_model=None
        if parts.reference is None
        else load_model(parts.reference.path, dtype="float32", device=parts.policy.device),
        reference_dir=config.train.reference_cache or _beside(config.run_dir),
        held_out=held_out,
        should_stop=lambda: progress.stopping,
        **told,
    )


def _check_pairs_made(config: RunConfig, folder: RunFolder) -> None:
    """Nothing, if the pairs in the folder are all there and those that the configuration asks for.

    Raises:
        ConfigError: Other settings have made them.
        DataError: The stage that makes them has not ended, or other rankings have made them.
    """
    made = folder.manifests().get("pair")
    if made is None:
        return
    if not made.complete:
        raise DataError(
            f"{folder / 'pairs'}: stage pair has begun and not ended, so pairs are missing; run "
            "prefine pair"
        )
    ranked = made.input_hashes.get("rankings")
    if ranked is not None and ranked != table_hash(folder / "rankings"):
        raise DataError(
            f"{folder / 'rankings'}: changed since stage pair made pairs of them; run `prefine "
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
            f"{folder / 'pairs'}: stage pair was made with {'; '.join(changes)}; run `prefine "
            "pair CONFIG` first"
        )


def _set_aside_other_run(folder: RunFolder, run_key: str, progress: Progress) -> None:
    """Move the training of other pairs out of the way (a run that was extended); nothing is deleted."""
    marker = folder / "checkpoints" / "run_key"
    if marker.exists() and marker.read_text() != run_key:
        old = folder / f"training-before-{run_key}"
        progress.say(f"the pairs have changed since the last training, which is kept in {old}")
        old.mkdir(exist_ok=True)
        for name in (*_TRAINING, "metrics.json"):
            if (folder / name).exists():
                shutil.move(folder / name, old / name)
    write_text(marker, run_key)


def _load(policy: HfModel, settings: TrainConfig) -> Any:
    """The policy's weights at the start; an adapter that it was loaded with is part of them."""
    # The master weights are float32 whatever the layers compute in: rounding them first would move
    # the start. Those that stay frozen and are rounded anyway need no more memory than their file.
    frozen = (
        settings.adapter is not None
        and settings.dtype == "bfloat16"
        and base_of(policy.path) is None
    )
    return whole(
        load_model(policy.path, dtype="auto" if frozen else "float32", device=policy.device)
    )


def _beside(run: Path) -> Path:
    """Where runs beside each other share the reference's values; the run's own folder if that cannot be written."""
    parent = run.resolve().parent
    shared = parent / ".prefine" / "reference"
    return (
        shared if os.access(shared if shared.is_dir() else parent, os.W_OK) else run / "reference"
    )


def _hub_datasets(config: RunConfig) -> tuple[str, ...]:
    """The hub's name of the pairs, if they came from there."""
    if config.pairs is None or config.pairs.name != "hub":
        return ()
    path = str(config.pairs.options.get("path", ""))
    return () if Path(path).exists() else (path,)


def _save(
    model: Any, policy: HfModel, adapter: AdapterConfig | None, path: Path, *, card: str
) -> None:
    """An ordinary Hugging Face folder, of a whole model or of an adapter; there whole or not at all."""
    temporary = path.with_name(".model.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if adapter is not None and adapter.save == "adapter":
        save_adapter(model, temporary, base=policy.path)
    else:
        if adapter is not None:
            merge(model)
        model.save_pretrained(temporary)
    policy.tokenizer.save_pretrained(temporary)
    # Libraries leave an empty form of a card; one that the user has written or changed stays.
    (temporary / CARD_NAME).unlink(missing_ok=True)
    own = foreign_card(path)
    write_card(temporary, card if own is None else own)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
