"""The training loop: take step after step, save checkpoints, finish."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from prefine.config.training import TrainConfig
from prefine.errors import DataError, Interrupted, NumericsError
from prefine.losses.protocol import LossFunction
from prefine.schedules import learning_rate_factor
from prefine.training import checkpoints
from prefine.training.batches.packing import PackedBatch
from prefine.training.batches.row_fill import RowFill, needed_positions
from prefine.training.distributed import processes
from prefine.training.evaluation import Evaluations
from prefine.training.items import TokenizedItem
from prefine.training.logging.figures import (
    BUDGET_LOG_NAME,
    CLIMB_LOG_NAME,
    EVALUATION_LOG_NAME,
    FINAL_NAME,
    LOG_NAME,
    RowLog,
    TrainSummary,
    final_figures,
    step_row,
)
from prefine.training.logging.untracked import Untracked
from prefine.training.objective.gradient import StepTerms, accumulate_gradients
from prefine.training.ready import ReadyTraining, prepare_training
from prefine.training.reference.cache import ReferenceCache
from prefine.training.reference.models import ReferenceModel
from prefine.training.reference.prepare import check_start
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.pairs import right_order
from prefine.training.step_sources.protocol import FollowsPolicy, MakeStepSource, StepItems
from prefine.training.step_sources.shuffled import Shuffled

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prefine.training.budget.anchors import Anchors
    from prefine.training.budget.settings import AutomaticBudget
    from prefine.training.logging.trackers import Trackers
    from prefine.training.token_sample import ScoredItem

OnRow = Callable[[Any], None]
"""Called with every new row of a log; its class is that of the relation."""


def train(
    model: "PreTrainedModel | Callable[[], PreTrainedModel]",
    examples: Sequence[TokenizedItem],
    config: TrainConfig,
    *,
    loss: LossFunction,
    regularizer: LossFunction | None,
    out_dir: Path,
    run_key: str,
    references: Sequence[ReferenceModel] = (ReferenceModel(),),
    reference_dir: Path | None = None,
    held_out: Sequence[TokenizedItem] = (),
    automatic: "AutomaticBudget | None" = None,
    anchors: "Anchors" = MappingProxyType({}),
    step_source: MakeStepSource = Shuffled,
    optimizer_state: Mapping[str, torch.Tensor] = MappingProxyType({}),
    first_policy: ReferenceModel | None = None,
    trackers: "Callable[[int], Trackers | Untracked] | None" = None,
    on_step: OnRow | None = None,
    on_evaluation: OnRow | None = None,
    on_tokens: "Callable[[list[ScoredItem]], None] | None" = None,
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
        model: The policy with its initial weights, also when resuming; or what loads it, which is
            called when no reference is in memory any more.
        examples: The training items, of the relation that the loss reads.
        config: The settings; its loss and regularizer are taken from the arguments.
        loss: Of pairs, lists or labelled answers; its hyper-parameters may be schedules.
        regularizer: The same, or None.
        out_dir: The run's folder.
        run_key: Hash of policy, data and configuration; a checkpoint with another one is refused.
        references: What the losses compare with, first the one that most of them read; each is
            scored and let go before the next one is loaded.
        reference_dir: Folder of the initial policy's and the reference's log-probabilities, for
            this training and others; None is `reference/` in `out_dir`.
        held_out: Items that are evaluated before and after training, and every
            `config.evaluate_every` steps if that is set. With `automatic`, half of them.
        automatic: The budget whose weight is set during training, on the other half of `held_out`;
            it stands in place of the regularizer.
        anchors: The answers, by kind, that its weight may pull at.
        step_source: Makes what gives the items of each step; by default all of them, shuffled.
        optimizer_state: Moments of an earlier training of the same parameters, to begin with; by
            default none.
        first_policy: The policy from which falls and budgets count; by default `model` itself.
        trackers: Opens the experiment trackers, given the number of the first step (from 1) that
            will be logged.
        on_step: Called with every new row.
        on_evaluation: Called with every new row on the held-out items.
        on_tokens: Called at the end with some held-out items and their tokens' log-probabilities,
            if there are any.
        should_stop: Asked before every step; if true, a checkpoint is written and the run stops.

    Raises:
        ConfigError: The folder holds a checkpoint of another run, an item is longer than the
            model reads, or loss and regularizer read different relations.
        DataError: There is nothing to train on or to evaluate, or an item lacks a value that the
            loss reads.
        BackendError: A tracker does not start.
        NumericsError: A loss or gradient is not finite; the step's update was not made.
        Interrupted: `should_stop` became true, in any process.
    """
    if not examples:
        raise DataError("there is no example to train on")
    if config.evaluate_every is not None and not held_out:
        raise DataError(
            f"train.evaluate_every: there are no held-out {examples[0].word}s to evaluate"
        )
    cache = ReferenceCache(reference_dir or out_dir / "reference", should_stop)
    ready = prepare_training(
        model,
        examples,
        config,
        loss=loss,
        regularizer=regularizer if automatic is None else automatic.regularizer,
        references=references,
        held_out=held_out,
        automatic=automatic,
        anchors=anchors,
        step_source=step_source,
        cache=cache,
        first_policy=first_policy,
    )
    run = TrainingRun(config, ready, out_dir, run_key)
    run.resume(optimizer_state)
    with run.logs(trackers, on_evaluation):
        while not run.is_over:
            if processes.agree(should_stop is not None and should_stop()):
                run.save()
                raise Interrupted(
                    f"stopped after step {run.done} of {run.source.steps}; the same command resumes"
                )
            run.step(on_step)
        run.keep_top()
        run.measure_budget(last=True)
    return run.finish(reference_reused=cache.reused, on_tokens=on_tokens)


@dataclass(eq=False)
class TrainingRun:
    """One training: `resume`, `step` after step within `logs`, then `finish`.

    Args:
        config: The settings.
        ready: What there is before the first step.
        out_dir: The run's folder.
        run_key: Hash of policy, data and configuration.
        done: Updates made so far.
    """

    config: TrainConfig
    ready: ReadyTraining
    out_dir: Path
    run_key: str
    done: int = 0

    def __post_init__(self) -> None:
        ready = self.ready
        self.forward, self.weights, self.sharded = ready.forward, ready.weights, ready.sharded
        self.source, self.controller, self.budget = ready.source, ready.controller, ready.budget
        self.climb = ready.climb
        self.held_out, self.watched = ready.held_out, ready.watched
        self.notes = list(ready.notes)

    def resume(self, optimizer_state: Mapping[str, torch.Tensor]) -> None:
        """Load the newest checkpoint; if there is none, begin with an optimizer's state."""
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
            if self.budget is not None:
                self.budget.load_state_dict(self.state["budget"])
            if self.climb is not None:
                self.climb.load_state_dict(self.state["climb"])
            self.source.load_state_dict(checkpoint.step_source)
            if isinstance(self.source, FollowsPolicy):
                self.source.load_tensors(checkpoint.step_source_tensors)
            self.forward.tokens = checkpoint.row_tokens or self.forward.tokens
            self.done = self.resumed_from = checkpoint.step
        elif optimizer_state:
            self.weights.restore_optimizer(optimizer_state)
        self.keep_source_state()
        self.notes += damaged
        self.fill = RowFill(self.state.get("row_fill"))
        processes.check_same_weights(self.weights.parameters.values(), step=self.done)

    def keep_source_state(self) -> None:
        """Take the state of the step source, for checkpoints until this is called again."""
        source = self.source
        self.source_state = source.state_dict()
        self.source_tensors = source.tensors() if isinstance(source, FollowsPolicy) else {}

    @contextmanager
    def logs(
        self,
        trackers: "Callable[[int], Trackers | Untracked] | None",
        on_evaluation: OnRow | None,
    ) -> Iterator[None]:
        """Open the trackers and the log files; evaluate before the first update."""

        def on_row(row: Any) -> None:
            self.trackers.log("eval", row.step, row.model_dump(exclude={"step"}))
            if on_evaluation is not None:
                on_evaluation(row)

        step_file, evaluation_file, budget_file, climb_file = (
            self.out_dir / name if processes.is_main() else None
            for name in (LOG_NAME, EVALUATION_LOG_NAME, BUDGET_LOG_NAME, CLIMB_LOG_NAME)
        )
        looks = 0 if self.climb is None else self.climb.looks
        measured = 0 if self.budget is None else self.budget.rows(self.done)
        with (
            Untracked() if trackers is None else trackers(self.done + 1) as self.trackers,
            closing(RowLog(step_file, rows=self.done, step=self.done)) as self.log,
            closing(
                RowLog(None if self.budget is None else budget_file, rows=measured, step=self.done)
            ) as self.budget_log,
            closing(
                RowLog(None if self.climb is None else climb_file, rows=looks, step=self.done)
            ) as self.climb_log,
            closing(
                Evaluations(
                    self.held_out,
                    self.config,
                    watched=self.watched,
                    file=evaluation_file,
                    steps=self.source.steps,
                    start=self.done,
                    state=self.state,
                    on_row=on_row,
                    after_all=self.climb is not None,
                )
            ) as self.evaluations,
        ):
            if self.done == 0:
                self.evaluations.after(0, self.controller.at_step(0))
            yield

    @property
    def is_over(self) -> bool:
        """Return True after the last update, or when an alarm has stopped training."""
        return self.done >= self.source.steps or self.stopped_by is not None

    @property
    def stopped_by(self) -> str | None:
        """The alarm that ends training before its last update, or "infeasible"."""
        if self.budget is not None and self.budget.stopped and self.done < self.source.steps:
            return "infeasible"
        return self.evaluations.stopped_by

    def measure_budget(self, *, last: bool = False) -> None:
        """Measure the probe of an automatic budget, which sets the weight of the next updates.

        At the end of training, the untouched half is measured, too.
        """
        if self.budget is None:
            return
        objective = self.controller.at_step(self.done)
        climbing = None if self.climb is None else self.climb.delta
        row = self.budget.measure(self.done, objective, climbing=climbing, last=last)
        self.budget_log.write(row)
        self.trackers.log("budget", row.step, row.model_dump(exclude={"step"}))

    def look(self, *, last: bool = False) -> None:
        """Measure the quality of the policy where delta climbs; go back where it has dropped."""
        climb, budget, probe = self.climb, self.budget, self.watched
        assert climb is not None and budget is not None and probe is not None, "delta climbs"
        values = right_order(score_completions(self.forward, probe.examples), probe.table)
        row = climb.take(self.done, values, budget.probe.fall(budget.budget), last=last)
        if row.went_back:
            processes.agree(False)  # until the main process has written the checkpoint
            top = checkpoints.load_step(self.out_dir / "checkpoints", row.top_step)
            self.weights.restore(top.weights, top.optimizer)
            self.controller.load_state_dict(top.controllers)
            budget.go_back(top.controllers["budget"])
        self.climb_log.write(row)
        self.trackers.log("climb", row.step, row.model_dump(exclude={"step"}))

    def keep_top(self) -> None:
        """Take the best weights of the whole training, and evaluate them; if delta climbs."""
        if self.climb is not None:
            self.look(last=True)
            self.evaluations.after(self.done, self.controller.at_step(self.done - 1))

    def step(self, on_step: OnRow | None) -> None:
        """Make one update and log it, then evaluate and save if these are due."""
        step, config, optimizer = self.done, self.config, self.weights.optimizer
        if self.climb is not None and self.climb.is_due(step):
            self.look()
        if self.budget is not None and self.budget.is_due(step):
            self.measure_budget()
        learning_rate = config.learning_rate * learning_rate_factor(
            step,
            steps=self.source.steps,
            schedule=config.schedule,
            warmup_fraction=config.warmup_fraction,
            decay_fraction=config.decay_fraction,
        )
        if self.budget is not None:
            learning_rate *= self.budget.learning_rate_factor
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        self.keep_source_state()
        items = self.source.next(step)
        terms = self._gradient(step, items)
        ids = [items.prepared.examples[int(index)].id for index in terms.items]
        if step == 0 and self.ready.is_own_reference:
            check_start(terms.table, terms.policy, ids, dtype=config.dtype)
        norm = self.weights.clip(config.max_grad_norm or math.inf)
        if not math.isfinite(norm):
            raise NumericsError(
                f"step {step + 1}: the gradient is not finite ({norm}) though every loss is; "
                f"no update was made. Its {len(ids)} {terms.table.relation.name} begin with "
                f"{', '.join(ids[:8])}. Lower the learning rate, or look at them"
            )
        optimizer.step()
        self.done = step + 1
        self.keep_source_state()
        hyper_parameters = self.controller.current_values(terms.objective)
        if self.budget is not None:
            hyper_parameters["regularizer_weight"] = self.budget.regularizer_weight
            self.budget.learn_slope(terms)
        row = step_row(
            terms,
            step=self.done,
            epoch=1 + step // self.source.steps_per_epoch,
            learning_rate=learning_rate,
            hyper_parameters=hyper_parameters,
            grad_norm=norm,
        )
        self.log.write(row)
        self.trackers.log("train", row.step, row.model_dump(exclude={"step"}))
        if on_step is not None:
            on_step(row)
        if self.climb is None or self.done < self.source.steps:
            self.evaluations.after(self.done, terms.objective)
        look_next = self.climb is not None and self.climb.is_due(self.done)
        if self.done % config.checkpoint_every == 0 or look_next or self.is_over:
            self.save()

    def _gradient(self, step: int, items: StepItems) -> StepTerms:
        """Accumulate the gradient of a step, in batches that memory has room for."""
        prepared, indices = items
        random, controllers = torch.get_rng_state(), self.controller.state_dict()
        objective, pull = self.controller.at_step(step), None
        if self.budget is not None:
            objective, pull = self.budget.weighted(objective), self.budget.pull(step)

        def attempt() -> tuple[StepTerms, list[PackedBatch]]:
            self.weights.drop_gradients()
            batches, cross_prompt = prepared.cut(indices)
            terms = accumulate_gradients(
                self.forward,
                batches,
                prepared.table,
                objective,
                examples=prepared.examples,
                step=step + 1,
                mismatched=cross_prompt,
                control=self.controller.control,
                pull=pull,
                slopes=self.budget is not None and self.budget.slope == 0,
            )
            return terms, [*batches, *cross_prompt]

        def start_again() -> None:
            torch.set_rng_state(random)
            self.controller.load_state_dict(controllers)
            # At once, so that a run interrupted later cuts its batches as this one does from here.
            self.save()

        terms, batches = prepared.retry_smaller(attempt, indices, on_retry=start_again)
        needed = (
            needed_positions(some, processes.own_items(some, indices)) for some in prepared.read
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
        if self.budget is not None:
            states["budget"] = self.budget.state_dict()
        if self.climb is not None:
            states["climb"] = self.climb.state_dict()
        weights, optimizer = self.weights.weights(), self.weights.optimizer_state()
        if processes.is_main():
            self.log.sync()
            self.budget_log.sync()
            self.climb_log.sync()
            checkpoint = checkpoints.Checkpoint(
                self.done,
                weights,
                optimizer,
                torch.get_rng_state(),
                states,
                self.forward.tokens,
                self.source_state,
                self.source_tensors,
            )
            checkpoints.save(
                self.out_dir / "checkpoints",
                checkpoint,
                run_key=self.run_key,
                keep=self.config.keep_checkpoints,
                pinned=None if self.climb is None else self.climb.top_step,
            )

    def finish(
        self,
        *,
        reference_reused: bool,
        on_tokens: "Callable[[list[ScoredItem]], None] | None" = None,
    ) -> TrainSummary:
        """Score all training items once more and write `train_final.json`."""
        measured = self.source.measured_at_end()
        table = measured.table
        logps = table.join(score_completions(self.forward, measured.examples), table.totals())
        sample = None if self.held_out is None else self.held_out.sample
        # The processes that only follow have no `on_tokens`, and score with the first one.
        if processes.agree(on_tokens is not None) and sample is not None and sample.items:
            scored = sample.score(self.forward)
            if on_tokens is not None:
                on_tokens(scored)
        if self.sharded is not None:
            self.sharded.join()
            self.forward.in_step = False
        configured = self.config.micro_batch_tokens
        if self.forward.tokens < configured:
            self.notes.append(
                f"memory was short: rows took at most {self.forward.tokens} tokens in the end, "
                f"not {configured} (train.micro_batch_tokens)"
            )
        budget_notes = [] if self.budget is None else self.budget.notes()
        if self.climb is not None:
            budget_notes += self.climb.notes()
        summary = TrainSummary(
            steps=self.done,
            planned_steps=self.source.steps,
            steps_per_epoch=self.source.steps_per_epoch,
            items=len(measured.examples),
            resumed_from=self.resumed_from,
            reference_reused=reference_reused,
            stopped_by=self.stopped_by,
            row_fill=self.fill.share,
            notes=(*self.notes, *budget_notes, *self.fill.notes(), *self.trackers.notes),
            final=table.relation.final_row.model_validate(
                final_figures(logps, table, self.controller.at_step(self.done - 1).regularizer)
            ),
        )
        if processes.is_main():
            summary.write(self.out_dir / FINAL_NAME)
        return summary
