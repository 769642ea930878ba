"""Stage `train`: pairs → a trained model."""

import shutil
from pathlib import Path
from typing import Any

from prefine.config import RunConfig
from prefine.models.folders import load_model, weights_written
from prefine.models.hf import HfModel
from prefine.records import Manifest, content_hash
from prefine.stages.base import Progress, StageRun
from prefine.stages.training_inputs import read_examples, trainable
from prefine.store.base import disk_errors, write_text
from prefine.store.folder import RunFolder
from prefine.store.tables import table_hash
from prefine.training.figures import StepRow
from prefine.training.loop import train


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `model/`, `train_log.jsonl`, `train_final.json` and `checkpoints/`.

    Raises:
        ConfigError: The policy is no model that can be trained here.
        DataError: No pair can be trained on.
        NumericsError: A loss or gradient is not finite.
        Interrupted: The user asked to stop; a checkpoint was saved.
    """
    settings = config.train
    policy = trainable(config.policy, where="policy")
    reference = None if settings.reference == "initial" else trainable(settings.reference, where="train.reference")
    loss = settings.loss.resolve("loss", where="train.loss")
    regularizer = (
        None if settings.regularizer is None else settings.regularizer.resolve("regularizer", where="train.regularizer")
    )
    inputs = {"pairs": table_hash(folder / "pairs"), "policy": policy.fingerprint}
    if reference is not None:
        inputs["reference"] = reference.fingerprint
    stage = StageRun(folder, "train", config, inputs)
    if stage.finished and (folder / "model").is_dir():
        return stage.finished
    run_key = content_hash("train", stage.sections["train"], stage.inputs)
    _set_aside_other_run(folder, run_key, progress)
    stage.begin(settings.seed)
    # The master weights are float32 whatever the layers compute in: rounding them first would move the start.
    model = load_model(policy.path, dtype="float32", device=policy.device)
    examples = read_examples(folder / "pairs", policy, config)
    stage.dropped.update(examples.dropped)
    stage.notes += [f"{count} {side} shortened to the token limit" for side, count in examples.truncated.items()]
    total = -(-len(examples.examples) // settings.pairs_per_step) * settings.epochs
    progress.start("train", min(total, settings.max_steps or total), "steps")

    def on_step(row: StepRow) -> None:
        progress.advance(1, f"margin {row.margin:.2f}, chosen fell {row.fall:.2f} nats")

    with disk_errors(folder.path), weights_written():
        summary = train(
            model,
            examples.examples,
            settings,
            loss=loss,
            regularizer=regularizer,
            out_dir=folder.path,
            run_key=run_key,
            ref_model=None if reference is None else load_model(reference.path, dtype="float32", device=policy.device),
            on_step=on_step,
            should_stop=lambda: progress.stopping,
        )
        _save(model, policy.tokenizer, folder / "model")
    stage.notes += summary.notes
    trained = HfModel(path=str(folder / "model"))
    return stage.end(
        taken=len(examples.examples) + sum(examples.dropped.values()),
        produced=summary.pairs,
        outputs={"model": trained.fingerprint},
    )


def _set_aside_other_run(folder: RunFolder, run_key: str, progress: Progress) -> None:
    """Move the training of other pairs out of the way (a run that was extended); nothing is deleted."""
    marker = folder / "checkpoints" / "run_key"
    if marker.exists() and marker.read_text() != run_key:
        old = folder / f"training-before-{run_key}"
        progress.say(f"the pairs have changed since the last training, which is kept in {old}")
        old.mkdir(exist_ok=True)
        for name in ("checkpoints", "model", "train_log.jsonl", "train_final.json", "metrics.json"):
            if (folder / name).exists():
                shutil.move(folder / name, old / name)
    write_text(marker, run_key)


def _save(model: Any, tokenizer: Any, path: Path) -> None:
    """An ordinary Hugging Face folder, there whole or not at all."""
    temporary = path.with_name(".model.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
