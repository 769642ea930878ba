"""Every entry of the tables trains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from prefine.config.components import TABLES, bind
from prefine.losses.facts import reads_of
from prefine.training.loop import train

GIVEN: dict[str, dict[str, Any]] = {
    "mixture": {
        "losses": [{"name": "dpo"}, {"name": "bco"}, {"name": "nll"}],
        "weights": [0.8, 0.2, 1.0],
    },
    # The tiny lists have an order and no scores.
    **{
        name: {"labels": "ranks"}
        for name in (
            "neural_ndcg",
            "approx_ndcg",
            "lambda_rank",
            "list_net",
            "sppo_list",
            "nca_list",
            "dro",
        )
    },
}


@pytest.mark.parametrize("kind", ["loss", "regularizer"])
def test_every_entry_trains(tmp_path: Path, kind: Any) -> None:
    for name in TABLES[kind]:
        function = bind(kind, name, GIVEN.get(name, {}), where=f"train.{kind}")
        model, before = tiny.model(), tiny.weights(tiny.model())
        made = {"lists": tiny.lists, "labels": tiny.answers}.get(reads_of(function), tiny.examples)
        examples: Any = made()
        if name in ("aot", "aot_unpaired"):
            examples = [replace(example, weight=1.0) for example in examples]
        parts = {"loss": function, "regularizer": None}
        if kind == "regularizer":
            parts = {"loss": bind("loss", "dpo", {}, where="train.loss"), "regularizer": function}
        settings = tiny.config(max_steps=3, regularizer_weight=0.5)
        summary = train(model, examples, settings, out_dir=tmp_path / name, run_key="k", **parts)
        assert summary.steps == 3
        after = tiny.weights(model)
        assert any(not torch.equal(after[weight], before[weight]) for weight in after), name
