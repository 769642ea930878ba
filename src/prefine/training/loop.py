"""The training loop: prepare the pairs, take step after step, save checkpoints, finish."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prefine.atomic import write_text
from prefine.config.sections import TrainConfig
from prefine.errors import DataError, Interrupted, NumericsError
from prefine.losses.facts import needs_of
from prefine.losses.protocol import LossFunction, Need
from prefine.records import SCHEMA_VERSION
from prefine.training import adapter, checkpoints
from prefine.training.batches.packing import PackedBatch
from prefine.training.batches.row_fill import RowFill, needed_positions
from prefine.training.batches.step_schedule import StepSchedule
from prefine.training.distributed import processes
from prefine.training.distributed.sharded import ShardedLayers
from prefine.training.distributed.weights import TrainableWeights
from prefine.training.evaluation import EVALUATION_LOG_NAME, EvaluationRow, Evaluations
from prefine.training.items import TokenizedPair
from prefine.training.learning_rate import factor
from prefine.training.logging.figures import RowLog, StepRow, TrainSummary, final_figures, step_row
from prefine.training.logging.trackers import Trackers, untracked
from prefine.training.objective.gradient import StepTerms, accumulate_gradients
from prefine.training.objective.loss_inputs import check_examples
from prefine.training.objective.objective import HyperparameterController
from prefine.training.reference.cache import ReferenceCache
from prefine.training.reference.prepare import (
    PreparedPairs,
    check_start,
    forward_of,
    prepare_model,
    prepare_pairs,
)
from prefine.training.reference.scoring import score_sides

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOG_NAME = "train_log.jsonl"
FINAL_NAME = "train_final.json"


def train(
    model: "PreTrainedModel",
    examples: Sequence[TokenizedPair],
    config: TrainConfig,
    *,
    loss: LossFunction,
    regularizer: LossFunction | None,
    out_dir: Path,
    run_key: str,
    ref_model: "PreTrainedModel | None" = None,
    reference_dir: Path | None = None,
    held_out: Sequence[TokenizedPair] = (),
    trackers: Callable[[int], Trackers] = untracked,
    on_step: Callable[[StepRow], None] | None = None,
    on_evaluation: Callable[[EvaluationRow], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainSummary:
    """Train all weights of `model` in place, or an adapter; the same call again resumes.

    `out_dir` receives `train_log.jsonl` and `eval_log.jsonl` (a row per step or evaluation, the
    same bytes however often the run was interrupted), `train_final.json` and `checkpoints/`.
    Trained weights are float32; the layers compute in `config.dtype`. Dropout is off. With
    `config.adapter` the weights are frozen, and `model` comes back with the adapter attached.

    Several processes (see `processes`) each call it with the same arguments; they share the work,
    the first one writes. Any number of them can resume from the checkpoint of any number.

    Args:
        model: The policy with its initial weights, also when resuming.
        examples: The training pairs.
        config: The settings; its loss and regularizer are taken from the arguments.
        loss: Needs only `PairLogps`; its hyper-parameters may be schedules.
        regularizer: The same, or None.
        out_dir: The run's folder.
        run_key: Hash of policy, data and configuration; a checkpoint with another one is refused.
        ref_model: The reference; None is the policy's initial weights.
        reference_dir: Folder of the initial policy's and the reference's log-probabilities, for
            this training and others; None is `reference/` in `out_dir`.
        held_out: Evaluated every `config.evaluate_every` steps.
        trackers: Opens the experiment trackers, given the number of the first step (from 1) that
            will be logged.
        on_step: Called with every new row.
        on_evaluation: Called with every new row on the held-out pairs.
        should_stop: Asked before every step; if true, a checkpoint is written and the run stops.

    Raises:
        ConfigError: The folder holds a checkpoint of another run, or a pair is longer than the
            model reads.
        DataError: There is nothing to train on or to evaluate, or a pair lacks a value that the
            loss reads.
        BackendError: A tracker does not start.
        NumericsError: A loss or gradient is not finite; the step's update was not made.
        Interrupted: `should_stop` became true, in any process.
    """
    if not examples:
        raise DataError("there is no example to train on")
    if config.evaluate_every is None:
        held_out = ()
    elif not held_out:
        raise DataError("train.evaluate_every: there are no held-out pairs to evaluate")
    run = TrainingRun(model, config, loss, regularizer, ref_model, out_dir, run_key)
    cache = ReferenceCache(reference_dir or out_dir / "reference", should_stop)
    run.prepare(examples, held_out, cache)
    run.resume()
    with run.logs(trackers, on_evaluation):
        while not run.is_over:
            if processes.agree(should_stop is not None and should_stop()):
                run.save()
                raise Interrupted(
                    f"stopped after step {run.done} of {run.schedule.steps}; the same command "
                    "resumes"
                )
            run.step(on_step)
    return run.finish(reference_reused=cache.reused)


@dataclass(eq=False)
class TrainingRun:
    """One training: `prepare`, `resume`, `step` after step within `logs`, then `finish`.

    Args:
        model: The policy.
        config: The settings.
        loss: The loss.
        regularizer: The regularizer, or None.
        ref_model: The reference, or None.
        out_dir: The run's folder.
        run_key: Hash of policy, data and configuration.
        done: Updates made so far.
    """

    model: "PreTrainedModel"
    config: TrainConfig
    loss: LossFunction
    regularizer: LossFunction | None
    ref_model: "PreTrainedModel | None"
    out_dir: Path
    run_key: str
    done: int = 0

    def prepare(
        self,
        examples: Sequence[TokenizedPair],
        held_out: Sequence[TokenizedPair],
        cache: ReferenceCache,
    ) -> None:
        """Check and score the pairs, then make the model's weights trainable."""
        config, model = self.config, self.model
        all_examples = [*examples, *held_out]
        prepare_model(model, all_examples, config)
        torch.manual_seed(config.seed)
        functions = [self.loss] if self.regularizer is None else [self.loss, self.regularizer]
        needs = frozenset[Need]().union(*map(needs_of, functions))
        notes = check_examples(functions, examples)
        held_out_notes = check_examples(functions, held_out, what="held-out pairs")
        self.forward, unshared = forward_of(
            model, all_examples, config, score_prompts="prompt" in needs
        )
        self.notes = [*notes, *unshared, *(f"held-out pairs: {note}" for note in held_out_notes)]

        def prepared(some: Sequence[TokenizedPair]) -> PreparedPairs:
            return prepare_pairs(some, self.forward, self.ref_model, config, needs, cache)

        self.pairs = prepared(examples)
        self.held_out = prepared(held_out) if held_out else None
        # Only after scoring: the reference is the model without the adapter.
        if config.adapter is not None:
            adapter.attach(model, config.adapter, seed=config.seed)
        self.schedule = StepSchedule(
            len(examples), config.pairs_per_step, config.epochs, config.seed, config.max_steps
        )
        self.controller = HyperparameterController(
            self.loss, self.regularizer, config.regularizer_weight, steps=self.schedule.steps
        )
        self.sharded: ShardedLayers | None = None
        if (reshard := processes.resharding()) is not None:
            # Each process takes the shares of its own copy.
            processes.check_same_weights(model.parameters(), step=0)
            self.sharded = ShardedLayers(model, reshard=reshard)
            self.forward.in_step = True
        self.weights = TrainableWeights.of(model, config)

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one."""
        checkpoint, damaged = checkpoints.load_newest(
            self.out_dir / "checkpoints", run_key=self.run_key
        )
        self.state: dict[str, dict[str, float]] = {}
        self.resumed_from: int | None = None
        if checkpoint is not None:
            self.weights.restore(checkpoint.weights, checkpoint.optimizer)
            torch.set_rng_state(checkpoint.rng)
            self.state = checkpoint.controllers
            self.controller.load_state_dict(self.state)
            self.forward.tokens = checkpoint.row_tokens or self.forward.tokens
            self.done = self.resumed_from = checkpoint.step
        self.notes += damaged
        self.fill = RowFill(self.state.get("row_fill"))
        processes.check_same_weights(self.weights.parameters.values(), step=self.done)

    @contextmanager
    def logs(
        self,
        trackers: Callable[[int], Trackers],
        on_evaluation: Callable[[EvaluationRow], None] | None,
    ) -> Iterator[None]:
        """Open the trackers and the log files; evaluate before the first update."""

        def on_row(row: EvaluationRow) -> None:
            self.trackers.log("eval", row.step, row.model_dump(exclude={"step"}))
            if on_evaluation is not None:
                on_evaluation(row)

        step_file, evaluation_file = (
            self.out_dir / name if processes.is_main() else None
            for name in (LOG_NAME, EVALUATION_LOG_NAME)
        )
        with (
            trackers(self.done + 1) as self.trackers,
            closing(RowLog(step_file, rows=self.done, step=self.done)) as self.log,
            closing(
                Evaluations(
                    self.held_out,
                    self.config,
                    file=evaluation_file,
                    steps=self.schedule.steps,
                    start=self.done,
                    state=self.state,
                    on_row=on_row,
                )
            ) as self.evaluations,
        ):
            if self.done == 0:
                self.evaluations.after(0, self.controller.at_step(0))
            yield

    @property
    def is_over(self) -> bool:
        """Return True after the last update, or when an alarm has stopped training."""
        return self.done >= self.schedule.steps or self.evaluations.stopped_by is not None

    def step(self, on_step: Callable[[StepRow], None] | None) -> None:
        """Make one update and log it, then evaluate and save if these are due."""
        step, config, optimizer = self.done, self.config, self.weights.optimizer
        learning_rate = config.learning_rate * factor(
            step,
            steps=self.schedule.steps,
            schedule=config.schedule,
            warmup_fraction=config.warmup_fraction,
            decay_fraction=config.decay_fraction,
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        terms = self._gradient(step)
        ids = [self.pairs.examples[int(index)].id for index in terms.pairs]
        if step == 0 and self.ref_model is None:
            tokens = terms.logps.chosen_tokens + terms.logps.rejected_tokens
            check_start(terms.logps.margin, tokens, ids, dtype=config.dtype)
        norm = self.weights.clip(config.max_grad_norm or math.inf)
        if not math.isfinite(norm):
            raise NumericsError(
                f"step {step + 1}: the gradient is not finite ({norm}) though every loss is; "
                f"no update was made. Its {len(ids)} pairs begin with {', '.join(ids[:8])}. Lower "
                "the learning rate, or look at them"
            )
        optimizer.step()
        self.done = step + 1
        row = step_row(
            terms,
            step=self.done,
            epoch=1 + step // self.schedule.steps_per_epoch,
            learning_rate=learning_rate,
            hyper_parameters=self.controller.current_values(terms.objective),
            grad_norm=norm,
        )
        self.log.write(row)
        self.trackers.log("train", row.step, row.model_dump(exclude={"step"}))
        if on_step is not None:
            on_step(row)
        self.evaluations.after(self.done, terms.objective)
        if self.done % config.checkpoint_every == 0 or self.is_over:
            self.save()

    def _gradient(self, step: int) -> StepTerms:
        """Accumulate the gradient of a step, in batches that memory has room for."""
        step_pairs = self.schedule.pairs_of(step)
        random, controllers = torch.get_rng_state(), self.controller.state_dict()

        def attempt() -> tuple[StepTerms, list[PackedBatch]]:
            self.weights.drop_gradients()
            batches, cross_prompt = self.pairs.cut(step_pairs)
            terms = accumulate_gradients(
                self.forward,
                batches,
                self.pairs.table,
                self.controller.at_step(step),
                examples=self.pairs.examples,
                step=step + 1,
                mismatched=cross_prompt,
                control=self.controller.control,
            )
            return terms, [*batches, *cross_prompt]

        def start_again() -> None:
            torch.set_rng_state(random)
            self.controller.load_state_dict(controllers)
            # At once, so that a run interrupted later cuts its batches as this one does from here.
            self.save()

        terms, batches = self.pairs.retry_smaller(attempt, step_pairs, on_retry=start_again)
        needed = (
            needed_positions(some, processes.own_pairs(some, step_pairs))
            for some in self.pairs.read
        )
        self.fill.add(batches, needed=sum(needed))
        return terms

    def save(self) -> None:
        """Write a checkpoint; all processes have to call it."""
        processes.check_same_weights(self.weights.parameters.values(), step=self.done)
        # First all processes gather the states, then the main one writes them.
        states = {
            **self.controller.state_dict(),
            **self.evaluations.state_dict(),
            "row_fill": self.fill.state_dict(),
        }
        weights, optimizer = self.weights.weights(), self.weights.optimizer_state()
        if processes.is_main():
            self.log.sync()
            checkpoint = checkpoints.Checkpoint(
                self.done, weights, optimizer, torch.get_rng_state(), states, self.forward.tokens
            )
            checkpoints.save(
                self.out_dir / "checkpoints",
                checkpoint,
                run_key=self.run_key,
                keep=self.config.keep_checkpoints,
            )

    def finish(self, *, reference_reused: bool) -> TrainSummary:
        """Score all training pairs once more and write `train_final.json`."""
        table = self.pairs.table
        logps = table.join(score_sides(self.forward, self.pairs.examples), table.totals())
        if self.sharded is not None:
            self.sharded.join()
            self.forward.in_step = False
        configured = self.config.micro_batch_tokens
        if self.forward.tokens < configured:
            self.notes.append(
                f"memory was short: rows took at most {self.forward.tokens} tokens in the end, "
                f"not {configured} (train.micro_batch_tokens)"
            )
        summary = TrainSummary(
            steps=self.done,
            planned_steps=self.schedule.steps,
            steps_per_epoch=self.schedule.steps_per_epoch,
            pairs=len(self.pairs.examples),
            resumed_from=self.resumed_from,
            reference_reused=reference_reused,
            stopped_by=self.evaluations.stopped_by,
            row_fill=self.fill.share,
            notes=(*self.notes, *self.fill.notes(), *self.trackers.notes),
            final=final_figures(logps, table, self.controller.at_step(self.done - 1).regularizer),
        )
        if processes.is_main():
            content = {
                "schema_version": SCHEMA_VERSION,
                **summary.model_dump(include={"steps", "stopped_by", "row_fill", "final"}),
            }
            write_text(
                self.out_dir / FINAL_NAME, json.dumps(content, indent=2, allow_nan=False) + "\n"
            )
        return summary
