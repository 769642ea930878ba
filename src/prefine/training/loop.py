"""The training loop: a step is a fixed number of pairs, a row of the log, and nothing that a resumed run would lose."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prefine.atomic import write_text
from prefine.config.sections import TrainConfig
from prefine.errors import DataError, Interrupted, NumericsError
from prefine.losses.facts import needs_of
from prefine.losses.protocol import LossFunction, Need, PairLogps
from prefine.records import SCHEMA_VERSION
from prefine.training import adapter, checkpoints
from prefine.training.batches.packing import PackedBatch
from prefine.training.batches.row_fill import RowFill, needed_positions
from prefine.training.batches.step_schedule import StepSchedule
from prefine.training.cross_prompt import mismatched_examples
from prefine.training.distributed import processes
from prefine.training.distributed.sharded import ShardedLayers
from prefine.training.distributed.weights import TrainableWeights
from prefine.training.evaluation import (
    EVALUATION_LOG_NAME,
    EvaluationRow,
    Evaluations,
    HeldOutPairs,
)
from prefine.training.forward.passes import Forward
from prefine.training.items import TokenizedPair
from prefine.training.learning_rate import factor
from prefine.training.logging.figures import StepRow, TrainSummary, final_figures, step_row
from prefine.training.logging.row_log import RowLog
from prefine.training.logging.trackers import Trackers, untracked
from prefine.training.memory import retry_smaller_batches
from prefine.training.objective.gradient import StepTerms, accumulate_gradients
from prefine.training.objective.loss_inputs import check_examples
from prefine.training.objective.objective import HyperparameterController
from prefine.training.objective.pair_table import PairTable
from prefine.training.reference.cache import check_start
from prefine.training.reference.scoring import score_sides
from prefine.training.reference.start_values import (
    ReferenceCache,
    forward_of,
    prepare,
    start_values,
)

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
    """Train all weights of `model` in place, or an adapter; calling it again with the same arguments resumes.

    `out_dir` receives `train_log.jsonl` and `eval_log.jsonl` (a row per step or evaluation, the
    same bytes however often the run was interrupted), `train_final.json` and `checkpoints/`. What
    is trained is kept in float32; `config.dtype` is what the layers compute in. Dropout is off.
    With `config.adapter` the weights are frozen, and `model` comes back with the adapter attached.

    Several processes (see `processes`) each call it with the same arguments; they share the work,
    the first one writes. Any number of them goes on from what any number has left.

    Args:
        model: The policy with its initial weights, also when resuming.
        examples: What to train on.
        config: The settings; its loss and regularizer are taken from the arguments.
        loss: Needs only `PairLogps`; its hyper-parameters may be schedules.
        regularizer: The same, or None.
        out_dir: The run's folder.
        run_key: Hash of policy, data and configuration; a checkpoint with another one is refused.
        ref_model: The reference; None is the policy's initial weights.
        reference_dir: Where values of the initial policy and the reference are kept and looked up,
            for this training and others; None is `reference/` in `out_dir`.
        held_out: What is evaluated every `config.evaluate_every` steps.
        trackers: Opens the experiment trackers, given the number of the first step (from 1) that
            will be logged.
        on_step: Called with every new row.
        on_evaluation: Called with every new row on the held-out pairs.
        should_stop: Asked before every step; if true, a checkpoint is written and the run stops.

    Raises:
        ConfigError: The folder holds a checkpoint of another run, or a pair is longer than the
            model reads.
        DataError: There is nothing to train on or to evaluate, or a pair does not state what the
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
    prepare(model, [*examples, *held_out], config)
    torch.manual_seed(config.seed)
    functions = [loss] if regularizer is None else [loss, regularizer]
    notes = check_examples(functions, examples)
    needs = frozenset[Need]().union(*map(needs_of, functions))
    forward, unshared = forward_of(
        model, [*examples, *held_out], config, score_prompts="prompt" in needs
    )
    notes += unshared
    others, beside = (
        mismatched_examples(some) if some and "mismatched" in needs else []
        for some in (examples, held_out)
    )
    known = ReferenceCache(reference_dir or out_dir / "reference", should_stop)
    table = start_values(forward, ref_model, examples, others, config, needs, known)
    probes: HeldOutPairs | None = None
    if held_out:
        stated = check_examples(functions, held_out, what="held-out pairs")
        notes += tuple(f"held-out pairs: {note}" for note in stated)
        own = start_values(forward, ref_model, held_out, beside, config, needs, known)
        probes = HeldOutPairs(forward, held_out, own, beside)
    # After scoring: the reference is the model without the adapter, whatever the adapter's
    # settings.
    if config.adapter is not None:
        adapter.attach(model, config.adapter, seed=config.seed)
    plan = StepSchedule(
        len(examples), config.pairs_per_step, config.epochs, config.seed, config.max_steps
    )
    steering = HyperparameterController(
        loss, regularizer, config.regularizer_weight, steps=plan.steps
    )
    sharded: ShardedLayers | None = None
    if (sharding := processes.sharding()) is not None:
        # Each process makes shares of its own copy.
        processes.check_same_weights(model.parameters(), step=0)
        sharded = ShardedLayers(model, reshard=sharding.reshard)
        forward.in_step = True
    trained = TrainableWeights.of(model, config)

    checkpoint, passed_over = checkpoints.load_newest(out_dir / "checkpoints", run_key=run_key)
    if checkpoint is not None:
        trained.restore(checkpoint.weights, checkpoint.optimizer)
        torch.set_rng_state(checkpoint.rng)
        steering.load_state_dict(checkpoint.controllers)
        forward.tokens = checkpoint.row_tokens or forward.tokens
    start = 0 if checkpoint is None else checkpoint.step
    state = {} if checkpoint is None else checkpoint.controllers
    fill = RowFill(state.get("row_fill"))

    def evaluated(row: EvaluationRow) -> None:
        tracked.log_evaluation(row.step, row.model_dump(exclude={"step"}))
        if on_evaluation is not None:
            on_evaluation(row)

    def save(step: int) -> None:
        processes.check_same_weights(trained.parameters.values(), step=step)
        # Exchanges, so before the others leave.
        controllers = {
            **steering.state_dict(),
            **evaluations.state_dict(),
            "row_fill": fill.state_dict(),
        }
        weights, optimizer_state = trained.weights(), trained.optimizer_state()
        if not processes.is_main():
            return
        log.sync()
        checkpoints.save(
            out_dir / "checkpoints",
            step=step,
            run_key=run_key,
            weights=weights,
            optimizer=optimizer_state,
            controllers=controllers,
            row_tokens=forward.tokens,
            keep=config.keep_checkpoints,
        )

    def cut(
        pairs: Sequence[int], *, own: bool = True
    ) -> tuple[list[PackedBatch], list[PackedBatch]]:
        """The rows of a step, and those of its mismatched pairs: all, or this process's share."""
        rows, away = (
            forward.cut(some, processes.own_pairs(some, pairs) if own else pairs) if some else []
            for some in (examples, others)
        )
        return rows, away

    def step_terms(step: int) -> StepTerms:
        """The gradient of a step, in rows that memory has room for."""
        random, controllers, pairs = (
            torch.get_rng_state(),
            steering.state_dict(),
            plan.pairs_of(step),
        )

        def attempt() -> tuple[StepTerms, list[PackedBatch]]:
            trained.drop_gradients()
            batches, mismatched = cut(pairs)
            terms = accumulate_gradients(
                forward,
                batches,
                table,
                steering.at_step(step),
                examples=examples,
                step=step + 1,
                mismatched=mismatched,
                control=steering.control,
            )
            return terms, [*batches, *mismatched]

        def begin_again() -> None:
            torch.set_rng_state(random)
            steering.load_state_dict(controllers)
            # Kept at once: a run that is interrupted cuts its rows from here on as this one does.
            save(step)

        def all_rows() -> list[PackedBatch]:
            return [rows for some in cut(pairs, own=False) for rows in some]

        terms, rows = retry_smaller_batches(
            attempt, forward, all_rows, examples, on_retry=begin_again
        )
        needed = (
            needed_positions(some, processes.own_pairs(some, pairs))
            for some in (examples, others)
            if some
        )
        fill.add(rows, needed=sum(needed))
        return terms

    processes.check_same_weights(trained.parameters.values(), step=start)
    done = start
    with (
        trackers(start + 1) as tracked,
        RowLog(out_dir / LOG_NAME if processes.is_main() else None, rows=start, step=start) as log,
        Evaluations(
            probes,
            config,
            file=out_dir / EVALUATION_LOG_NAME if processes.is_main() else None,
            steps=plan.steps,
            start=start,
            state=state,
            on_row=evaluated,
        ) as evaluations,
    ):
        if start == 0:
            evaluations.after(0, steering.at_step(0))
        for step in range(start, plan.steps):
            if evaluations.stopped_by is not None:
                break
            if processes.agree(should_stop is not None and should_stop()):
                save(step)
                raise Interrupted(
                    f"stopped after step {step} of {plan.steps}; the same command resumes"
                )
            learning_rate = config.learning_rate * factor(
                step,
                steps=plan.steps,
                schedule=config.schedule,
                warmup_fraction=config.warmup_fraction,
                decay_fraction=config.decay_fraction,
            )
            for group in trained.optimizer.param_groups:
                group["lr"] = learning_rate
            terms = step_terms(step)
            ids = [examples[int(index)].id for index in terms.pairs]
            if step == 0 and ref_model is None:
                tokens = terms.logps.chosen_tokens + terms.logps.rejected_tokens
                check_start(terms.logps.margin, tokens, ids, dtype=config.dtype)
            norm = trained.clip(config.max_grad_norm or math.inf)
            if not math.isfinite(norm):
                raise NumericsError(
                    f"step {step + 1}: the gradient is not finite ({norm}) though every loss is; "
                    "no update was made. "
                    f"Its {len(ids)} pairs begin with {', '.join(ids[:8])}. Lower the learning "
                    "rate, or look at them"
                )
            trained.optimizer.step()
            row = step_row(
                terms,
                step=step + 1,
                epoch=1 + step // plan.steps_per_epoch,
                learning_rate=learning_rate,
                hyper_parameters=steering.current_values(terms.objective),
                grad_norm=norm,
            )
            done = step + 1
            log.write(row)
            tracked.log_step(row)
            if on_step is not None:
                on_step(row)
            evaluations.after(done, terms.objective)
            if (
                done % config.checkpoint_every == 0
                or done == plan.steps
                or evaluations.stopped_by is not None
            ):
                save(done)

    logps = score_pairs(forward, examples, table)
    if sharded is not None:
        sharded.join()
        forward.in_step = False
    if forward.tokens < config.micro_batch_tokens:
        notes += (
            f"memory was short: rows took at most {forward.tokens} tokens in the end, not "
            f"{config.micro_batch_tokens} "
            "(train.micro_batch_tokens)",
        )
    summary = TrainSummary(
        steps=done,
        planned_steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        pairs=len(examples),
        resumed_from=None if checkpoint is None else checkpoint.step,
        reference_reused=known.all_known,
        stopped_by=evaluations.stopped_by,
        row_fill=fill.share,
        notes=(*notes, *passed_over, *fill.notes(), *tracked.notes),
        final=final_figures(logps, table, steering.at_step(done - 1).regularizer),
    )
    if processes.is_main():
        content = {
            "schema_version": SCHEMA_VERSION,
            **summary.model_dump(include={"steps", "stopped_by", "row_fill", "final"}),
        }
        write_text(out_dir / FINAL_NAME, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return summary


def score_pairs(forward: Forward, examples: Sequence[TokenizedPair], table: PairTable) -> PairLogps:
    """Values of all pairs [n], in the order of `examples`; `.margin` is their reward margin.

    Args:
        forward: The passes through the policy.
        examples: The pairs, in training or held out.
        table: What the initial policy and the reference said of them.
    """
    return table.join(score_sides(forward, examples), table.totals())
