"""The training loop: a step is a fixed number of pairs, a row of the log, and nothing that a resumed run would lose."""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prefine.config import TrainConfig
from prefine.errors import ConfigError, DataError, Interrupted, NumericsError
from prefine.losses.base import LossFunction, Need, PairLogps
from prefine.losses.facts import needs_of
from prefine.records import SCHEMA_VERSION
from prefine.training import adapter, checkpoints
from prefine.training.demands import check_examples
from prefine.training.examples import Example
from prefine.training.figures import StepRow, TrainSummary, final_figures, step_row
from prefine.training.forward import Forward
from prefine.training.memory import within_memory
from prefine.training.mismatched import mismatched_examples
from prefine.training.objective import StepTerms, accumulate_gradients
from prefine.training.pair_tokens import PairTokens
from prefine.training.plan import Plan
from prefine.training.reference import cached_tokens, check_start
from prefine.training.rows import Rows
from prefine.training.schedule import factor
from prefine.training.scoring import score_sides
from prefine.training.sharing import why_not_shared
from prefine.training.steering import Steering
from prefine.training.table import PairTable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOG_NAME = "train_log.jsonl"
FINAL_NAME = "train_final.json"


def train(
    model: "PreTrainedModel",
    examples: Sequence[Example],
    config: TrainConfig,
    *,
    loss: LossFunction,
    regularizer: LossFunction | None,
    out_dir: Path,
    run_key: str,
    ref_model: "PreTrainedModel | None" = None,
    reference_dir: Path | None = None,
    on_step: Callable[[StepRow], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainSummary:
    """Train all weights of `model` in place, or an adapter; calling it again with the same arguments resumes.

    `out_dir` receives `train_log.jsonl` (a row per step, the same bytes however often the run was interrupted),
    `train_final.json` and `checkpoints/`. What is trained is kept in float32; `config.dtype` is what the
    layers compute in. Dropout is off. With `config.adapter` the weights are frozen, and `model` comes back with the
    adapter attached.

    Args:
        model: The policy with its initial weights, also when resuming.
        examples: What to train on.
        config: The settings; its loss and regularizer are taken from the arguments.
        loss: Needs only `PairLogps`; its hyper-parameters may be schedules.
        regularizer: The same, or None.
        out_dir: The run's folder.
        run_key: Hash of policy, data and configuration; a checkpoint with another one is refused.
        ref_model: The reference; None is the policy's initial weights.
        reference_dir: Where values of the initial policy and the reference are kept and looked up, for this training
            and others; None is `reference/` in `out_dir`.
        on_step: Called with every new row.
        should_stop: Asked before every step; if true, a checkpoint is written and the run stops.

    Raises:
        ConfigError: The folder holds a checkpoint of another run, or a pair is longer than the model reads.
        NumericsError: A loss or gradient is not finite; the step's update was not made.
        Interrupted: `should_stop` became true.
    """
    _prepare(model, examples, config)
    torch.manual_seed(config.seed)
    functions = [loss] if regularizer is None else [loss, regularizer]
    notes = check_examples(functions, examples)
    needs = frozenset[Need]().union(*map(needs_of, functions))
    forward, unshared = forward_of(model, examples, config, score_prompts="prompt" in needs)
    notes += unshared
    others = mismatched_examples(examples) if "mismatched" in needs else []
    known = _Known(reference_dir or out_dir / "reference", should_stop)
    table = _start_values(forward, ref_model, examples, others, config, needs, known)
    # After scoring: the reference is the model without the adapter, whatever the adapter's settings.
    if config.adapter is not None:
        adapter.attach(model, config.adapter, seed=config.seed)
    plan = Plan(len(examples), config.pairs_per_step, config.epochs, config.seed, config.max_steps)
    steering = Steering(loss, regularizer, config.regularizer_weight, steps=plan.steps)
    optimizer = _optimizer(model, config)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    checkpoint, passed_over = checkpoints.load_newest(out_dir / "checkpoints", run_key=run_key)
    if checkpoint is not None:
        checkpoints.restore(checkpoint, model, optimizer)
        steering.load_state_dict(checkpoint.controllers)
        forward.tokens = checkpoint.row_tokens or forward.tokens
    start = 0 if checkpoint is None else checkpoint.step

    def save(step: int) -> None:
        log.sync()
        checkpoints.save(
            out_dir / "checkpoints",
            step=step,
            run_key=run_key,
            model=model,
            optimizer=optimizer,
            controllers=steering.state_dict(),
            row_tokens=forward.tokens,
            keep=config.keep_checkpoints,
        )

    def cut(pairs: Sequence[int]) -> tuple[list[Rows], list[Rows]]:
        return forward.cut(examples, pairs), forward.cut(others, pairs) if others else []

    def step_terms(step: int) -> StepTerms:
        """The gradient of a step, in rows that memory has room for."""
        random, controllers, pairs = torch.get_rng_state(), steering.state_dict(), plan.pairs_of(step)

        def attempt() -> StepTerms:
            optimizer.zero_grad(set_to_none=True)
            batches, mismatched = cut(pairs)
            return accumulate_gradients(
                forward,
                batches,
                table,
                steering.at(step),
                examples=examples,
                step=step + 1,
                mismatched=mismatched,
                control=steering.control,
            )

        def begin_again() -> None:
            torch.set_rng_state(random)
            steering.load_state_dict(controllers)
            # Kept at once: a run that is interrupted cuts its rows from here on as this one does.
            save(step)

        return within_memory(
            attempt, forward, lambda: [rows for some in cut(pairs) for rows in some], examples, before_again=begin_again
        )

    with _Log(out_dir / LOG_NAME, rows=start) as log:
        for step in range(start, plan.steps):
            if should_stop is not None and should_stop():
                save(step)
                raise Interrupted(f"stopped after step {step} of {plan.steps}; the same command resumes")
            learning_rate = config.learning_rate * factor(
                step,
                steps=plan.steps,
                schedule=config.schedule,
                warmup_fraction=config.warmup_fraction,
                decay_fraction=config.decay_fraction,
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            terms = step_terms(step)
            ids = [examples[int(index)].id for index in terms.pairs]
            if step == 0 and ref_model is None:
                tokens = terms.logps.chosen_tokens + terms.logps.rejected_tokens
                check_start(terms.logps.margin, tokens, ids, dtype=config.dtype)
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or math.inf))
            if not math.isfinite(norm):
                raise NumericsError(
                    f"step {step + 1}: the gradient is not finite ({norm}) though every loss is; no update was made. "
                    f"Its {len(ids)} pairs begin with {', '.join(ids[:8])}. Lower the learning rate, or look at them"
                )
            optimizer.step()
            row = step_row(
                terms,
                step=step + 1,
                epoch=1 + step // plan.steps_per_epoch,
                learning_rate=learning_rate,
                hyper_parameters=steering.moved(terms.objective),
                grad_norm=norm,
            )
            log.write(row)
            if on_step is not None:
                on_step(row)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == plan.steps:
                save(step + 1)

    every = range(len(examples))
    logps = within_memory(
        lambda: score_pairs(forward, examples, table), forward, lambda: forward.cut(examples, every), examples
    )
    if forward.tokens < config.micro_batch_tokens:
        notes += (
            f"memory was short: rows took at most {forward.tokens} tokens in the end, not {config.micro_batch_tokens} "
            "(train.micro_batch_tokens)",
        )
    summary = TrainSummary(
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        pairs=len(examples),
        resumed_from=None if checkpoint is None else checkpoint.step,
        reference_reused=known.all_known,
        notes=(*notes, *passed_over),
        final=final_figures(logps, table, steering.at(plan.steps - 1).regularizer),
    )
    content = {"schema_version": SCHEMA_VERSION, "steps": plan.steps, "final": summary.final.model_dump()}
    _write_whole(out_dir / FINAL_NAME, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return summary


def score_pairs(forward: Forward, examples: Sequence[Example], table: PairTable) -> PairLogps:
    """Values of all pairs [n], in the order of `examples`; `.margin` is their reward margin.

    Args:
        forward: The passes through the policy.
        examples: The pairs, in training or held out.
        table: What the initial policy and the reference said of them.
    """
    return table.join(score_sides(forward, examples), table.totals())


def forward_of(
    model: "PreTrainedModel", examples: Sequence[Example], config: TrainConfig, *, score_prompts: bool = False
) -> tuple[Forward, tuple[str, ...]]:
    """The passes through a model, and a note if its prompts are not shared though they should be."""
    why = "train.sharing is off" if config.sharing == "off" else why_not_shared(model, examples)
    forward = Forward(
        model,
        dtype=config.dtype,
        shared=why is None,
        tokens=config.micro_batch_tokens,
        score_prompts=score_prompts,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    noted = why is not None and config.sharing != "off"
    return forward, (f"every completion is computed with its own copy of the prompt: {why}",) if noted else ()


def _prepare(model: "PreTrainedModel", examples: Sequence[Example], config: TrainConfig) -> None:
    """Float32 (or float64) master weights, dropout off."""
    if not examples:
        raise DataError("there is no example to train on")
    # Frozen weights that the layers round anyway stay as they were stored, which halves their memory.
    frozen = config.adapter is not None and config.dtype == "bfloat16"
    if not frozen and next(model.parameters()).dtype != torch.float64:
        model.float()  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(examples, key=lambda example: example.longest)
    if limit is not None and longest.longest > limit:
        raise ConfigError(
            f"pair {longest.id} takes {longest.longest} positions, the model reads {limit}; "
            "lower train.max_prompt_tokens or train.max_completion_tokens"
        )


@dataclass
class _Known:
    """Values that are kept in a folder, and whether all that were asked for had been there."""

    folder: Path
    should_stop: Callable[[], bool] | None
    all_known: bool = True

    def of(self, forward: Forward, examples: Sequence[Example]) -> PairTokens:
        """Of some pairs, computed if they are not there."""
        tokens, reused = cached_tokens(forward, examples, folder=self.folder, should_stop=self.should_stop)
        self.all_known &= reused
        return tokens


def _start_values(
    forward: Forward,
    ref_model: "PreTrainedModel | None",
    examples: Sequence[Example],
    others: Sequence[Example],
    config: TrainConfig,
    needs: frozenset[Need],
    known: _Known,
) -> PairTable:
    """Values under the initial policy and the reference.

    `others` are the prompts with other pairs' completions, if a loss reads them.
    """
    initial = reference = known.of(forward, examples)
    ref_forward = forward
    if ref_model is not None:
        _prepare(ref_model, examples, config)
        ref_forward, _ = forward_of(ref_model, examples, config, score_prompts=forward.score_prompts)
        reference = known.of(ref_forward, examples)
        reference = reference._replace(values=reference.values.to(initial.values))
    mismatched_ref = None
    if others:
        for read in (forward, ref_forward):
            _prepare(read.model, others, config)
        away = known.of(ref_forward, others).sides()
        mismatched_ref = ((away.chosen + away.rejected) / 2).to(initial.values)
    return PairTable.of(
        examples,
        initial=initial.sides(),
        reference=reference.sides(),
        mismatched_ref=mismatched_ref,
        ref_tokens=reference if needs & {"tokens", "prompt"} else None,
    )


def _optimizer(model: "PreTrainedModel", config: TrainConfig) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        # Norm scales and biases are not drawn towards 0.
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.adam_betas, fused=True)


class _Log:
    """The rows of a training; opening it cuts it back to the rows that a checkpoint knows of."""

    def __init__(self, file: Path, *, rows: int) -> None:
        lines = file.read_bytes().splitlines(keepends=True)[:rows] if file.is_file() else []
        if len(lines) < rows:
            raise DataError(
                f"{file} has {len(lines)} rows, its newest checkpoint is of step {rows}; "
                "restore the file, or delete the checkpoints to train anew"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        self._handle = file.open("r+b" if file.is_file() else "w+b")
        self._handle.truncate(sum(map(len, lines)))
        self._handle.seek(0, os.SEEK_END)

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def write(self, row: StepRow) -> None:
        """Append a row; it can be read at once."""
        self._handle.write(row.model_dump_json().encode() + b"\n")
        self._handle.flush()

    def sync(self) -> None:
        """Make sure that the rows survive a crash."""
        os.fsync(self._handle.fileno())


def _write_whole(file: Path, text: str) -> None:
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(file)
