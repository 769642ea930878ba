"""Trainings of the tiny model, by one process or by two."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tiny_training as tiny
import torch
from budget_training import trained
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule

from prefine.errors import Interrupted, NumericsError
from prefine.losses import bco, dpo
from prefine.losses.protocol import LossFunction
from prefine.regularizers import budget
from prefine.training.distributed.processes import check_same_weights, divide_layers
from prefine.training.loop import train
from prefine.training.relations.pair_rows import StepRow
from prefine.training.relations.pairs import TokenizedPair
from prefine.training.token_sample import ScoredItem

STOPS_AFTER = 4
AUTOMATIC: dict[str, Any] = {
    "budget": {"anchor": {"chosen": 1.0, "better": 1.0}, "delta": -3.0},
    "settings": {"micro_batch_tokens": 40},
}


def training(
    folder: Path,
    *,
    loss: LossFunction = dpo,
    intermediate: int = 24,
    settings: dict[str, Any] | None = None,
    examples: Sequence[TokenizedPair] | None = None,
    **options: Any,
) -> torch.nn.Module:
    """Train the tiny model in float64, with one budget for all; the trained model."""
    model = tiny.model(intermediate=intermediate)
    train(
        model,
        tiny.examples() if examples is None else examples,
        tiny.config(**{"micro_batch_tokens": 40, **(settings or {})}),
        loss=loss,
        regularizer=partial(budget, delta=0.05),
        out_dir=folder,
        run_key="key",
        **options,
    )
    return model


def stopped(folder: Path, *, asks: bool = True) -> None:
    """Train until the user asks to stop, after a few steps."""
    rows: list[StepRow] = []
    try:
        training(folder, on_step=rows.append, should_stop=lambda: asks and len(rows) >= STOPS_AFTER)
    except Interrupted:
        return
    raise AssertionError("it was not stopped")


SHARDED: dict[str, dict[str, Any]] = {
    "local": {},
    "coupled": {"loss": bco},
    "uneven": {"intermediate": 23},
    "recomputed": {"settings": {"gradient_checkpointing": True}},
    "adapter": {
        "settings": {
            "adapter": {
                "name": "lora",
                "rank": 3,
                "alpha": 6,
                "target_modules": ["q_proj", "down_proj"],
            }
        }
    },
    # So small that every pair is a row of its own, and a process has more passes than the other.
    "many-rows": {
        "settings": {"micro_batch_tokens": 1, "evaluate_every": 3},
        "held_out": tiny.examples(4, seed=1),
    },
}


def sharded_trainings(rank: int, folder: Path) -> None:
    """Trainings with divided layers."""
    for name, case in SHARDED.items():
        divide_layers(name != "local")
        tokens = partial(_keep, folder / f"sharded-{name}-tokens.json") if rank == 0 else None
        trained = training(folder / f"sharded-{name}", **case, on_tokens=tokens)
        assert not any(isinstance(module, FSDPModule) for module in trained.modules())
        save_file(tiny.weights(trained), folder / f"sharded-{name}-{rank}.safetensors")
    stopped(folder / "sharded-then-one", asks=rank == 1)
    resumed = training(folder / "one-then-sharded")
    save_file(tiny.weights(resumed), folder / f"one-then-sharded-{rank}.safetensors")
    divide_layers(None)


def _keep(path: Path, found: list[ScoredItem]) -> None:
    path.write_text(json.dumps(values_of(found)), encoding="utf-8")


def values_of(found: list[ScoredItem]) -> list[Any]:
    """Id, values after training and values before, of each item."""
    return [[one.item.id, one.logps, one.initial_logps] for one in found]


def trainings(rank: int, folder: Path) -> None:
    """Every training of the test, one after the other; both processes write their weights."""
    whole = training(folder / "whole")
    save_file(tiny.weights(whole), folder / f"whole-{rank}.safetensors")
    few = training(folder / "ches", settings={"ches_below": 0.5})
    save_file(tiny.weights(few), folder / f"ches-{rank}.safetensors")
    held, _ = trained(folder / "automatic", **AUTOMATIC)
    save_file(tiny.weights(held), folder / f"automatic-{rank}.safetensors")
    # Only one of the two is asked to stop.
    stopped(folder / "two-then-one", asks=rank == 1)
    sharded_trainings(rank, folder)
    resumed = training(folder / "one-then-two")
    save_file(tiny.weights(resumed), folder / f"resumed-{rank}.safetensors")
    with torch.no_grad():
        next(resumed.parameters())[0, 0] += 1e-9 * rank
    try:
        check_same_weights(resumed.parameters(), step=7)
    except NumericsError as error:
        (folder / f"differs-{rank}").write_text(str(error), encoding="utf-8")
