"""Trainings of the tiny model, by one process or by two."""

from functools import partial
from pathlib import Path
from typing import Any

import tiny_training as tiny
import torch
from safetensors.torch import save_file

from prefine.errors import Interrupted, NumericsError
from prefine.losses import dpo
from prefine.losses.base import LossFunction
from prefine.regularizers import budget
from prefine.training.figures import StepRow
from prefine.training.loop import train
from prefine.training.processes import check_same_weights

STOPS_AFTER = 4


def training(folder: Path, *, loss: LossFunction = dpo, **options: Any) -> torch.nn.Module:
    """Train the tiny model in float64, with one budget for all; the trained model."""
    model = tiny.model()
    settings = tiny.config(micro_batch_tokens=40)
    train(
        model,
        tiny.examples(),
        settings,
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


def trainings(rank: int, folder: Path) -> None:
    """Every training of the test, one after the other; both processes write their weights."""
    whole = training(folder / "whole")
    save_file(tiny.weights(whole), folder / f"whole-{rank}.safetensors")
    # Only one of the two is asked to stop.
    stopped(folder / "two-then-one", asks=rank == 1)
    resumed = training(folder / "one-then-two")
    save_file(tiny.weights(resumed), folder / f"resumed-{rank}.safetensors")
    with torch.no_grad():
        next(resumed.parameters())[0, 0] += 1e-9 * rank
    try:
        check_same_weights(resumed.parameters(), step=7)
    except NumericsError as error:
        (folder / f"differs-{rank}").write_text(str(error), encoding="utf-8")
