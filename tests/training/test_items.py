"""Lists and labelled answers in the engine: the textbook's gradient in any cut and in two
processes, and what their logs say.
"""

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
import tiny_training as tiny
import torch
from item_gradients import CASES, TOKENS, engine, textbook

from prefine.errors import ConfigError, DataError, Interrupted, NumericsError
from prefine.losses import ListLogps, bco_unpaired, dpo, ipo, kto, list_mle, mixture
from prefine.losses.protocol import declare
from prefine.training.forward.passes import Forward
from prefine.training.forward.sharing import why_not_shared
from prefine.training.loop import train
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.labels import (
    LabelEvaluationRow,
    LabelStepRow,
    TokenizedAnswer,
)
from prefine.training.relations.lists import ListEvaluationRow, ListStepRow

MADE: dict[str, Any] = {"lists": tiny.lists, "labels": tiny.answers}
LOSSES: dict[str, Any] = {"lists": list_mle, "labels": kto}
ROWS: dict[str, Any] = {
    "lists": (ListStepRow, ListEvaluationRow),
    "labels": (LabelStepRow, LabelEvaluationRow),
}


@cache
def _textbook(name: str) -> torch.Tensor:
    return textbook(CASES[name])


@cache
def _in_one_cut(name: str) -> tuple[Any, torch.Tensor]:
    return engine(CASES[name], 1000)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("shared", [True, False], ids=["packed", "padded"])
def test_the_gradient_is_the_textbook_one_for_any_rows(
    name: str, tokens: int, shared: bool
) -> None:
    expected = _textbook(name)
    _, found = engine(CASES[name], tokens, shared=shared)
    assert torch.linalg.norm(expected) > 1e-3
    assert torch.linalg.norm(found - expected) <= 1e-12 * torch.linalg.norm(expected)


def test_one_item_three_and_all_are_different_cuts() -> None:
    for case in CASES.values():
        cuts = [Forward(tiny.model(), tokens=one).cut(case.items, range(7)) for one in TOKENS]
        assert len(cuts[0]) > len(cuts[1]) > len(cuts[2]) == 1


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cut", TOKENS)
def test_two_processes_have_the_gradient_of_one(two_processes: Path, name: str, cut: int) -> None:
    alone, expected = _in_one_cut(name)
    for rank in range(2):
        file = two_processes / f"item-gradients-{rank}.json"
        gradient, loss = json.loads(file.read_text(encoding="utf-8"))[f"{name}/{cut}"]
        apart = torch.tensor(gradient, dtype=torch.float64) - expected
        assert torch.linalg.norm(apart) <= 1e-12 * torch.linalg.norm(expected)
        assert loss == pytest.approx(alone.loss.tolist(), rel=1e-12, abs=1e-14)


def _train(folder: Path, kind: str, **options: Any) -> tuple[torch.nn.Module, Any]:
    model = tiny.model(dtype=torch.float32)
    settings = {"evaluate_every": 2, **options.pop("settings", {})}
    given = {"regularizer": None, "loss": LOSSES[kind], "held_out": MADE[kind](6, seed=1)} | options
    summary = train(
        model, MADE[kind](), tiny.config(**settings), out_dir=folder, run_key="key", **given
    )
    return model, summary


OF_A_STEP = partial(
    mixture, losses=(partial(kto, z0="mismatched"), bco_unpaired), weights=(1.0, 0.5)
)


@pytest.mark.parametrize(
    ("kind", "loss"), [("lists", list_mle), ("labels", kto), ("labels", OF_A_STEP)]
)
def test_a_training_stopped_and_resumed_leaves_the_same_bytes(
    tmp_path: Path, kind: str, loss: Any
) -> None:
    whole, _ = _train(tmp_path / "whole", kind, loss=loss)
    rows: list[Any] = []
    for stop in (2, 5, 99):

        def should_stop(stop: int = stop) -> bool:
            return len(rows) >= stop

        try:
            parts, summary = _train(
                tmp_path / "parts", kind, loss=loss, on_step=rows.append, should_stop=should_stop
            )
        except Interrupted:
            continue
    assert summary.resumed_from == 5
    for name in ("train_log.jsonl", "eval_log.jsonl", "train_final.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for name, weight in tiny.weights(whole).items():
        assert torch.equal(weight, tiny.weights(parts)[name])


@pytest.mark.parametrize("kind", MADE)
def test_training_lowers_the_loss_and_raises_the_figures(tmp_path: Path, kind: str) -> None:
    _, summary = _train(tmp_path, kind, settings={"epochs": 20, "learning_rate": 3e-3})
    first, *_, last = (
        ROWS[kind][0].model_validate_json(line) for line in tiny.log(tmp_path).splitlines()
    )
    assert last.loss < first.loss
    assert getattr(summary.final, kind) == 7
    held_out = [
        ROWS[kind][1].model_validate_json(line)
        for line in (tmp_path / "eval_log.jsonl").read_bytes().splitlines()
    ]
    assert held_out[0].step == 0 and held_out[0].margin == pytest.approx(0, abs=1e-4)
    figure = "ranking_accuracy" if kind == "lists" else "auc"
    assert getattr(summary.final, figure) == 1.0
    assert summary.final.margin > 0


def _logratios(model: torch.nn.Module, items: Any) -> np.ndarray[Any, Any]:
    before = score_completions(Forward(tiny.model(dtype=torch.float32)), items)
    return (score_completions(Forward(model), items) - before).double().numpy()


def test_figures_of_lists_are_those_of_their_definition(tmp_path: Path) -> None:
    model, summary = _train(tmp_path, "lists", settings={"max_steps": 2})
    items = tiny.lists()
    ratios = np.split(_logratios(model, items), np.cumsum([len(one.texts) for one in items])[:-1])
    accuracies, margins, falls = [], [], []
    for item, ratio in zip(items, ratios, strict=True):
        right = [
            0.5 + 0.5 * np.sign(ratio[i] - ratio[j])
            for i in range(len(ratio))
            for j in range(len(ratio))
            if item.ranks[i] < item.ranks[j]
        ]
        accuracies.append(np.mean(right))
        margins.append(ratio[0] - ratio[-1])
        falls.append(-ratio[0])
    final = summary.final
    assert final.ranking_accuracy == pytest.approx(np.mean(accuracies), abs=1e-6)
    # Lists of one prompt vary together.
    prompts = list({item.prompt_ids for item in items})
    of = np.array([prompts.index(item.prompt_ids) for item in items])
    around = np.array(accuracies) - np.mean(accuracies)
    sums = np.bincount(of, weights=around)
    expected = np.sqrt(len(prompts) / (len(prompts) - 1) * np.sum(sums**2)) / 7
    assert len(prompts) < 7
    assert final.ranking_accuracy_se == pytest.approx(expected, rel=1e-5)
    assert final.margin == pytest.approx(np.mean(margins), rel=1e-4)
    assert final.fall == pytest.approx(np.mean(falls), rel=1e-4)


def test_figures_of_answers_are_those_of_their_definition(tmp_path: Path) -> None:
    model, summary = _train(tmp_path, "labels", settings={"max_steps": 2})
    items = tiny.answers()
    ratios = _logratios(model, items)
    good = np.array([item.desirable for item in items])
    wins = np.sign(ratios[good][:, None] - ratios[~good][None, :]) / 2 + 0.5
    final = summary.final
    assert final.auc == pytest.approx(wins.mean(), abs=1e-12)
    # DeLong's error, from the definition: the variances of the two sides' placements, of which
    # those of one prompt vary together.
    by_prompt: dict[Any, float] = {}
    for side, placements in ((good, wins.mean(1)), (~good, wins.mean(0))):
        scale = (len(placements) * (len(placements) - 1)) ** 0.5
        for place, placement in zip(np.flatnonzero(side), placements, strict=True):
            prompt = items[place].prompt_ids
            share = (placement - wins.mean()) / scale
            by_prompt[prompt] = by_prompt.get(prompt, 0.0) + share
    assert len(by_prompt) == 4
    expected = sum(share**2 for share in by_prompt.values()) ** 0.5
    assert final.auc_se == pytest.approx(expected, abs=1e-12)
    assert final.accuracy == pytest.approx(np.mean((ratios > 0) == good))
    assert final.margin == pytest.approx(ratios[good].mean() - ratios[~good].mean(), rel=1e-4)
    assert final.fall == pytest.approx(-ratios[good].mean(), rel=1e-4)


def test_answers_of_one_kind_train_and_say_so(tmp_path: Path) -> None:
    good = [item for item in tiny.answers(12) if item.desirable]
    summary = train(
        tiny.model(),
        good,
        tiny.config(max_steps=1),
        loss=kto,
        regularizer=None,
        out_dir=tmp_path,
        run_key="key",
    )
    assert summary.final.auc is None and summary.final.undesirable_logp is None
    assert "all 6 labels say good, so that nothing is told apart" in summary.notes
    early = {"evaluate_every": 1, "early_stop": {"patience": 1}}
    with pytest.raises(DataError, match=r"early_stop: all held-out answers have the same label"):
        _train(tmp_path / "early", "labels", held_out=good, settings=early)


@pytest.mark.parametrize(
    ("loss", "regularizer", "says"),
    [
        (list_mle, ipo, "the loss 'list_mle' reads lists, the loss 'ipo' reads pairs"),
        (kto, ipo, "the loss 'kto' reads labels, the loss 'ipo' reads pairs"),
        (
            partial(mixture, losses=(dpo, list_mle), weights=(1.0, 1.0)),
            None,
            "the loss 'mixture' reads pairs, the loss 'mixture' reads lists",
        ),
    ],
)
def test_loss_and_regularizer_of_different_items_are_refused(
    tmp_path: Path, loss: Any, regularizer: Any, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        _train(tmp_path, "lists", loss=loss, regularizer=regularizer)


@declare(reads="lists", needs=frozenset({"reference"}))
def broken_for_lists_of_four(logps: ListLogps) -> torch.Tensor:
    values = list_mle(logps)
    return values.where(logps.rank.max(1).values < 4, torch.nan)


def test_a_list_that_is_not_finite_is_named(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match=r"the loss of 1 of \d lists is not finite.*list-5\."):
        _train(tmp_path, "lists", loss=broken_for_lists_of_four, held_out=tiny.lists(2))


@pytest.mark.parametrize("name", architectures.MIXING_OTHERWISE)
def test_a_model_that_mixes_answers_is_noticed_by_single_answers_too(name: str) -> None:
    """Only answers to one prompt can leak into one another, wherever they stand in the file."""
    single = name in architectures.FLOAT32_ONLY
    model = architectures.MIXING_OTHERWISE[name](dtype=torch.float32 if single else torch.float64)
    answers = [
        TokenizedAnswer(f"{prompt}-{n}", (prompt, 5, 6), (7 + n, 8, 9, 10 + n), n == 0)
        for n in range(2)
        for prompt in range(3, 23)
    ]
    assert why_not_shared(model, answers) is not None
    attention = architectures.ATTENTION_ONLY["llama"](dtype=torch.float64)
    assert why_not_shared(attention, answers) is None
