"""One of two processes that train the tiny model: `python loop_processes.py RANK MEETING_FILE FOLDER`."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import tiny_training as tiny
import torch
from safetensors.torch import save_file
from torch import distributed as dist

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


def main(rank: int, meet: str, folder: Path) -> None:
    """Every part of the test, one after the other; both processes write their weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    whole = training(folder / "whole")
    save_file(tiny.weights(whole), folder / f"whole-{rank}.safetensors")
    # Only one of the two is asked to stop, by which process is told.
    stopped(folder / "two-then-one", asks=rank == 1)
    resumed = training(folder / "one-then-two")
    save_file(tiny.weights(resumed), folder / f"resumed-{rank}.safetensors")
    with torch.no_grad():
        next(resumed.parameters())[0, 0] += 1e-9 * rank
    try:
        check_same_weights(resumed.parameters(), step=7)
    except NumericsError as error:
        (folder / f"differs-{rank}").write_text(str(error), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
