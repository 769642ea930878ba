"""The automatic budget in the loop: what its weight does, that it is exact, and that it resumes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch
from budget_training import anchors, cut_off, held_out, trained

from prefine.errors import DataError
from prefine.losses import bco, dpo, ipo, simpo, wpo
from prefine.losses.kinds import by_kind
from prefine.losses.lists.list_mle import list_mle
from prefine.losses.points.kto import kto
from prefine.training.budget.anchors import AnchorSets
from prefine.training.budget.probe import fall_of, halves
from prefine.training.budget.settings import AutomaticBudget
from prefine.training.forward.passes import Forward
from prefine.training.items import PlainItem, Text
from prefine.training.logging.trackers import Trackers

LEVERS: dict[str, Any] = {
    "chosen": "chosen",
    "mixture": {"chosen": 1.0, "unused": 1.0, "better": 2.0},
}
FILES = ("train_log.jsonl", "budget_log.jsonl", "eval_log.jsonl", "train_final.json")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "budget_log.jsonl").read_text().splitlines()]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    found = tiny.weights(other)
    return all(torch.equal(value, found[name]) for name, value in tiny.weights(one).items())


def apart(one: torch.nn.Module, other: torch.nn.Module) -> float:
    found = tiny.weights(other)
    return max(
        float(torch.linalg.norm(value - found[name]) / torch.linalg.norm(found[name]))
        for name, value in tiny.weights(one).items()
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return trained(tmp_path_factory.mktemp("plain"))[0]


@pytest.mark.parametrize("lever", LEVERS)
def test_without_delta_the_weights_are_those_of_the_plain_run(
    tmp_path: Path, plain: torch.nn.Module, lever: str
) -> None:
    free, summary = trained(tmp_path, budget={"delta": None, "anchor": LEVERS[lever]})
    assert same(free, plain)
    assert [row["regularizer_weight"] for row in rows(tmp_path)] == [0.0] * 6
    assert abs(rows(tmp_path)[-1]["fall"]) > 0.1
    assert not any("budget" in note for note in summary.notes)


def test_a_large_delta_never_binds_and_says_so(tmp_path: Path, plain: torch.nn.Module) -> None:
    free, summary = trained(tmp_path, budget={"delta": 1e3})
    assert same(free, plain)
    assert any("the budget never bound" in note for note in summary.notes)


@pytest.mark.parametrize("lever", LEVERS)
def test_the_budget_lowers_the_fall_and_logs_it(
    tmp_path: Path, plain: torch.nn.Module, lever: str
) -> None:
    shown: list[tuple[str, int, dict[str, Any]]] = []

    class Kept(Trackers):
        def log(self, kind: Any, step: int, row: Any) -> None:
            shown.append((kind, step, dict(row)))

    without = tmp_path / "without"
    trained(without, budget={"delta": None})
    # Random answers become likelier together, so a budget that binds is far below 0.
    trained(
        tmp_path / "with",
        budget={"delta": -3.0, "anchor": LEVERS[lever]},
        trackers=lambda _: Kept(),
    )
    found = rows(tmp_path / "with")
    assert [row["step"] for row in found] == [0, 2, 4, 6, 8, 9]
    assert found[-1]["fall"] < rows(without)[-1]["fall"]
    assert max(row["regularizer_weight"] for row in found) > 0
    # The slope of DPO at its start is beta / 2 for every token.
    assert found[1]["slope"] == pytest.approx(0.05, rel=1e-9)
    assert [(kind, step) for kind, step, _ in shown if kind == "budget"] == [
        ("budget", row["step"]) for row in found
    ]
    log = [json.loads(line) for line in tiny.log(tmp_path / "with").splitlines()]
    weights = [row["hyper_parameters"]["regularizer_weight"] for row in log]
    assert weights[2] == weights[3] == found[1]["regularizer_weight"]
    evaluation = json.loads((tmp_path / "with/eval_log.jsonl").read_text().splitlines()[-1])
    assert evaluation["pairs"] == len(halves(held_out()).untouched)


def test_an_interrupted_training_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"budget": {"anchor": LEVERS["mixture"], "delta": -3.0}}
    whole, _ = trained(tmp_path / "whole", **options)
    for after in (3, 2):
        cut_off(tmp_path / "cut", after, ("train_log.jsonl", "budget_log.jsonl"), **options)
    resumed, _ = trained(tmp_path / "cut", **options)
    assert same(resumed, whole)
    again, _ = trained(tmp_path / "cut", **options)
    assert same(again, whole)
    for name in FILES:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_no_micro_batch_changes_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"budget": {"anchor": LEVERS["mixture"], "delta": -3.0}}
    one, _ = trained(tmp_path / "one", settings={"micro_batch_tokens": 1}, **options)
    all_, _ = trained(tmp_path / "all", settings={"micro_batch_tokens": 10_000}, **options)
    assert apart(one, all_) < 1e-9


LISTS = {"examples": tiny.lists(), "held_out": tiny.lists(150, seed=7)}
LABELS = {"examples": tiny.answers(), "held_out": tiny.answers(280, seed=7)}
MIXED = {name: [*LISTS[name], *LABELS[name]] for name in LISTS}


@pytest.mark.parametrize(
    ("loss", "items"),
    [
        (ipo, {}),
        (simpo, {}),
        (wpo, {}),
        (bco, {}),
        (list_mle, LISTS),
        (kto, LABELS),
        (partial(by_kind, lists=list_mle, labels=kto), MIXED),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_losses_of_every_kind(tmp_path: Path, loss: Any, items: Any) -> None:
    budget = {"anchor": LEVERS["mixture"], "delta": -3.0}
    trained(tmp_path, loss=loss, budget=budget, settings={"epochs": 1}, **items)
    found = rows(tmp_path)
    assert found[-1]["slope"] > 0
    assert found[-1]["regularizer_weight"] > 0


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_the_pull_is_the_weighted_mean_over_the_drawn_anchors(per: Any) -> None:
    model = tiny.model()
    budget = AutomaticBudget(anchor={"unused": 1.0, "better": 1.0, "chosen": 2.0}, per=per)
    sets = AnchorSets.of(budget, anchors(), per_step=4, seed=0)
    pull = sets.pull(1, 0.7)
    assert pull is not None
    forward = Forward(model, tokens=20)
    pull(forward)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for index in pull.coefficients:
        text = sets.items[index].texts[0]
        ids = torch.tensor([*text.prompt, *text.completion])
        logps = model(ids[None]).logits[0, :-1].log_softmax(-1)
        values = logps.gather(1, ids[1:, None])[len(text.prompt) - 1 :, 0]
        share = 0.7 * 0.25 / 2  # two kinds with a quarter each, two anchors of each
        total = total - share * (values.mean() if per == "token" else values.sum())
    total.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, rtol=1e-9, atol=1e-12), name
    assert len(pull.coefficients) == 4
    assert sets.pull(1, 0.0) is None


def test_all_anchors_of_a_kind_come_before_one_comes_again() -> None:
    sets = AnchorSets.of(AutomaticBudget(anchor="unused"), anchors(), per_step=4, seed=0)
    drawn = [set(pull.coefficients) for step in range(3) if (pull := sets.pull(step, 1.0))]
    assert [len(one) for one in drawn] == [4, 4, 1]
    assert set().union(*drawn) == set(range(9))


def test_an_adapter_and_early_stopping(tmp_path: Path) -> None:
    adapter = {"name": "lora", "rank": 3, "target_modules": ["q_proj", "down_proj"]}
    settings = {"adapter": adapter, "evaluate_every": 2, "early_stop": {"patience": 1}}
    trained(tmp_path, budget={"anchor": "unused", "delta": -1.0}, settings=settings)
    assert rows(tmp_path)[-1]["regularizer_weight"] > 0


def test_infeasible_stops_or_lowers_the_rate(tmp_path: Path) -> None:
    hopeless = {"delta": -1e3, "every": 1, "largest_weight": 2.0, "gain": 5.0}
    settings = {"epochs": 8, "learning_rate": 1e-30}
    _, stopped = trained(
        tmp_path / "stop", budget=hopeless | {"infeasible": "stop"}, settings=settings
    )
    assert stopped.stopped_by == "infeasible"
    assert stopped.steps < stopped.planned_steps == 24
    _, lowered = trained(
        tmp_path / "lower",
        budget=hopeless | {"infeasible": "lower_learning_rate"},
        settings=settings,
    )
    found = rows(tmp_path / "lower")
    assert lowered.stopped_by is None
    assert found[-1]["learning_rate_factor"] <= 0.5
    assert any("infeasible" in note for note in lowered.notes)
    assert any("reached its largest" in note for note in lowered.notes)


def test_too_few_held_out_pairs_are_refused_with_their_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs 64 in each; there are \d+ and \d+"):
        trained(tmp_path, budget={}, held_out=tiny.examples(100, seed=7))


def test_a_lever_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no answer for 'unused'"):
        AnchorSets.of(AutomaticBudget(anchor="unused"), {}, per_step=3, seed=0)


def test_halves_keep_prompts_together_and_do_not_depend_on_the_order() -> None:
    items = [*tiny.examples(90, seed=7), *tiny.lists(90, seed=8)]
    first, second = halves(items), halves(items[::-1])
    prompts = [{item.texts[0].prompt for item in half} for half in first]
    assert not prompts[0] & prompts[1]
    assert {item.id for item in first.probe} == {item.id for item in second.probe}


def test_of_just_enough_held_out_items_some_may_be_lost() -> None:
    # 128 were held out, and of some nothing can be read: 63 and 64 are no reason to stop.
    assert [len(half) for half in halves(held_out_of([1] * 127))] == [63, 64]
    assert [len(half) for half in halves(held_out_of([1] * 112))] == [56, 56]
    with pytest.raises(DataError, match=r"needs 64 in each; there are 55 and 56, and 56 would do"):
        halves(held_out_of([1] * 111))


def test_prompts_with_many_items_do_not_leave_a_half_too_small() -> None:
    # By prompts one half would have 44 items; 32 prompts of three and 32 of one are 128.
    items = held_out_of([3] * 32 + [1] * 32)
    first, second = halves(items)
    assert min(len(first), len(second)) >= 63
    prompts = [{item.texts[0].prompt for item in half} for half in (first, second)]
    assert not prompts[0] & prompts[1]
    assert len(first) + len(second) == 128


def held_out_of(numbers: list[int]) -> list[PlainItem]:
    """Items of one answer: so many of each prompt."""
    return [
        PlainItem(f"{prompt}-{n}", (Text((prompt, 1), (1, n + 2)),))
        for prompt, number in enumerate(numbers)
        for n in range(number)
    ]


def test_the_figure_of_the_probe() -> None:
    falls = torch.arange(101, dtype=torch.float64)
    prompts = torch.arange(101)
    mean = fall_of(falls, prompts, AutomaticBudget())
    assert mean.value == 50
    assert mean.standard_error == pytest.approx(float(falls.std()) / 101**0.5)
    upper = fall_of(falls, prompts, AutomaticBudget(of="quantile", quantile=0.8))
    twice = fall_of(falls.repeat(2), prompts.repeat(2), AutomaticBudget())
    assert twice.standard_error == pytest.approx(mean.standard_error)
    assert upper.value == pytest.approx(80)
    assert upper.standard_error == pytest.approx(100 * (0.8 * 0.2 / 101) ** 0.5, rel=1e-6)


def test_a_budget_per_token(tmp_path: Path) -> None:
    trained(tmp_path, loss=partial(dpo, beta=0.5), budget={"per": "token", "delta": -1.0})
    found = rows(tmp_path)
    assert found[1]["slope"] > 0
    assert found[-1]["regularizer_weight"] > 0
