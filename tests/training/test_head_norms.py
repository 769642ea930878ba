"""Norms of the head's gradients: heads that are frozen or the model's own, items of other kinds."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from prefine.config.components import bind
from prefine.errors import ConfigError, Interrupted
from prefine.losses.kinds import by_kind
from prefine.losses.pairs.dpo import dpo
from prefine.losses.pairs.slope_calibration import slope_calibration
from prefine.losses.points.kto import kto
from prefine.losses.protocol import LossFunction
from prefine.training.forward.head import ModuleHead
from prefine.training.forward.passes import Forward
from prefine.training.items import TokenizedItem
from prefine.training.loop import train
from prefine.training.objective.head_norms import head_norms
from prefine.training.objective.item_table import ItemTable
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.choose import relation_of

PAIRS = tiny.examples()


MIXED = partial(by_kind, pairs=slope_calibration, labels=kto)


def _norms(
    forward: Forward, items: list[TokenizedItem], loss: LossFunction = slope_calibration
) -> torch.Tensor:
    relation = relation_of([("train.loss", loss)])
    table = ItemTable.of(relation, items, {"initial": score_completions(forward, items)})
    return head_norms(forward, forward.cut(items, range(len(items))), table, items)


def _by_autograd(model: torch.nn.Module) -> torch.Tensor:
    norms = []
    for side in ("chosen_ids", "rejected_ids"):
        total = torch.zeros((), dtype=torch.float64)
        for pair in PAIRS:
            ids = torch.tensor([*pair.prompt_ids, *getattr(pair, side)])
            logps = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])
            total = total + pair.weight * logps[len(pair.prompt_ids) - 1 :].sum()
        norms.append(torch.autograd.grad(total, model.lm_head.weight)[0].norm())
    return torch.stack(norms)


@pytest.mark.parametrize("head", ["fast", "the model's"])
@pytest.mark.parametrize("trained", [True, False])
def test_they_are_those_of_autograd_and_leave_nothing_behind(head: str, trained: bool) -> None:
    model = tiny.model()
    expected = _by_autograd(model)
    model.lm_head.weight.requires_grad_(trained)
    forward = Forward(model, tokens=30)
    if head != "fast":
        forward.head = ModuleHead(model, forward.layers, "float32")
    torch.testing.assert_close(_norms(forward, PAIRS), expected, rtol=1e-12, atol=0)
    assert model.lm_head.weight.requires_grad is trained
    assert all(parameter.grad is None for parameter in model.parameters())


def test_items_that_are_no_pairs_are_left_out() -> None:
    forward = Forward(tiny.model(), tokens=30)
    mixed = [*PAIRS, *tiny.answers()]
    found, expected = _norms(forward, mixed, MIXED), _norms(forward, PAIRS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


RUNS: dict[str, dict[str, Any]] = {
    "adapter": {
        "settings": {
            "adapter": {"name": "lora", "rank": 3, "target_modules": ["q_proj", "down_proj"]}
        }
    },
    "kinds": {"loss": MIXED, "examples": [*PAIRS, *tiny.answers()]},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_factor_is_logged_and_an_interrupted_training_resumes_to_the_same_bytes(
    tmp_path: Path, name: str
) -> None:
    options: dict[str, Any] = {"loss": slope_calibration, "examples": PAIRS, **RUNS[name]}
    settings = options.pop("settings", {})

    def run(folder: Path, **more: Any) -> None:
        examples = options["examples"]
        train(
            tiny.model(dtype=torch.float32),
            examples,
            tiny.config(**settings),
            loss=options["loss"],
            regularizer=None,
            out_dir=folder,
            run_key="key",
            **more,
        )

    run(tmp_path / "whole")
    seen: list[Any] = []
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", on_step=seen.append, should_stop=lambda: len(seen) >= 2)
    run(tmp_path / "cut")
    log = tiny.log(tmp_path / "whole")
    assert tiny.log(tmp_path / "cut") == log
    path = "loss.pairs.chosen_factor" if name == "kinds" else "loss.chosen_factor"
    factors = [json.loads(line)["hyper_parameters"][path] for line in log.splitlines()]
    assert len(set(factors)) > 1 and min(factors) > 0


def test_the_pairs_of_a_list_have_none() -> None:
    inner = {"loss": {"name": "slope_calibration", "loss": {"name": dpo.__name__}}}
    with pytest.raises(ConfigError, match="loss reads a whole step of pairs"):
        bind("loss", "all_pairs", inner, where="train.loss")
