"""Trainings of the tiny model with an automatic budget."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from prefine.errors import Interrupted
from prefine.losses import dpo
from prefine.losses.protocol import LossFunction
from prefine.training.budget.settings import AutomaticBudget
from prefine.training.items import PlainItem
from prefine.training.logging.figures import TrainSummary
from prefine.training.loop import train


@cache
def held_out() -> list[Any]:
    return tiny.examples(150, seed=7)


@cache
def anchors() -> dict[str, list[PlainItem]]:
    items = [PlainItem(one.id, (one.texts[1],)) for one in tiny.examples(9, seed=3)]
    return {"unused": items, "better": items[:4]}


def trained(
    folder: Path,
    *,
    loss: LossFunction = dpo,
    budget: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    examples: Any = None,
    model: torch.nn.Module | None = None,
    **options: Any,
) -> tuple[torch.nn.Module, TrainSummary]:
    """Train with a small budget that binds; `budget` None trains without one."""
    model = tiny.model() if model is None else model
    held = options.pop("held_out", held_out())
    automatic: dict[str, Any] = {}
    if budget is not None:
        values = {"delta": 0.3, "every": 2, **budget}
        automatic = {"automatic": AutomaticBudget(**values), "anchors": anchors()}
    summary = train(
        model,
        examples or tiny.examples(),
        tiny.config(**(settings or {}), regularizer_weight="auto", regularizer={"name": "budget"}),
        loss=loss,
        regularizer=None,
        out_dir=folder,
        run_key="key",
        held_out=held,
        **automatic,
        **options,
    )
    return model, summary


def cut_off(folder: Path, after: int, logs: Iterable[str], **options: Any) -> None:
    """Train until some more steps are made; the logs end as after a kill."""
    seen: list[Any] = []
    with pytest.raises(Interrupted):
        trained(folder, on_step=seen.append, should_stop=lambda: len(seen) >= after, **options)
    # Rows that no checkpoint knows of.
    for name in logs:
        with (folder / name).open("ab") as file:
            file.write(b'{"torn":')
