"""Tokens of held-out answers before and after training: plain values, an undisturbed training."""

from pathlib import Path
from typing import Any

import pytest
import textbook
import tiny_training as tiny
import torch

from prefine.config.training import AdapterConfig
from prefine.errors import Interrupted
from prefine.losses.lists.list_mle import list_mle
from prefine.losses.pairs.dpo import dpo
from prefine.losses.pairs.jpo import jpo
from prefine.losses.points.kto import kto
from prefine.losses.protocol import LossFunction
from prefine.training.forward.token_values import ItemTokens, TokenValues
from prefine.training.loop import train
from prefine.training.relations.lists import TokenizedList
from prefine.training.token_sample import MOST_ANSWERS, ScoredItem, TokenSample

HELD_OUT = tiny.examples(5, seed=1)


def _train(
    folder: Path,
    *,
    loss: LossFunction = dpo,
    examples: Any = None,
    held_out: Any = HELD_OUT,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[list[ScoredItem], torch.nn.Module]:
    model = tiny.model()
    found: list[ScoredItem] = []
    train(
        model,
        tiny.examples() if examples is None else examples,
        tiny.config(**(settings or {})),
        loss=loss,
        regularizer=None,
        out_dir=folder,
        run_key="key",
        held_out=held_out,
        **{"on_tokens": found.extend, **options},
    )
    return found, model


def _assert_plain(found: list[ScoredItem], held_out: Any, model: torch.nn.Module) -> None:
    start = tiny.model()
    assert [one.item.id for one in found] == [item.id for item in held_out]
    for one in found:
        for text, now, before in zip(one.item.texts, one.logps, one.initial_logps, strict=True):
            for policy, values in ((start, before), (model, now)):
                plain = textbook.token_logps(policy, text.prompt, text.completion)
                # The model's rotary phases are float32, and other in a row of its own.
                assert values == pytest.approx(plain.tolist(), abs=1e-6)
    assert any(one.logps != one.initial_logps for one in found)


@pytest.mark.parametrize(
    "case",
    [
        {},
        # Prompts are scored beside the answers.
        {"loss": jpo},
        {
            "loss": list_mle,
            "examples": tiny.lists(),
            "held_out": tiny.lists(4, seed=1),
        },
        {"loss": kto, "examples": tiny.answers(8), "held_out": tiny.answers(6, seed=1)},
        {"settings": {"adapter": AdapterConfig(name="lora", rank=2, alpha=4)}},
    ],
    ids=["dpo", "jpo", "lists", "labels", "adapter"],
)
def test_values_are_those_of_plain_passes(tmp_path: Path, case: dict[str, Any]) -> None:
    found, model = _train(tmp_path, **case)
    _assert_plain(found, case.get("held_out", HELD_OUT), model)


def test_training_is_the_same_to_the_bit(tmp_path: Path) -> None:
    settings = {"evaluate_every": 2}
    _, plain = _train(tmp_path / "without", on_tokens=None, settings=settings)
    random = torch.get_rng_state()
    found, scored = _train(tmp_path / "with", settings=settings)
    assert len(found) == 5
    assert torch.equal(torch.get_rng_state(), random)
    for name, weight in tiny.weights(plain).items():
        assert torch.equal(weight, tiny.weights(scored)[name])
    for name in ("train_log.jsonl", "eval_log.jsonl", "train_final.json"):
        with_, without = (tmp_path / side / name for side in ("with", "without"))
        assert with_.read_bytes() == without.read_bytes()


def test_a_resumed_training_has_the_same_values(tmp_path: Path) -> None:
    whole, _ = _train(tmp_path / "whole")
    seen: list[Any] = []
    with pytest.raises(Interrupted):
        _train(tmp_path / "cut", on_step=seen.append, should_stop=lambda: len(seen) >= 4)
    resumed, _ = _train(tmp_path / "cut")
    assert resumed == whole
    ended, _ = _train(tmp_path / "cut")
    assert ended == whole, "a training that has no step left scores them again"


def test_nothing_is_held_out(tmp_path: Path) -> None:
    assert _train(tmp_path, held_out=())[0] == []


def test_a_list_that_is_longer_than_what_is_kept(tmp_path: Path) -> None:
    completions = tuple((3 + n % 30, 3 + n // 30, 1) for n in range(MOST_ANSWERS + 1))
    ranks = tuple(range(1, len(completions) + 1))
    long = TokenizedList(
        "long", (5, 6), completions, ranks, scores=None, places=tuple(range(len(completions)))
    )
    case = {"loss": list_mle, "examples": tiny.lists()}
    assert _train(tmp_path / "alone", held_out=[long], **case)[0] == []
    found, _ = _train(tmp_path / "beside", held_out=[long, *tiny.lists(2, seed=1)], **case)
    assert [one.item.id for one in found] == ["list-0", "list-1"]


def test_at_most_so_many_answers_whatever_their_order() -> None:
    items = tiny.examples(150)
    sample = TokenSample.of(items, _zeros(items))
    assert sum(len(item.texts) for item in sample.items) == MOST_ANSWERS == 200
    backwards = TokenSample.of(items[::-1], _zeros(items[::-1]))
    assert {one.id for one in sample.items} == {one.id for one in backwards.items}
    assert [one.id for one in sample.items] == [
        item.id for item in items if item in sample.items
    ], "in the order of the items"


def _zeros(items: Any) -> ItemTokens:
    lengths = torch.tensor([[len(text.scored)] for item in items for text in item.texts])
    counts = torch.tensor([len(item.texts) for item in items])
    return ItemTokens(TokenValues(torch.zeros(int(lengths.sum()))), lengths, counts)
